"""The protocol of a render format."""

from collections.abc import Sequence
from pathlib import Path

from functaconv.errors import UsageError, lookup
from functaconv.functaset.reader import Functaset
from functaconv.modalities import MODALITIES
from functaconv.rendering.decoding import Picture


class Format:
    """A decoded item as the content of a file.

    A format that a modality lists among its `own_formats` is for items of that modality only.
    """

    name: str
    """the suffix of its files"""
    takes_features = False
    """values are normalised, to 0..1, in place of raw units"""
    holds_many = False
    """several items can go into one file: `write`"""
    is_store = False
    """what it writes is a folder, by `write` only"""

    def check(self, functaset: Functaset) -> None:
        """UsageError unless items of this functaset can be written."""
        owners = [kind for kind in MODALITIES.values() if self.name in kind.own_formats]
        if owners and functaset.layout.kind not in owners:
            names = " and ".join(kind.in_full or kind.plural for kind in owners)
            raise UsageError(f"{self.name} is for {names}; these items are not", hint="--format npy")

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:
        """One item as a file."""
        raise NotImplementedError

    def write(self, pictures: Sequence[Picture], functaset: Functaset, path: Path) -> None:
        """Several items as one file or store, which takes the place of the one that is there."""
        raise NotImplementedError

    def may_replace(self, path: Path) -> bool:
        """Whether what is at `path` may be replaced when that is asked for."""
        return path.is_file()


FORMATS: dict[str, Format] = {}
"""by suffix; `functaconv.rendering.formats` fills it"""


def format_of(name: str, functaset: Functaset) -> Format:
    """The format of this name; a UsageError where there is none, or not for this functaset."""
    chosen = lookup(FORMATS, name, what="format")
    chosen.check(functaset)
    return chosen
