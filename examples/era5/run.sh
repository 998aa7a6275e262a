#!/bin/sh
# usage: run.sh [FILE.nc] [WORK]; MINUTES shortens the training
set -eu
here=$(dirname "$0")
file=${1:-}
work=${2:-era5-example}
mkdir -p "$work"

if [ -z "$file" ]; then
    file=$work/made-up.nc
    python "$here/make_up.py" "$file"
fi

# the last tenth of the times is for testing
split=$(python "$here/split.py" "$file")
functaconv pack "$file" "$work/train" --stop "${split% *}" --overwrite
functaconv pack "$file" "$work/test" --start "${split#* }" --overwrite

functaconv fit-base "$work/train" "$work/base.safetensors" --recipe "$here/recipe.toml" \
    ${MINUTES:+--minutes "$MINUTES"} --overwrite
functaconv encode "$work/base.safetensors" "$work/test" "$work/fields.zarr" --overwrite
functaconv report "$work/fields.zarr" --against "$work/test" --baseline pca --train "$work/train"

# one file with all times, at twice the resolution, and one at the native one to compare
rm -f "$work/twice.nc" "$work/native.nc"
functaconv render "$work/fields.zarr" "$work/twice.nc" --scale 2
functaconv render "$work/fields.zarr" "$work/native.nc"
python "$here/plot.py" "$file" "$work/native.nc" "$work/twice.nc" "$work/fields.png"
