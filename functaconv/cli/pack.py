"""`functaconv pack`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from functaconv.cli import options
from functaconv.cli.console import say, table, write_json, write_lines
from functaconv.errors import UsageError
from functaconv.words import counted, size

if TYPE_CHECKING:
    from functaconv.packing import PackPlan

# failures that are printed without --verbose
MOST_TOLD = 10


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder, nested or not, or a zip archive of images, npy, npz, binvox, mesh, NetCDF or GRIB files; "
            "one NetCDF or GRIB file; a zarr store, or its URL.",
        ),
    ],
    shards_dir: Annotated[
        str | None, typer.Argument(metavar="SHARDS_DIR", help="A new or empty directory, or - for one tar on stdout.")
    ] = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    field: options.Field = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Meshes (off, obj, stl): voxels per side.", metavar="N")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option("--variable", help="Grids: a variable, by name; repeatable. All by default.", metavar="NAME"),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Grids: the first time, such as 2019-03 or later.", metavar="TIME")
    ] = None,
    stop: Annotated[str | None, typer.Option("--stop", help="Grids: the last time.", metavar="TIME")] = None,
    stride: Annotated[int, typer.Option("--stride", help="Grids: every Nth time.", metavar="N", min=1)] = 1,
    level: Annotated[
        list[float] | None, typer.Option("--level", help="Grids: a level, in the file's units; repeatable.")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="NetCDF, zarr: the group that holds the fields.", metavar="PATH")
    ] = None,
    split_axis: Annotated[
        int | None,
        typer.Option("--split-axis", help="Arrays (npy, npz): each place on this axis is an item.", min=0, metavar="N"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="With --split-axis: a file, or npz:NAME, with a class for each.", metavar="NAME"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be read, and read no value.")] = False,
    items_per_shard: Annotated[int, typer.Option("--items-per-shard", min=1, help="Items in a shard.")] = 10_000,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of the shuffle; -1 keeps the order of the paths.", min=-1)
    ] = 0,
    max_error_rate: Annotated[
        float, typer.Option("--max-error-rate", help="More failed items than this share: exit 3.", min=0, max=1)
    ] = 0.01,
    workers: options.Workers = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn a folder of files into webdataset shards."""
    from functaconv.data.decoders.transform import ImageTransform, parse_size
    from functaconv.data.grids import FieldChoice
    from functaconv.data.ignored import ignored_lines
    from functaconv.packing import PackOptions, pack, plan

    transform = None
    if resize or crop:
        transform = ImageTransform(parse_size(resize) if resize else None, parse_size(crop) if crop else None)
    choice = FieldChoice(tuple(variable or ()), start, stop, stride, tuple(level or ()), group)
    wanted = PackOptions(
        field, transform, resolution, choice, items_per_shard, None if seed < 0 else seed, split_axis,
        labels, max_error_rate, workers, overwrite,
    )  # fmt: skip
    if dry_run:
        _tell(plan(source, wanted), json)
        return
    if shards_dir is None:
        raise UsageError("where do the shards go?", hint="functaconv pack SOURCE SHARDS_DIR")

    to_stdout = shards_dir == "-"
    target = sys.stdout.buffer if to_stdout else Path(shards_dir)
    tell = (lambda _: None) if quiet else say
    summary = pack(source, target, wanted, progress=not quiet and sys.stderr.isatty())
    most = len(summary.failures) if verbose else MOST_TOLD
    for failure in summary.failures[:most]:
        tell(f"not packed: {failure.path}: {failure.reason}")
    if len(summary.failures) > most:
        where = "" if to_stdout else f": {Path(shards_dir) / 'failed.jsonl'}"
        tell(f"... and {len(summary.failures) - most} more{where}")
    for note in summary.notes:
        tell(f"note: {note}")
    where = "one stream" if to_stdout else counted(len(summary.shards), "shard")
    lines = table(
        [
            ("packed", f"{counted(summary.count, 'item')} in {where}, {size(summary.bytes)}"),
            ("failed", summary.failed or None),
            ("classes", len(summary.classes) or None),
            *(("" if number else "ignored", line) for number, line in enumerate(ignored_lines(summary.ignored))),
        ]
    )
    if to_stdout:
        tell("\n".join(lines))
    elif json:
        write_json({**summary.to_json(), "notes": list(summary.notes)})
    else:
        write_lines(lines)
    if summary.complaint is not None:
        raise summary.complaint


def _tell(plan: "PackPlan", json: bool) -> None:
    if json:
        write_json(asdict(plan))
        return
    items = None if plan.items is None else counted(plan.items, "item")
    write_lines(table([("files", plan.files), ("items", items), ("to read", size(plan.bytes))]))
