#!/bin/sh
# usage: run.sh [FOLDER] [WORK]
set -eu
here=$(dirname "$0")
folder=${1:-}
work=${2:-voxels-example}
mkdir -p "$work"

if [ -z "$folder" ]; then
    folder=$work/made-up
    python "$here/make_up.py" "$folder"
fi

functaconv pack "$folder" "$work/shards" --resolution 32 --overwrite
functaconv fit-base "$work/shards" "$work/base.safetensors" --recipe "$here/recipe.toml" --overwrite
functaconv encode "$work/base.safetensors" "$work/shards" "$work/shapes.zarr" --overwrite
functaconv report "$work/shapes.zarr" --against "$work/shards" --baseline pca --train "$work/shards"

rm -rf "$work/surfaces" "$work/previews"
functaconv render "$work/shapes.zarr" "$work/surfaces" --item 0:4 --format obj --scale 2
functaconv render "$work/shapes.zarr" "$work/previews" --item 0:4 --format png
