"""How models take latents: as they are stored, as tokens, or as maps. For numpy arrays and torch tensors alike."""

import math
from typing import Any, Literal

import numpy as np

from functaconv.errors import UsageError, lookup

Form = Literal["grid", "tokens", "map"]
"""`[item, *sites, latent]` as stored, `[item, site, latent]`, or `[item, latent, *sites]`; a global latent has one site
as tokens, and none on the grid or the map
"""

FORMS = {"grid": "item, *sites, latent", "tokens": "item, site, latent", "map": "item, latent, *sites"}


def formed(latents: Any, sites: tuple[int, ...], form: Form) -> Any:
    """Latents `[item, *sites, latent]` in another form."""
    lookup(FORMS, form, what="form of latents")
    tokens = latents.reshape(len(latents), math.prod(sites), latents.shape[-1])
    if form == "tokens":
        return tokens
    if form == "map":
        return tokens.swapaxes(1, 2).reshape(len(latents), latents.shape[-1], *sites)
    return latents


def as_tokens(latents: Any, sites: tuple[int, ...], latent: int, form: Form) -> Any:
    """Latents of a form as `[item, site, latent]`; a UsageError where the shape is not that of this form."""
    lookup(FORMS, form, what="form of latents")
    count = math.prod(sites)
    each = {"grid": (*sites, latent), "tokens": (count, latent), "map": (latent, *sites)}[form]
    if tuple(latents.shape[1:]) != each or latents.ndim != len(each) + 1:
        raise UsageError(
            f"latents of shape {tuple(latents.shape)}; expected [{FORMS[form]}]: (items, {', '.join(map(str, each))})",
            hint=f"say which form they have: {', '.join(FORMS)}",
        )
    if form == "map":
        return latents.reshape(len(latents), latent, count).swapaxes(1, 2)
    return latents.reshape(len(latents), count, latent)


def scaled(latents: Any, mean: np.ndarray, std: np.ndarray, form: Form, sites: tuple[int, ...]) -> tuple[Any, Any]:
    """Mean and deviation of each latent, so shaped and placed that they go with latents of this form."""
    lookup(FORMS, form, what="form of latents")
    shape = (-1, *(1,) * (len(sites) if form == "map" else 0))
    if isinstance(latents, np.ndarray):
        return mean.reshape(shape), std.reshape(shape)
    return latents.new_tensor(mean).reshape(shape), latents.new_tensor(std).reshape(shape)
