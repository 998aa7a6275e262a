"""`functaconv recipes`."""

from typing import Annotated

import typer

from functaconv.cli import options
from functaconv.cli.console import table, write_json, write_lines
from functaconv.words import counted


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A preset; without it all are listed.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Its settings as a recipe file.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="All settings: defaults, values, meaning.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,  # noqa: ARG001 - nothing is said besides the result
    verbose: options.Verbose = False,  # noqa: ARG001 - main() looks at it
) -> None:
    """Presets of fit-base: what each is for, and its settings."""
    from functaconv.errors import UsageError, lookup
    from functaconv.presets import PRESETS
    from functaconv.settings import all_settings, settings_of, settings_page

    if settings and name:
        raise UsageError("--settings shows the settings of all recipes", hint="leave out the name, or --settings")
    if toml and not name:
        raise UsageError("--toml writes one recipe", hint="functaconv recipes images --toml")
    if settings:
        if json:
            write_json({setting.name: vars(setting) for setting in all_settings()})
        else:
            write_lines(settings_page().splitlines())
    elif name is None:
        if json:
            write_json({name: entry.purpose for name, entry in PRESETS.items()})
        else:
            write_lines(table((name, entry.purpose) for name, entry in PRESETS.items()))
    else:
        entry = lookup(PRESETS, name, what="preset")
        recipe = entry.made(entry.example)
        if json:
            write_json(recipe.settings())
            return
        shape = "x".join(map(str, entry.shape))
        sized = f"; sized for {shape} with {counted(entry.channels, 'channel')} on a CPU" if entry.is_sized else ""
        if toml:
            write_lines([f"# {entry.purpose}{sized}", *recipe.to_toml().splitlines()])
            return
        write_lines([f"{name}: {entry.purpose}{sized}", ""])
        write_lines(table((setting.name, value) for setting, value in settings_of(recipe)))
