"""A summary in words, the same on the terminal and on a page."""

from collections.abc import Iterator, Mapping
from typing import Any

from functaconv.data.ignored import ignored_lines
from functaconv.modalities import MODALITIES
from functaconv.words import counted, size


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
    if closed := summary.get("closed_form"):
        yield "closed form", f"{closed['psnr']:.2f} dB on the base's validation items, after {closed['seconds']:.0f} s"
    if pca := summary.get("pca"):
        yield "PCA", _pca(pca)
    if against := summary.get("against"):
        yield "against the data", _against(against)
    if (seams := summary.get("seams")) is not None:
        yield "seams", f"{seams:.3f} times the steps elsewhere, where cells meet or end in renders of 4 times the size"
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
