"""Where and when the grids of a block are, as a functaset keeps it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from functaconv.errors import ItemError
from functaconv.functaset.blocks import Grids
from functaconv.functaset.grids import GridTable
from functaconv.functaset.schema import NO_TIME
from functaconv.signals.batch import Signal


def grids_of(signals: Sequence[Signal]) -> Grids:
    """Axes and masks, each once, and the time of every item."""
    table = GridTable()
    grid, mask = np.full((2, len(signals)), -1, np.int32)
    time = np.full(len(signals), NO_TIME, np.int64)
    for row, signal in enumerate(signals):
        assert signal.globe is not None
        grid[row] = table.number(np.array(signal.globe.latitude), np.array(signal.globe.longitude))
        mask[row] = table.mask_number(int(grid[row]), None if signal.valid is None else ~signal.valid)
        seconds = seconds_of(signal.attributes or {})
        if seconds is not None:
            time[row] = seconds
    return Grids(table, grid, mask, time)


def seconds_of(attributes: Mapping[str, Any]) -> int | None:
    """Seconds since 1970 of the `time` that a grid's json gives in ISO 8601; None for none, or another calendar's.

    One that its offset carries out of the years 1 to 9999 is an ItemError.
    """
    text = attributes.get("time")
    if not isinstance(text, str) or str(attributes.get("calendar", "standard")) not in (
        "standard", "gregorian", "proleptic_gregorian",
    ):  # fmt: skip
        return None
    try:
        found = datetime.fromisoformat(text)
        return int((found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except ValueError:
        return None
    except OverflowError:
        raise ItemError(f"json: expected a time in the years 1 to 9999, found {text}") from None
