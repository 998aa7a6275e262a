"""`functaconv render`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from functaconv.cli import options
from functaconv.cli.console import say, write_json
from functaconv.errors import UsageError
from functaconv.words import counted


def command(
    functaset: Annotated[Path, typer.Argument(metavar="FUNCTASET", help="A functaset, OUT.zarr of encode.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A file, a directory, a .tar, or - for stdout.")],
    item: Annotated[
        list[str] | None,
        typer.Option("--item", help="INDEX, or START:STOP (half open); repeatable.", metavar="ITEMS"),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="An item by its key; repeatable.", metavar="KEY")
    ] = None,
    between: Annotated[
        str | None,
        typer.Option("--between", help="The way between two items (numbers or keys): a .png or .gif.", metavar="A,B"),
    ] = None,
    frames: Annotated[int, typer.Option("--frames", help="Pictures on the way --between two items.", min=2)] = 8,
    size: Annotated[str | None, typer.Option("--size", help="Points along each axis: HxW.", metavar="SIZE")] = None,
    scale: Annotated[float | None, typer.Option("--scale", help="Times the native size.", metavar="S")] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            help="y0:y1,x0:x1 in the unit square; beyond 0..1 extrapolates. Grids: south:north,west:east in degrees.",
            metavar="REGION",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", help="Grids: the latitudes and longitudes of another file.", metavar="FILE.nc"),
    ] = None,
    mask: Annotated[
        bool, typer.Option("--mask/--no-mask", help="Grids: NaN where the input was, or values there, too.")
    ] = True,
    format: Annotated[  # noqa: A002 - the option's name
        str | None,
        typer.Option("--format", help="png, npy, npz; voxels binvox, obj; grids nc, zarr.", metavar="FORMAT"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of the same names, or a store that render made.")
    ] = False,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - main() looks at it
) -> None:
    """Decode items at any size or place."""
    from functaconv.rendering import RenderOptions, View, ends_of, grid_of_file, region_of, render, size_of

    if size is not None and scale is not None:
        raise UsageError("--size and --scale contradict each other", hint="give one of them")
    if scale is not None and not 0 < scale < 1e6:
        raise UsageError(f"--scale must be above 0, not {scale:g}", hint="--scale 2 doubles the native size")
    if like is not None and (size, scale, region) != (None, None, None):
        raise UsageError("--like is a whole grid", hint="leave --size, --scale and --region out")
    view = View(
        size_of(size) if size else None,
        scale or 1.0,
        region_of(region) if region else None,
        None if like is None else grid_of_file(like),
    )
    options = RenderOptions(
        items=item, keys=key or (), between=ends_of(between) if between else None, frames=frames, view=view,
        format=format, masked=mask, overwrite=overwrite, device=device,
    )  # fmt: skip
    rendered = render(functaset, out, options, progress=not quiet and out != "-" and sys.stderr.isatty())
    if json and out != "-":
        write_json({"count": rendered.count, "path": rendered.path, "files": list(rendered.files)})
    elif not quiet:
        say(f"rendered {counted(rendered.count, 'frame' if between else 'item')} to {'stdout' if out == '-' else out}")
