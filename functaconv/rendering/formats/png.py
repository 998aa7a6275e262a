"""Pictures as PNG, values clipped to 0..1."""

import io

from PIL import Image

from functaconv.errors import UsageError
from functaconv.functaset.reader import Functaset
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats.format import Format


class Png(Format):
    """What the modality can draw: gray, or three channels."""

    name = "png"
    takes_features = True

    def check(self, functaset: Functaset) -> None:
        super().check(functaset)
        axes = len(functaset.layout.axes)
        channels = len(functaset.attributes.normaliser.offset)
        if not functaset.layout.kind.can_draw(axes, channels):
            raise UsageError(
                f"png holds images of 1 or 3 channels; these items have {axes} axes and {channels} channels",
                hint="--format npy",
            )

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:
        codes = functaset.layout.kind.drawn(picture.array)
        content = io.BytesIO()
        Image.fromarray(codes[..., 0] if codes.shape[-1] == 1 else codes).save(content, "PNG")
        return content.getvalue()
