"""`functaconv demo`."""

from pathlib import Path
from typing import Annotated

import typer

from functaconv.cli import options
from functaconv.cli.console import say, summary_lines, write_json, write_lines


def command(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where everything goes; new, empty, or an earlier demo.")
    ] = Path("functaconv-demo"),
    minutes: Annotated[float, typer.Option("--minutes", help="Time to learn the base.", min=0)] = 0.0,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,  # noqa: ARG001 - main() looks at it
) -> None:
    """The whole pipeline on real photographs that ship with scikit-learn, in under a minute."""
    from functaconv.cli.progress import EncodingMeter, Meter, TrainingMeter
    from functaconv.demonstration import demonstrate

    with Meter(silent=quiet) as meter:
        shown = demonstrate(
            directory, minutes=minutes, device=device, training_watcher=TrainingMeter(meter),
            encoding_watcher=EncodingMeter(meter), announce=(lambda _: None) if quiet else say,
        )  # fmt: skip
    if json:
        write_json(shown.summary)
        return
    write_lines(["", *summary_lines(shown.summary), "", f"pictures: {shown.sheet}", "", "next, on your own data:"])
    write_lines(f"  {line}" for line in shown.next_steps)
