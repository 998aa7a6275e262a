"""The numbers of a functaset: what `encode` writes as report.json and `report` prints."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from functaconv.data.ignored import ignored_lines
from functaconv.metrics import psnr
from functaconv.modalities import MODALITIES, Modality
from functaconv.words import counted, size

PERCENTILES = {"p5": 5, "p50": 50, "p95": 95}


@dataclass(frozen=True)
class Items:
    """The items of a functaset, tiles joined: an item is one or more rows that follow each other."""

    first: NDArray[np.int64]
    """first row of each item, in order"""
    rows: NDArray[np.int64]
    """how many rows each item has"""
    shape: NDArray[np.int64]
    """`[item, axis]`, of the whole item"""
    keys: NDArray[np.object_]
    is_tiled: NDArray[np.bool_]
    points: NDArray[np.float64]
    """`[row]`, how many points each row has"""

    @classmethod
    def of(
        cls,
        keys: NDArray[np.object_] | None,
        shapes: NDArray[np.int32],
        tiles: NDArray[np.int32] | None,
        views: NDArray[np.int32] | None = None,
    ) -> "Items":
        """From the columns of a functaset; without `keys` the items have empty names. Views but the first, the item
        itself, are left out.
        """
        count, points = len(shapes), shapes.astype(np.float64).prod(-1)
        if keys is None:
            keys = np.full(count, "", object)
        if tiles is None:
            first = np.arange(count) if views is None else np.flatnonzero(views == 0)
            ones, shape = np.ones(len(first), np.int64), shapes[first].astype(np.int64)
            return cls(first, ones, shape, keys[first], np.zeros(len(first), bool), points)
        axes = shapes.shape[1]
        origin, whole = tiles[:, :axes], tiles[:, axes:]
        # an item begins with the tile at its origin
        first = np.flatnonzero((origin == 0).all(-1))
        rows = np.diff(np.append(first, count))
        # a name may hold a # itself: only the last one of a cut item is ours
        names = [
            str(key).rpartition("#")[0] if (shape != full).any() else str(key)
            for key, shape, full in zip(keys[first], shapes[first], whole[first], strict=True)
        ]
        return cls(first, rows, whole[first].astype(np.int64), np.array(names, object), rows > 1, points)

    def __len__(self) -> int:
        return len(self.first)

    def mse(self, mse: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean squared error of each item, from that of its rows."""
        if not len(self):
            return np.zeros(0)
        if not self.is_tiled.any():
            return mse[self.first].astype(np.float64)
        weighted = np.add.reduceat(mse.astype(np.float64) * self.points, self.first)
        return np.asarray(weighted / np.add.reduceat(self.points, self.first))


@dataclass(frozen=True)
class Size:
    """Bytes on disk and in memory."""

    store: int
    base: int
    raw: int
    """of the arrays as they were before"""


@dataclass(frozen=True)
class Method:
    """How the latents were fitted, and their shape."""

    solver: str
    steps: int
    sites: tuple[int, ...]
    numbers: int
    """of an item, over all its sites"""


