"""All that can be asked of a packing."""

from dataclasses import asdict, dataclass
from typing import Any

from functaconv.data.decoders.transform import ImageTransform
from functaconv.data.grids import EVERYTHING, FieldChoice
from functaconv.data.meshes import MOST_RESOLUTION
from functaconv.errors import UsageError
from functaconv.packing.selection import parse_packed_field

# at a few kilobytes an image some tens of megabytes: big enough to read at speed, small enough to share out
ITEMS_PER_SHARD = 10_000


@dataclass(frozen=True)
class PackOptions:
    """All that can be asked of `pack`: in Python, on the command line, and as pack.json says it was."""

    field: str | None = None
    """only files of one suffix (`png`, `solid.binvox`, `npz:NAME`); of a source with several kinds it has to choose"""
    transform: ImageTransform | None = None
    """of images; one that it changes is written anew (png; float tiff)"""
    resolution: int | None = None
    """voxels per side of a mesh"""
    choice: FieldChoice = EVERYTHING
    """of grids, which variables, times and levels"""
    items_per_shard: int = ITEMS_PER_SHARD
    seed: int | None = 0
    """shuffles the files, so that neighbours in a folder are not neighbours in training; None keeps their order"""
    split_axis: int | None = None
    """each place along this axis of an array (npy, npz) is an item"""
    labels: bool | str | None = None
    """whether there is a class per sub-folder; None: if every file lies in one. With `split_axis` the name of a file,
    or `npz:NAME`, that holds a number for each item"""
    max_error_rate: float = 0.01
    """the share of items that may fail without a complaint"""
    workers: int | None = None
    """decoding threads; None: as many as there are cores"""
    overwrite: bool = False
    """replace what an earlier run left in the target"""

    def __post_init__(self) -> None:
        if self.items_per_shard < 1:
            raise UsageError(f"items per shard: expected 1 or more, found {self.items_per_shard}")
        if self.resolution is not None and not 1 <= self.resolution <= MOST_RESOLUTION:
            raise UsageError(
                f"a resolution of {self.resolution} voxels per side", hint=f"choose 1 to {MOST_RESOLUTION}"
            )
        if self.split_axis is not None and self.split_axis < 0:
            raise UsageError(f"an axis {self.split_axis}", hint="axes are counted from 0")
        if isinstance(self.labels, str) and self.split_axis is None:
            raise UsageError(f"labels {self.labels} are for the items of an array", hint="add --split-axis 0")

    @property
    def by_folder(self) -> bool | None:
        """Whether sub-folders are classes."""
        return None if isinstance(self.labels, str) else self.labels

    @property
    def array(self) -> str | None:
        """The array of an npz that was chosen."""
        return None if self.field is None else parse_packed_field(self.field)[1]

    @property
    def settings(self) -> dict[str, Any]:
        """Those of which the shards depend, as JSON."""
        without_effect = ("max_error_rate", "workers", "overwrite")
        return {name: value for name, value in asdict(self).items() if name not in without_effect}
