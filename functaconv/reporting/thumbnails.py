"""Small pictures of items: originals from the shards, and reconstructions."""

import numpy as np
import torch

from functaconv.base import Base
from functaconv.functaset.reader import Functaset
from functaconv.joining import Joined
from functaconv.modalities import Axes
from functaconv.signals.batch import Batch
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from functaconv.signals.signal import Signal
from functaconv.summary import Items

# pixels along the longer side: of larger items every second, third, ... pixel is shown
MOST_PIXELS = 192


def can_show(axes: Axes) -> bool:
    """Whether items are pictures: two axes, gray or three channels."""
    return axes.dims == 2 and axes.channels in (1, 3)


def original(signal: Signal, normalizer: Normalizer) -> np.ndarray:
    """An item as the shards have it, uint8 `[row, column, channel]`."""
    step = _step(signal.shape)
    features = normalizer.features(Batch.of([signal], [0])).numpy().reshape(*signal.shape, -1)
    return _painted(features[::step, ::step])


@torch.no_grad()
def reconstruction(functaset: Functaset, items: Items, number: int, base: Base) -> np.ndarray:
    """An item as it is decoded, its tiles joined, uint8 `[row, column, channel]`; only at the points that are shown."""
    first, rows, whole = int(items.first[number]), int(items.rows[number]), tuple(items.shape[number].tolist())
    step = _step(whole)
    if rows > 1:
        joined = Joined.stored(base, functaset, first, rows)
        bands = joined.bands([Grid(whole).axis(axis)[::step] for axis in range(len(whole))])
        return _painted(np.concatenate([features.numpy() for _, features in bands]))
    points = base.geometry.points(functaset.native_grid(first), (slice(None, None, step),) * len(whole))
    latent = torch.from_numpy(functaset.latents(slice(first, first + 1))).reshape(1, -1, base.latent)
    features = base.decode(latent.to(base.device), points.to(base.start)).cpu().numpy()
    return _painted(features.reshape(*(-(-size // step) for size in whole), -1))


def _step(shape: tuple[int, ...]) -> int:
    return -(-max(shape) // MOST_PIXELS)


def _painted(features: np.ndarray) -> np.ndarray:
    return np.asarray(np.nan_to_num(features).clip(0, 1) * 255).round().astype(np.uint8)
