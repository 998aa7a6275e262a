"""Arrays of one to three axes, with channels or without: all data of no other modality."""

from collections.abc import Sequence
from typing import Literal

from functaconv.data.items import Item
from functaconv.errors import UsageError
from functaconv.modalities.modality import PLAIN, Axes, ChannelAxis, Modality, as_array
from functaconv.signals.signal import Signal

# length of the last axis up to which it is taken for channels
MOST_CHANNELS = 4


class Array(Modality):
    """Arrays of one or two axes have no channel axis. Of three or four the last holds the channels when it is at most 4
    long; otherwise three axes are a volume.
    """

    name = PLAIN
    plural = "arrays"
    one = "an array"
    preset = "arrays"

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes:  # noqa: ARG002 - all are arrays
        shape = items[0].array.shape
        place: Literal["last", "first", "none"]
        if channel_axis != "auto":
            place = channel_axis
        elif items[0].has_bands or len(shape) == 4 or (len(shape) == 3 and shape[-1] <= MOST_CHANNELS):
            place = "last"
        else:
            place = "none"
        dims = len(shape) - (place != "none")
        if not 1 <= dims <= 3:
            raise UsageError(
                f"the arrays have shape {shape}: with channels {place!r} that leaves {dims} grid axes, not 1 to 3",
                hint="say where the channels are: --set data.channel_axis=first, last or none",
            )
        channels = {"last": shape[-1], "first": shape[0], "none": 1}[place]
        return Axes(self.name, dims, channels, place, items[0].array.dtype.itemsize)

    def to_signal(self, item: Item, axes: Axes) -> Signal:
        return super().to_signal(as_array(item), axes)
