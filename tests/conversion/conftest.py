"""Bases of which sixteen items make a block, as when large images were learned from."""

from pathlib import Path

import pytest

from functaconv.checkpoint import base_to_bytes, read_base

BLOCK = 16


def with_small_blocks(base: Path, path: Path) -> Path:
    stored = read_base(base)
    # points of a training item: blocks are smaller where items are larger
    training = {**stored.description.training, "shapes": [[256, 256]]}
    path.write_bytes(base_to_bytes(stored.base, stored.recipe, training))
    return path


@pytest.fixture(scope="session")
def base_file(base_file: Path) -> Path:
    return with_small_blocks(base_file, base_file.with_name("of-small-blocks"))


@pytest.fixture(scope="session")
def spatial_base_file(spatial_base_file: Path) -> Path:
    return with_small_blocks(spatial_base_file, spatial_base_file.with_name("spatial-of-small-blocks"))
