"""How latents are stored: a class for each way, one line in the table."""

from functaconv.functaset.codecs.codec import Codec
from functaconv.functaset.codecs.eight_bit import EightBit
from functaconv.functaset.codecs.floats import Float16, Float32

__all__ = ["CODECS", "Codec", "EightBit", "Float16", "Float32"]

# by the name that `--bits` takes and the functaset stores
CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Float16, Float32, EightBit)}