def summarise(
    mse: NDArray[np.float64],
    *,
    failed: int,
    ignored: Mapping[str, int],
    method: Method,
    size: Size,
    items_per_second: float | None,
    measures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report as JSON-ready values, with the `mse` and PSNR (dB) of items; `measures` come from `of_measures`."""
    count = len(mse)
    quality = psnr(mse) if count else np.zeros(0)
    return {
        "count": count,
        "failed": failed,
        "ignored": dict(ignored),
        "solver": method.solver,
        "steps": method.steps,
        "latent": {"sites": list(method.sites), "numbers": method.numbers},
        "psnr": {
            "mean": rounded(quality.mean()) if count else None,
            "min": rounded(quality.min()) if count else None,
            **{name: rounded(np.percentile(quality, at)) if count else None for name, at in PERCENTILES.items()},
        },
        "psnr_of_mean_mse": rounded(float(psnr(mse.mean()))) if count else None,
        **(measures or {}),
        "bytes": {
            "store": size.store,
            "base": size.base,
            "per_item": round(size.store / count, 2) if count else None,
            "raw_per_item": round(size.raw / count, 2) if count else None,
        },
        "items_per_second": rounded(items_per_second),
    }


def of_measures(
    kind: Modality,
    measures: Mapping[str, NDArray[np.float32]],
    variables: Sequence[str] = (),
    units: Sequence[str] = (),
) -> dict[str, Any]:
    """One number for each measure of the modality, or one for each variable, in its units."""
    by_name: dict[str, Any] = {}
    for measure in kind.measures:
        known = measures[measure.name].astype(np.float64)
        if not measure.by_variable:
            by_name[measure.report] = rounded(float(_COMBINE[measure.combine](known))) if len(known) else None
        elif len(known):
            each = _COMBINE[measure.combine](known)
            by_name[measure.report] = {
                variable: _significant(value) for variable, value in zip(variables, each, strict=True)
            }
    if variables:
        by_name["units"] = dict(zip(variables, units, strict=True))
    return by_name


def _mean(known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over items, as the functions below; a variable that an item misses altogether says nothing."""
    return np.asarray(np.where(np.isnan(known), 0.0, known).sum(0) / np.maximum(1, (~np.isnan(known)).sum(0)))


def _largest(known: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.where(np.isnan(known), 0.0, known).max(0))


def _root_mean_square(known: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(_mean(np.square(known))))


_COMBINE = {"mean": _mean, "max": _largest, "rms": _root_mean_square}


def raw_bytes(shapes: NDArray[np.int64], channels: int, itemsize: int) -> int:
    """Bytes of arrays of these shapes, with so many channels of values of `itemsize` bytes."""
    return int(shapes.astype(np.float64).prod(-1).sum() * channels * itemsize)


def _significant(value: float) -> float | None:
    """Physical units may be of any size."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def rounded(value: float | None) -> float | None:
    """To four decimals; None for infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def described(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of everything that a functaset's summary says; a line that goes on has no name."""
    latent, psnr, bytes_ = summary["latent"], summary["psnr"], summary["bytes"]
    yield "items", f"{summary['count']}, failed {summary['failed']}"
    for number, line in enumerate(ignored_lines(summary["ignored"])):
        yield "" if number else "ignored", line
    yield "solver", f"{summary['solver']}, {counted(summary['steps'], 'step')}"
    sites = "x".join(map(str, latent["sites"]))
    yield "latent", f"{latent['numbers']} numbers" + (f" ({sites} sites)" if sites else "")
    if psnr["mean"] is None:
        yield "PSNR", "no items"
    else:
        known = (name for name in ("min", "p5", "p50", "p95") if psnr.get(name) is not None)
        spread = " · ".join(f"{name} {psnr[name]:.2f}" for name in known)
        yield "PSNR", f"{psnr['mean']:.2f} dB mean of items ({spread})"
        yield "", f"{summary['psnr_of_mean_mse']:.2f} dB of the mean error"
    for kind in MODALITIES.values():
        yield from kind.lines(summary)
    if (closed := summary.get("closed_form")) and closed["psnr"] is not None:
        yield "closed form", f"{closed['psnr']:.2f} dB on the base's validation items, after {closed['seconds']:.0f} s"
    if pca := summary.get("pca"):
        yield "PCA", _pca(pca)
    if against := summary.get("against"):
        yield "against the data", _against(against)
    if (seams := summary.get("seams")) is not None:
        yield (
            "seams",
            f"{seams:.3f} times the steps elsewhere, where cells or tiles meet or end in renders of 4 times the size",
        )
    if per_item := bytes_["per_item"]:
        raw = bytes_["raw_per_item"]
        ratio = f"{raw / per_item:.1f} times smaller" if raw >= per_item else f"{per_item / raw:.1f} times larger"
        yield "bytes per item", f"{per_item:.0f}, raw {raw:.0f} ({ratio})"
    yield "store, base", f"{size(bytes_['store'])}, {size(bytes_['base'])}"
    if speed := summary.get("items_per_second"):
        yield "speed", f"{speed:.1f} items/s"


def _pca(pca: Mapping[str, Any]) -> str:
    if pca.get("psnr") is None:
        return f"not measured: {pca.get('reason')}"
    text = f"{pca['psnr']:.2f} dB with as many numbers: we are {abs(pca['difference']):.2f} dB "
    text += "above" if pca["difference"] >= 0 else "below"
    text += "".join(f"; {kind.agreement_text(pca)}" for kind in MODALITIES.values() if kind.agreement_text(pca))
    if pca.get("psnr_per_patch") is not None:
        text += f"; per patch {pca['psnr_per_patch']:.2f} dB"
    return text


def _against(against: Mapping[str, Any]) -> str:
    if against.get("psnr_mean") is None:
        return f"{against['items']} items compared"
    text = f"{against['psnr_mean']:.2f} dB over {against['items']} items, "
    text += f"at most {against['largest_difference_db']:.4f} dB from what is stored"
    lonely = f"; {against['missing']} in the shards only, {against['extra']} here only"
    return text + (lonely if against["missing"] or against["extra"] else "")
