"""A report as a table for spreadsheets, or as one web page that needs no other file."""

import base64
import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from functaconv.checkpoint import base_of
from functaconv.errors import imported
from functaconv.files import replace_bytes
from functaconv.reporting.result import ItemQuality, Report
from functaconv.reporting.thumbnails import can_show, reconstruction
from functaconv.summary import described

WORST, BEST = 16, 8
BINS = 40
INK, ACCENT, MUTED = "#1f2933", "#2f6f9f", "#7b8794"


def to_csv(report: Report, path: Path | str) -> None:
    """One line per item, in the order of the functaset."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = dict(_measures(report))
    compared = report.items.found_psnr is not None
    writer.writerow(["key", "label", "psnr", "mse", "shape", *measures, *(["psnr_against"] if compared else [])])
    for item in report.items:
        recomputed = "" if item.found_psnr is None else f"{item.found_psnr:.4f}"
        row = [item.key, item.label, f"{item.psnr:.4f}", f"{item.mse:.8g}", "x".join(map(str, item.shape))]
        row += [f"{values[item.number]:.6g}" for values in measures.values()]
        writer.writerow([*row, recomputed] if compared else row)
    replace_bytes(Path(path), text.getvalue().encode("utf-8"))


def _measures(report: Report) -> Iterator[tuple[str, np.ndarray]]:
    """What the items are judged by besides, by column: a measure by variable has one for each."""
    functaset, rows = report.functaset, report.items.items.first
    variables = functaset.attributes.variables
    for name in functaset.layout.kind.measure_names:
        values = functaset.measure(name)[rows]
        if values.ndim == 1:
            yield name, values
        else:
            yield from ((f"{name}_{variable}", values[:, place]) for place, variable in enumerate(variables))


def to_html(report: Report, path: Path | str) -> None:
    """A page with the summary, the distribution of PSNR, and pictures of the worst and best items."""
    # both are needed, said before any work
    jinja2, _ = (imported(package, "report", "a page") for package in ("jinja2", "matplotlib"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text("utf-8"))
    shown = report.worst(WORST)
    # in a handful of items the best are among the worst
    best = [item for item in report.best(BEST) if item.number not in {other.number for other in shown}]
    pictures = _reconstructions(report, [*shown, *best])
    page = template.render(
        name=report.functaset.path.resolve().name,
        complaint=None if report.complaint is None else str(report.complaint),
        tiles=list(_tiles(report)),
        rows=list(described(report.summary)),
        by_numbers=[(keep, _decibel(value)) for keep, value in report.summary.get("psnr_by_numbers", {}).items()],
        histogram=_histogram(report.items.psnr),
        galleries=[
            ("Worst items", [_card(item, report, pictures) for item in shown]),
            ("Best items", [_card(item, report, pictures) for item in best]),
        ]
        if pictures
        else [],
        worst=[] if pictures else shown,
        compared=bool(report.originals),
        version=report.functaset.attributes.tool_version,
    )
    replace_bytes(Path(path), page.encode("utf-8"))


@dataclass(frozen=True)
class Card:
    """An item as the page shows it."""

    item: ItemQuality
    reconstruction: str
    original: str | None
    """data URLs"""


def _reconstructions(report: Report, items: list[ItemQuality]) -> dict[int, np.ndarray]:
    base = base_of(report.functaset)
    if not can_show(base.axes):
        return {}
    return {it.number: reconstruction(report.functaset, report.items.items, it.number, base) for it in items}


def _card(item: ItemQuality, report: Report, pictures: Mapping[int, np.ndarray]) -> Card:
    original = report.originals.get(item.number)
    return Card(item, _picture(pictures[item.number]), None if original is None else _picture(original))


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    """The few numbers to see first."""
    summary = report.summary
    size = summary["bytes"]
    yield "mean PSNR", _decibel(summary["psnr"]["mean"])
    yield "items", f"{summary['count']:,}"
    yield "failed", f"{summary['failed']:,}"
    yield "numbers per item", f"{summary['latent']['numbers']:,}"
    if size["per_item"]:
        yield "bytes per item", f"{size['per_item']:,.0f}"
        yield "raw size to stored", f"{size['raw_per_item'] / size['per_item']:.1f} : 1"


def _histogram(psnr: np.ndarray) -> str | None:
    finite = psnr[np.isfinite(psnr)]
    if not len(finite):
        return None
    # not pyplot: its figures live on, and a report may be written in a thread
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.hist(finite, bins=min(BINS, max(5, len(finite) // 4)), color=ACCENT, edgecolor="white", linewidth=0.6)
    mean = float(finite.mean())
    axes.axvline(mean, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.annotate(
        f"mean {mean:.2f} dB", (mean, 1), xycoords=("data", "axes fraction"), xytext=(6, -4),
        textcoords="offset points", va="top", color=INK, fontsize=9,
    )  # fmt: skip
    # room for the mean's label above the bars
    axes.margins(y=0.16)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("PSNR (dB)", color=INK)
    axes.set_ylabel("items", color=INK)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cbd2d9")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=160)
    return _data_url(content.getvalue())


def _picture(picture: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(content, "png")
    return _data_url(content.getvalue())


def _data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _decibel(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f} dB"
