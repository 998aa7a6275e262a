"""Measures of loss: pure functions of errors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Steps = tuple[NDArray[np.float64], NDArray[np.float64]]
"""sums of absolute steps at several kinds of places, and how many there are; every second kind is what the one before
it is compared with"""

# that counts: float32 has no smaller ones of values near 1
LEAST_MSE = 1e-10
# pixels along a cell: with fewer there is no place between its border and its centre
LEAST_PIXELS = 3
# pixels: what a border of tiles is compared with
NEXT_TO = 2


def psnr(mse: ArrayLike) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of mean squared errors in units of the squared peak.

    An exact item has 100 dB, so that a mean over items is one.
    """
    return -10.0 * np.log10(np.maximum(np.asarray(mse, np.float64), LEAST_MSE))


def seams(enlarged: NDArray[np.floating], sites: tuple[int, int], scale: int) -> Steps:
    """How much items `[item, row, column, channel]`, rendered at `scale` times their size, change across the borders of
    cells, beside what they change elsewhere: sums of absolute steps at four kinds of places, and how many there are.

    The places are cell borders, other places where two pixels meet, cell centres (where windows end), and other places
    as far from a pixel's border as those. Every interpolation is steepest at pixel borders, so only places with the
    same position within a pixel are compared. An axis counts where a cell is a whole number of pixels, three at least.
    `seam_ratio` makes one number of it.
    """
    sums, counts = np.zeros(4), np.zeros(4)
    for axis in (0, 1):
        size, remainder = divmod(enlarged.shape[1 + axis], scale * sites[axis])
        if sites[axis] < 2 or remainder or size < LEAST_PIXELS:
            continue
        steps = np.abs(np.diff(np.asarray(enlarged, np.float64), axis=1 + axis))
        steps = steps.mean(axis=(0, 2 - axis, 3))
        # in sub-pixels, from the beginning of a cell
        place = np.arange(1, len(steps) + 1) % (size * scale)
        half = size * scale / 2
        is_border, is_centre = place == 0, place == half
        others = (
            (place % scale == 0) & ~is_border & ~is_centre,
            (place % scale == half % scale) & ~is_border & ~is_centre,
        )
        for kind, chosen in enumerate((is_border, others[0], is_centre, others[1])):
            sums[kind] += steps[chosen].sum()
            counts[kind] += chosen.sum()
    return sums, counts


def steps_across(enlarged: NDArray[np.floating], axis: int, overlap: tuple[int, int], scale: int) -> Steps:
    """How much an item `[row, column, channel]`, rendered at `scale` times its size, changes along an axis where two
    tiles overlap, from one of its pixels to another: where that begins and ends, beside pixels next to these; and in
    its middle, beside pixels next to the whole of it. Of a pixel only its border counts.
    """
    steps = np.abs(np.diff(np.asarray(enlarged, np.float64), axis=axis)).mean(axis=(1 - axis, 2))[scale - 1 :: scale]
    (start, stop), at = overlap, np.arange(1, len(steps) + 1)
    to_ends = np.minimum(abs(at - start), abs(at - stop))
    kinds = (
        to_ends == 0,
        (to_ends > 0) & (to_ends <= NEXT_TO),
        abs(2 * at - start - stop) <= 1,
        ((at < start) | (at > stop)) & (to_ends <= NEXT_TO),
    )
    return np.array([steps[kind].sum() for kind in kinds]), np.array([float(kind.sum()) for kind in kinds])


def seam_ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float | None:
    """Mean step across borders, or through centres, relative to those elsewhere: the larger. 1 without seams; None
    where nothing could be compared.
    """
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    # a mean that is missing is not above 0
    ratios = [ours / others for ours, others in zip(means[::2], means[1::2], strict=True) if ours >= 0 and others > 0]
    return float(max(ratios)) if ratios else None
