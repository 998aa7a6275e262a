"""Settings as they are written: recipe files, `--set`, `--latent`, and the page of all."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from functaconv.errors import InputError, UsageError, lookup
from functaconv.options import adapter
from functaconv.recipe import TABLES, Recipe, sections

# bytes of a recipe file
MOST_TOML = 1 << 20


def from_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file; a top-level `preset` names what they start from."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TOML + 1)
        if len(content) > MOST_TOML:
            raise InputError(f"{path} has more than {MOST_TOML} bytes", hint="a recipe is a TOML file")
        settings = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}", hint="a recipe is a TOML file") from None
    # an integer without end is a ValueError, brackets without end exhaust the stack
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}", hint="a recipe is a TOML file") from None
    for section, values in settings.items():
        for name in values if isinstance(values, dict) else ():
            _check_name(f"{section}.{name}")
    return settings


def _check_name(setting: str) -> None:
    names = ["name", *(f"{section}.{field.name}" for section, options in sections() for field in fields(options))]
    lookup(dict.fromkeys(names), setting, what="setting")


def assignment(text: str) -> dict[str, Any]:
    """`training.rate=1e-4` as nested tables; the value is TOML, or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"cannot read the setting {text!r}", hint="write it as --set training.rate=1e-4")
    _check_name(key.strip())
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def latent_of(text: str) -> dict[str, Any]:
    """`256`, or `8x8x16` (sites along each axis, then numbers per site), as settings."""
    try:
        parts = [int(part) for part in text.lower().split("x")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 4 or min(parts) < 1:
        raise UsageError(f"cannot read the latent {text!r}", hint="write 256, or 8x8x16 for 8 x 8 sites of 16 numbers")
    return {"latent": {"numbers": parts[-1], "sites": parts[:-1]}}


@dataclass(frozen=True)
class Setting:
    """A setting of a recipe, as it is shown to users."""

    name: str
    kind: str
    """of the network or solver that has it; empty where all recipes have it"""
    default: str
    allowed: str
    meaning: str


def all_settings() -> Iterator[Setting]:
    """Every setting there is, from the dataclasses of the options."""
    for section, options in sections():
        schema = adapter(options).json_schema()
        for field in fields(options):
            about = schema["properties"][field.name]
            kind = str(schema["properties"]["kind"]["const"]) if section in TABLES else ""
            if field.name == "kind":
                yield Setting(
                    f"{section}.kind", kind, _written(kind), _written(kind), _sentence(str(schema["description"]))
                )
            else:
                default = "" if field.default is None else _written(about["default"])
                meaning = _sentence(str(about.get("description", "")))
                yield Setting(f"{section}.{field.name}", kind, default, _allowed(about), meaning)


def settings_of(recipe: Recipe) -> Iterator[tuple[Setting, str]]:
    """The settings of a recipe that are set, with their values."""
    values = recipe.settings()
    for setting in all_settings():
        section, _, name = setting.name.partition(".")
        if setting.kind in ("", values[section].get("kind")) and name in values[section]:
            yield setting, _written(values[section][name])


def settings_page() -> str:
    """A page of all settings, in Markdown."""
    lines = [
        "# Settings of a recipe",
        "",
        "Written by `functaconv recipes --settings`. In a recipe file `training.rate` is `rate` in the table",
        "`[training]`; on the command line it is `--set training.rate=1e-4`. A network and a solver have the",
        "settings of their `kind` only. The defaults are those without a preset; what has none is unset. `name` at",
        "the top names the recipe.",
    ]
    heading = None
    for setting in all_settings():
        section = setting.name.partition(".")[0]
        if heading != (heading := f"## {section}" + (f", kind {setting.kind}" if setting.kind else "")):
            lines += ["", heading, "", "| setting | default | allowed | meaning |", "|---|---|---|---|"]
        cells = (f"`{setting.name}`", setting.default, setting.allowed, setting.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _written(value: object) -> str:
    return json.dumps(value)


def _allowed(about: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in about:
        return " or ".join(_allowed(one) for one in about["anyOf"] if one.get("type") != "null")
    if "enum" in about:
        return ", ".join(_written(value) for value in about["enum"])
    if "prefixItems" in about:
        return "[" + ", ".join(_allowed(one) for one in about["prefixItems"]) + "]"
    if about.get("type") == "array":
        return f"list of at most {about['maxItems']}: {_allowed(about['items'])}"
    if about.get("type") == "boolean":
        return "true, false"
    if about.get("type") == "string":
        return "text"
    low, high = about.get("minimum"), about.get("maximum")
    least = f"{low:.15g} ≤ " if low is not None else f"{about['exclusiveMinimum']:.15g} < "
    most = f" ≤ {high:.15g}" if high is not None else f" < {about['exclusiveMaximum']:.15g}"
    return least + {"integer": "n", "number": "x"}[about["type"]] + most
