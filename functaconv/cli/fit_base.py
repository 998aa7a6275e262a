"""`functaconv fit-base`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from functaconv.cli import options
from functaconv.cli.console import decibels, table, write_json, write_lines
from functaconv.words import counted


def command(
    shards: Annotated[list[str], typer.Argument(metavar="SHARDS...", help="Tars: paths, globs, braces, directories.")],
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The base to write, BASE.safetensors.")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="images, voxels, grids, arrays (sized for the data); published: functa-cifar10, functa-celeba64, "
            "functa-shapenet64, functa-era5, spatial-cifar10, spatial-imagenet256.",
            metavar="NAME",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Settings from a TOML file.", metavar="FILE.toml")
    ] = None,
    set: Annotated[  # noqa: A002 - the option's name
        list[str] | None,
        typer.Option("--set", help="One setting, such as training.rate=1e-4; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    latent: Annotated[
        str | None, typer.Option("--latent", help="256, or 8x8x16 for 8 x 8 sites of 16.", metavar="SHAPE")
    ] = None,
    solver: Annotated[str | None, typer.Option("--solver", help="gauss-newton or gradient.", metavar="NAME")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Outer updates.", min=1)] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Wall clock of learning; 0: closed form only.", min=0)
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Items in an update.", min=1)] = None,
    seed: options.Seed = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    val: Annotated[
        list[str] | None, typer.Option("--val", help="Validation shards (default: runs of 2%).", metavar="SHARDS")
    ] = None,
    field: options.Field = None,
    channels: Annotated[
        int | None, typer.Option("--channels", help="Images: 1 for gray, 3 for RGB.", min=1, max=3)
    ] = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    tile: options.Tile = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Keep the progress as JSON lines.", metavar="FILE.jsonl")
    ] = None,
    workers: options.Workers = None,
    allow_pipe: options.AllowPipe = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - main() looks at it
) -> None:
    """Meta-learn the shared base network. Stopped and started again, it goes on."""
    from functaconv.cli.progress import Meter, TrainingMeter
    from functaconv.data.decoders.transform import parse_size
    from functaconv.documents import merged
    from functaconv.engines.ranks import trainers
    from functaconv.settings import assignment
    from functaconv.training import FitOptions, fit_base

    settings: dict[str, Any] = {}
    for text in set or ():
        settings = merged(settings, assignment(text))
    asked = FitOptions(
        preset=preset, recipe=recipe, settings=settings, latent=latent, solver=solver, steps=steps, minutes=minutes,
        batch_size=batch_size, seed=seed, device=device, precision=precision, validation=val, field=field,
        channels=channels, resize=parse_size(resize) if resize else None, crop=parse_size(crop) if crop else None,
        tile=tile, log=log, workers=workers, allow_pipe=allow_pipe, overwrite=overwrite,
    )  # fmt: skip
    # of several ranks one prints
    is_first = trainers().is_first
    with Meter(silent=quiet or not is_first) as meter:
        trained = fit_base(shards, base, asked, watcher=TrainingMeter(meter))
    if json and is_first:
        write_json(trained.to_json())
    if json or not is_first:
        return
    facts = trained.to_json()
    updates, closed_form = counted(facts["updates"], "update"), facts["closed_form"]
    write_lines(
        table(
            [
                ("base", facts["base"]),
                ("recipe", f"{facts['recipe']}, {facts['network']} network, {facts['solver']} solver"),
                ("latent", "x".join(map(str, [*facts["latent"]["sites"], facts["latent"]["numbers"]]))),
                ("trained", f"{updates} in {facts['seconds']:.0f} s on {counted(facts['items'], 'item')}"),
                ("left out", counted(facts["unusable"], "record") if facts["unusable"] else None),
                (
                    "closed form",
                    " ".join(filter(None, [decibels(closed_form["psnr"]), f"after {closed_form['seconds']:.0f} s"])),
                ),
                ("validation", f"{decibels(trained.psnr)} over {counted(facts['validation_items'], 'item')}"),
            ]
        )
    )
