"""`functaconv encode`."""

from pathlib import Path
from typing import Annotated

import typer

from functaconv.cli import options
from functaconv.cli.console import summary_lines, table, write_json, write_lines


def command(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The base that fit-base wrote.")],
    shards: Annotated[
        list[str], typer.Argument(metavar="SHARDS...", help="Tars: paths, globs, braces, directories, URLs, -.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.zarr", help="The functaset to write.")],
    steps: Annotated[int | None, typer.Option("--steps", help="Inner steps (default: as trained).", min=1)] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", help="The one the base was learned for.", metavar="NAME")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Items fitted together.", min=1)] = None,
    bits: Annotated[str, typer.Option("--bits", help="float16, float32, or 8.", metavar="BITS")] = "float16",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    channels: Annotated[
        int | None, typer.Option("--channels", help="Images: 1 lets a gray base convert colour.", min=1, max=3)
    ] = None,
    field: options.Field = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    tile: options.Tile = None,
    keep: Annotated[
        int | None, typer.Option("--keep", help="Only the first N numbers of each site (gauss-newton bases).", min=1)
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option("--min-gain", help="An item is done when a step brings less.", metavar="DB")
    ] = None,
    footprint: Annotated[
        str, typer.Option("--footprint", help="A sample is the value at its point, or the mean over its cell: area.")
    ] = "point",
    views: Annotated[int, typer.Option("--views", help="Rows of an item: itself, and augmented views.", min=1)] = 1,
    augment: Annotated[
        str | None, typer.Option("--augment", help="What makes a view, such as flip,crop:4.", metavar="HOW")
    ] = None,
    max_error_rate: Annotated[
        float, typer.Option("--max-error-rate", help="More failed items than this share: exit 3.", min=0, max=1)
    ] = 0.01,
    min_psnr: Annotated[
        float | None, typer.Option("--min-psnr", help="A lower mean PSNR: exit 4.", metavar="DB")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first N records.", min=1)] = None,
    allow_pipe: options.AllowPipe = False,
    workers: options.Workers = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do again what failed, in a functaset that is there.")
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", help="local (also torchrun, SLURM arrays), or ray.", metavar="NAME")
    ] = "local",
    gpus_per_task: Annotated[
        float, typer.Option("--gpus-per-task", help="ray: GPUs of each task, or a part of one.", min=0)
    ] = 0.0,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - main() looks at it
) -> None:
    """Fit a latent per item and write a functaset with its PSNR report. Run again, it goes on."""
    from functaconv.cli.progress import EncodingMeter, Meter
    from functaconv.conversion import EncodeOptions, dry_run, encode
    from functaconv.data.decoders.transform import parse_size

    options = EncodeOptions(
        steps=steps, solver=solver, batch_size=batch_size, bits=bits, device=device, precision=precision,
        channels=channels, field=field, resize=parse_size(resize) if resize else None,
        crop=parse_size(crop) if crop else None, tile=tile, keep=keep, min_gain=min_gain, limit=limit,
        footprint=footprint, views=views, augment=augment,
        max_error_rate=max_error_rate, min_psnr=min_psnr, allow_pipe=allow_pipe, workers=workers,
        engine=engine, gpus_per_task=gpus_per_task, overwrite=overwrite, retry_failed=retry_failed,
    )  # fmt: skip
    if is_dry_run:
        facts = dry_run(base, shards, out, options)
        write_json(facts) if json else write_lines(table(facts.items()))
        return
    with Meter(silent=quiet) as meter:
        encoded = encode(base, shards, out, options, watcher=EncodingMeter(meter))
    if encoded.reported_elsewhere:
        pass
    elif json:
        write_json(encoded.report)
    else:
        write_lines([*table([("functaset", encoded.path)]), *summary_lines(encoded.report)])
    if encoded.complaint is not None:
        raise encoded.complaint
