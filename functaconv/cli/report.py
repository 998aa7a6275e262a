"""`functaconv report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from functaconv.cli import options
from functaconv.cli.console import by_numbers_lines, summary_lines, write_json, write_lines


def command(
    functaset: Annotated[Path, typer.Argument(metavar="FUNCTASET", help="A functaset, OUT.zarr of encode.")],
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Recompute the errors from these shards.", metavar="SHARDS"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="pca: with as many numbers, on the same items.", metavar="NAME")
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option("--train", help="Shards that PCA is fitted on.", metavar="SHARDS")
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option("--min-psnr", help="A lower mean PSNR: exit 4.", metavar="DB")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.", metavar="FILE")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a line per item.", metavar="FILE")] = None,
    allow_pipe: options.AllowPipe = False,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Quality, size and speed of a functaset, and its worst items."""
    from functaconv.reporting import report, to_csv, to_html

    result = report(
        functaset, against=against or None, train=train or None, baseline=baseline, min_psnr=min_psnr,
        allow_pipe=allow_pipe, device=device, progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if csv is not None:
        to_csv(result, csv)
    if html is not None:
        to_html(result, html)
    if json:
        write_json(result.summary)
    else:
        write_lines([*summary_lines(result.summary), *by_numbers_lines(result.summary)])
        worst = result.worst(20 if verbose else 5)
        write_lines(["", "worst items"] if worst else [])
        write_lines(f"  {item.psnr:6.2f} dB  {item.key}" for item in worst)
    if result.complaint is not None:
        raise result.complaint
