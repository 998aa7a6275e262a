"""Images: gray or colour, values as a fraction of their code range."""

from collections.abc import Sequence

from functaconv.data.items import Item
from functaconv.modalities.modality import Axes, ChannelAxis, Modality


class Image(Modality):
    """RGB unless all of the first images are gray."""

    name = "image"
    plural = "images"
    one = "an image"
    item_kinds = ("image",)
    dims = (2,)
    preset = "images"
    can_transform = True
    has_code_range = True
    usual_format = "png"

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes | None:  # noqa: ARG002 - the decoder knows
        if items[0].kind != "image":
            return None
        channels = max(item.array.shape[-1] for item in items)
        return Axes(self.name, 2, channels, itemsize=items[0].array.dtype.itemsize)

    def conversion_loss(self, item: Item, axes: Axes) -> str:
        return f"{item.key} is a colour image" if item.array.shape[-1] > axes.channels else ""
