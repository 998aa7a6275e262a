#!/bin/sh
# usage: run.sh [FOLDER] [WORK]; MINUTES shortens the training
set -eu
here=$(dirname "$0")
folder=${1:-}
work=${2:-images-example}
mkdir -p "$work"

if [ -z "$folder" ]; then
    folder=$work/made-up
    python "$here/make_up.py" "$folder"
fi

functaconv pack "$folder" "$work/shards" --resize 32 --crop 32 --overwrite
functaconv fit-base "$work/shards" "$work/base.safetensors" --recipe "$here/recipe.toml" \
    ${MINUTES:+--minutes "$MINUTES"} --overwrite
functaconv encode "$work/base.safetensors" "$work/shards" "$work/images.zarr" --overwrite
functaconv report "$work/images.zarr" --against "$work/shards" --baseline pca --train "$work/shards"
rm -rf "$work/large"
functaconv render "$work/images.zarr" "$work/large" --item 0:4 --scale 4
python "$here/classify.py" "$work/images.zarr"
