"""All that can be asked of an encoding."""

import math
from dataclasses import dataclass

from functaconv.data.decoders.transform import ImageTransform, Size
from functaconv.errors import UsageError, lookup
from functaconv.functaset.codecs import CODECS
from functaconv.signals.views import MOST_VIEWS, parse_augment

FOOTPRINTS = {"point": "the value at its point", "area": "the mean over its cell"}


@dataclass(frozen=True)
class EncodeOptions:
    """All that can be asked of `encode`: in Python, on the command line, and as the functaset says it was."""

    steps: int | None = None
    """inner steps; None: as trained"""
    solver: str | None = None
    """the one that the base was learned for, or an error"""
    batch_size: int | None = None
    """items fitted together; None: by recipe and kind of device"""
    bits: str = "float16"
    """how latents are stored: float16, float32 or 8"""
    device: str = "auto"
    precision: str = "auto"
    channels: int | None = None
    """of images; 1 lets a gray base convert colour"""
    field: str | None = None
    """the suffix of the member that holds the array; None: as in training"""
    resize: Size | None = None
    crop: Size | None = None
    tile: int | None = None
    """pixels: larger images are cut into tiles of at most this side, which overlap by one site"""
    keep: int | None = None
    """fit and store only the first, most important numbers of every site; for bases learned with gauss-newton"""
    min_gain: float | None = None
    """dB: an item is done when a step brings less, after `steps` at most"""
    footprint: str = "point"
    """what a sample is: the value at a point, or (area) the mean over its cell, as items coarser than those of the
    training are"""
    views: int = 1
    """rows of each item: the item itself, and augmented views of it"""
    augment: str | None = None
    """what makes a view, such as `flip,crop:4`: mirrored or not, then shifted by up to four points"""
    limit: int | None = None
    """only the first so many records"""
    max_error_rate: float = 0.01
    """the share of items that may fail without a complaint"""
    min_psnr: float | None = None
    """dB: a lower mean is a complaint"""
    allow_pipe: bool = False
    workers: int | None = None
    """decoding threads; None: as many as there are cores"""
    engine: str = "local"
    """local or ray"""
    gpus_per_task: float = 0.0
    """ray: GPUs of each task, or a part of one"""
    overwrite: bool = False
    retry_failed: bool = False
    """make the blocks again that hold failures, of a functaset that is there"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.min_gain is not None and not 0 <= self.min_gain < math.inf:
            raise UsageError(
                f"--min-gain must be 0 dB or more, not {self.min_gain:g}",
                hint="leave it out to take every step: --steps",
            )
        lookup(FOOTPRINTS, self.footprint, what="footprint")
        if self.footprint == "area" and self.tile is not None:
            raise UsageError("--footprint area is for items that are fitted as a whole", hint="leave --tile out")
        if not 1 <= self.views <= MOST_VIEWS or (self.views > 1) != (self.augment is not None):
            raise UsageError(
                f"--views ({self.views}) needs --augment ({self.augment or 'none'}), and the other way round",
                hint="as in --views 10 --augment flip,crop:4",
            )
        if self.augment is not None and self.tile is not None:
            raise UsageError("views are of whole items, not of tiles", hint="leave --tile, or --views, out")
        if self.augment is not None:
            parse_augment(self.augment)
        lookup(CODECS, self.bits, what="kind of --bits")

    @property
    def transform(self) -> ImageTransform | None:
        return None if self.resize is None and self.crop is None else ImageTransform(self.resize, self.crop)
