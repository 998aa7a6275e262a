"""`functaconv inspect`."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from functaconv.cli import options
from functaconv.cli.console import table, write_json, write_lines
from functaconv.data.ignored import ignored_lines


def command(
    path: Annotated[list[str], typer.Argument(metavar="PATH...", help="A base, a functaset, or shards.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read everything: checksums, counts, every item.")] = False,
    field: options.Field = None,
    allow_pipe: options.AllowPipe = False,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - nothing is said besides the result
    verbose: options.Verbose = False,  # noqa: ARG001 - main() looks at it
) -> None:
    """What a base, a functaset or a set of shards holds, at a glance."""
    from functaconv.inspection import inspect

    inspection = inspect(path[0] if len(path) == 1 else path, verify=verify, field=field, allow_pipe=allow_pipe)
    if json:
        write_json({"kind": inspection.kind, **inspection.facts, "problems": inspection.problems, "verified": verify})
    else:
        write_lines(table([("kind", inspection.kind), *_flat(inspection.facts)]))
        write_lines(f"problem: {problem}" for problem in inspection.problems)
        if verify and not inspection.problems:
            write_lines(["verified: no problem found"])
    if inspection.complaint is not None:
        raise inspection.complaint


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in facts.items():
        if name == "ignored" and isinstance(value, Mapping):
            # the first line says what to do
            yield from ((name if place == 0 else "", line) for place, line in enumerate(ignored_lines(value)))
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name.lstrip('.')}.")
        elif isinstance(value, list):
            shown = ["x".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in value[:8]]
            yield prefix + name.lstrip("."), ", ".join(shown) + (", ..." if len(value) > 8 else "") or None
        else:
            yield prefix + name.lstrip("."), value
