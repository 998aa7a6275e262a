"""Settings as they are written: recipe files, `--set`, `--latent`, and recipes of earlier versions."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functaconv.errors import InputError, UsageError, lookup
from functaconv.recipe import setting_names

# bytes
MOST_TOML = 1 << 20


def of_earlier(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as bases and trainings of earlier versions hold it, as one of today.

    It had the options of all networks side by side, and those of all solvers, and other names for two settings.
    """
    result = {name: dict(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    for section, another in (("network", "mean_features"), ("solver", "learned_damping")):
        own = result.get(section)
        if isinstance(own, dict) and {another, "depth" if section == "network" else "per_step"} <= own.keys():
            known = _EARLIER.get(str(own.get("kind")), tuple(own))
            result[section] = {name: value for name, value in own.items() if name in ("kind", *known)}
    training = result.get("training")
    if isinstance(training, dict):
        for before, now in (("through", "unrolled_steps"), ("mixing", "mixup")):
            if before in training:
                training[now] = training.pop(before)
    return result


_EARLIER = {
    "siren": ("width", "depth", "w0_first", "w0_hidden", "output_offset", "modulation", "skips", "frequencies"),
    "fourier": ("features", "mean_features"),
    "gradient": ("steps", "per_step", "initial", "limits"),
    "gauss-newton": ("steps", "damping", "learned_damping", "chord"),
}


def from_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file; a top-level `preset` names what they start from."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TOML + 1)
        if len(content) > MOST_TOML:
            raise InputError(f"{path} has more than {MOST_TOML} bytes", hint="a recipe is a TOML file")
        return tomllib.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no recipe file {path}", hint="a recipe is a TOML file") from None
    # an integer without end is a ValueError, brackets without end exhaust the stack
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the recipe {path}: {error}", hint="a recipe is a TOML file") from None


def assignment(text: str) -> dict[str, Any]:
    """`training.rate=1e-4` as nested tables; the value is TOML, or a bare word."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"cannot read the setting {text!r}", hint="write it as --set training.rate=1e-4")
    lookup(dict.fromkeys(setting_names()), key.strip(), what="setting")
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
