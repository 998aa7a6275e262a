"""Options that several commands share, with one wording."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more; errors with a traceback.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", metavar="NAME")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto (float32), float32, tf32 (GPU), or Jacobians in bfloat16 or float16: faster where matrices are.",
        metavar="NAME",
    ),
]
Field = Annotated[
    str | None,
    typer.Option("--field", help="Suffix of the member that holds the array (png, npy, npz:NAME).", metavar="SUFFIX"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output and begin anew.")]
Resize = Annotated[str | None, typer.Option("--resize", help="Images: short side N, or HxW.", metavar="SIZE")]
Crop = Annotated[
    str | None, typer.Option("--crop", help="Images: then cut N x N, or HxW, out of the centre.", metavar="SIZE")
]
Tile = Annotated[
    int | None,
    typer.Option(
        "--tile",
        help="Cut larger images into tiles of at most this side; encode lets them overlap and blends them.",
        min=8,
    ),
]
AllowPipe = Annotated[bool, typer.Option("--allow-pipe", help="Shards may be pipe:COMMAND, run by the shell.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of all randomness.", min=0)]
Workers = Annotated[int | None, typer.Option("--workers", help="Decoding threads.", min=0)]
