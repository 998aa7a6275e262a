"""`functaconv pack`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from functaconv.cli import options
from functaconv.cli.console import counted, say, size, table, write_json, write_lines


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder of images, npy or npz files, nested or not.")
    ],
    shards_dir: Annotated[
        str, typer.Argument(metavar="SHARDS_DIR", help="A new or empty directory, or - for one tar on stdout.")
    ],
    resize: options.Resize = None,
    crop: options.Crop = None,
    field: options.Field = None,
    items_per_shard: Annotated[int, typer.Option("--items-per-shard", min=1, help="Items in a shard.")] = 10_000,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of the shuffle; -1 keeps the order of the paths.", min=-1)
    ] = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Turn a folder of files into webdataset shards."""
    from functaconv.packing import pack
    from functaconv.sources.images import ImageTransform, parse_size

    transform = None
    if resize or crop:
        transform = ImageTransform(parse_size(resize) if resize else None, parse_size(crop) if crop else None)
    to_stdout = shards_dir == "-"
    summary = pack(
        source, sys.stdout.buffer if to_stdout else Path(shards_dir), field=field, transform=transform,
        items_per_shard=items_per_shard, seed=None if seed < 0 else seed, overwrite=overwrite,
        progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    for failure in summary.failures[: None if verbose else 10]:
        if not quiet:
            say(f"not packed: {failure.path}: {failure.reason}")
    if len(summary.failures) > 10 and not verbose and not quiet:
        say(
            f"... and {len(summary.failures) - 10} more"
            + ("" if to_stdout else f": {Path(shards_dir) / 'failed.jsonl'}")
        )
    facts: dict[str, Any] = {
        "count": summary.count,
        "failed": summary.failed,
        "ignored": dict(summary.ignored),
        "shards": list(summary.shards),
        "bytes": summary.bytes,
        "classes": list(summary.classes),
    }
    if json and not to_stdout:
        write_json(facts)
        return
    where = "one stream" if to_stdout else counted(len(summary.shards), "shard")
    ignored = ", ".join(f"{count} {suffix}" for suffix, count in facts["ignored"].items())
    lines = table(
        [
            ("packed", f"{counted(summary.count, 'item')} in {where}, {size(summary.bytes)}"),
            ("failed", summary.failed or None),
            ("ignored", ignored or None),
            ("classes", len(facts["classes"]) or None),
        ]
    )
    if not to_stdout:
        write_lines(lines)
    elif not quiet:
        for line in lines:
            say(line)
