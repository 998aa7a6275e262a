"""What a command writes: results to stdout, everything else to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from functaconv.data.ignored import ignored_lines


def say(message: str) -> None:
    """A line to stderr. A stderr that is closed is no reason to fail."""
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        pass


def write_json(value: Mapping[str, Any]) -> None:
    """One object on stdout, in one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def write_lines(lines: Iterable[str]) -> None:
    """Results for people, on stdout."""
    for line in lines:
        sys.stdout.write(line + "\n")


def table(rows: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values, aligned; what is None is left out."""
    kept = [(name, str(value)) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in kept), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in kept]


def size(count: float | None) -> str | None:
    """Bytes for people."""
    if count is None:
        return None
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def counted(count: int, noun: str) -> str:
    """`1 item`, `2 items`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def decibels(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} dB"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The numbers of a functaset, for people."""
    from functaconv.modalities import MODALITIES

    ignored = ignored_lines(summary["ignored"])
    latent, psnr, bytes_ = summary["latent"], summary["psnr"], summary["bytes"]
    layout = "x".join(str(part) for part in latent["sites"])
    per_item, raw = bytes_["per_item"], bytes_["raw_per_item"]
    smaller = raw / per_item if per_item else 1.0
    ratio = f"{smaller:.1f} times smaller" if smaller >= 1 else f"{1 / smaller:.1f} times larger"
    pca = summary.get("pca") or {}
    against = summary.get("against") or {}
    spread = " · ".join(
        f"{name} {psnr[name]:.2f}" for name in ("min", "p5", "p50", "p95") if psnr.get(name) is not None
    )
    return table(
        [
            ("items", f"{summary['count']}, failed {summary['failed']}"),
            *(("ignored" if place == 0 else "", line) for place, line in enumerate(ignored)),
            ("solver", f"{summary['solver']}, {counted(summary['steps'], 'step')}"),
            ("latent", f"{latent['numbers']} numbers" + (f" ({layout} sites)" if layout else "")),
            ("PSNR", f"{psnr['mean']:.2f} dB mean of items ({spread})" if psnr["mean"] is not None else "no items"),
            ("", f"{summary['psnr_of_mean_mse']:.2f} dB of the mean error" if psnr["mean"] is not None else None),
            *(line for kind in MODALITIES.values() for line in kind.lines(summary)),
            ("PCA", _pca(pca) if pca else None),
            ("against the data", _against(against) if against else None),
            ("seams", _seams(summary["seams"]) if summary.get("seams") is not None else None),
            ("bytes per item", f"{per_item:.0f}, raw {raw:.0f} ({ratio})" if per_item else None),
            ("store, base", f"{size(bytes_['store'])}, {size(bytes_['base'])}"),
            ("speed", f"{summary['items_per_second']:.1f} items/s" if summary.get("items_per_second") else None),
        ]
    )


def by_numbers_lines(summary: Mapping[str, Any]) -> list[str]:
    """What fewer numbers are worth, where that was measured, for people."""
    found = {keep: value for keep, value in summary.get("psnr_by_numbers", {}).items() if value is not None}
    lines = [f"  {value:6.2f} dB  {counted(int(keep), 'number')}" for keep, value in found.items()]
    return ["", "with only the first numbers of each site", *lines] if lines else []


def _seams(seams: float) -> str:
    return f"{seams:.3f} times the steps elsewhere, where cells meet or end in renders of 4 times the size"


def _pca(pca: Mapping[str, Any]) -> str:
    from functaconv.modalities import MODALITIES

    if pca.get("psnr") is None:
        return f"not measured: {pca.get('reason')}"
    text = f"{pca['psnr']:.2f} dB with as many numbers: we are {abs(pca['difference']):.2f} dB "
    text += "above" if pca["difference"] >= 0 else "below"
    text += "".join(f"; {kind.agreement_text(pca)}" for kind in MODALITIES.values() if kind.agreement_text(pca))
    if pca.get("psnr_per_patch") is not None:
        text += f"; per patch {pca['psnr_per_patch']:.2f} dB"
    return text


def _against(against: Mapping[str, Any]) -> str:
    return (
        f"{against['psnr_mean']:.2f} dB over {against['items']} items, "
        f"at most {against['largest_difference_db']:.4f} dB from what is stored"
        if against.get("psnr_mean") is not None
        else f"{against['items']} items compared"
    )
