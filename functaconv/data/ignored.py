"""Kinds of content that is not converted, and how to count them: a `Counter` by kind, summed over blocks and files.

A kind is a few words that a user understands, or a suffix with its dot for files of a suffix that is not read.
"""

import re
from collections import Counter
from collections.abc import Mapping

# kinds in one counter; a folder may have a suffix for each of its files
MOST_KINDS = 100
OTHERS = "(others)"
NO_SUFFIX = "(no suffix)"
META = "names like __this__, which webdataset keeps for itself"
HIDDEN = "(hidden)"
APPLE_DOUBLE = "._ files of macOS"
LINKS = "links"
LOOPS = "links that lead back"
SPECIAL = "devices, pipes and other special members"
RECORDS = "records without the chosen field"
CAPTIONS = "captions in files of their own"
LABELS = "labels and captions apart from their items"
CUT_JSON = "captions that are no JSON"
LARGE_JSON = "captions above the size limit"
CUT_TEXT = "captions that are no UTF-8"
NO_LABELS = "labels that are no number"
PAGES = "further pages of TIFF"
FRAMES = "further frames of animations"
GROUPS = "further groups with fields"
OTHER_GRIDS = "variables on other grids"
LOW_BITS = "images of 16 bits a colour that become 8"
OTHER_VARIABLES = "files without the chosen variables"
ARRAYS = "further arrays of npz files"
CUT_STL = "STL files with fewer faces than they say"

_SHOWN = 8
# the kinds for which a user can do something, the most important first
_ADVICE = (
    (re.compile(r"(?P<suffix>\S+) beside \S+"), "--field {suffix} takes them instead"),
    (re.compile(re.escape(LABELS)), "put a record's members side by side: tar --sort=name"),
    (re.compile(re.escape(CAPTIONS)), "`tar --sort=name` of the folder makes a shard that keeps them"),
    (re.compile(re.escape(RECORDS)), "--field names another suffix"),
    (re.compile(f"{re.escape(PAGES)}|{re.escape(FRAMES)}"), "save each as a file of its own to convert them all"),
    (re.compile(re.escape(GROUPS)), "--group takes another one"),
    (re.compile(re.escape(OTHER_VARIABLES)), "--variable takes theirs"),
    (re.compile(r"(?P<name>.+) with a number for each item"), "--labels {name} makes them labels"),
    (re.compile(re.escape(ARRAYS)), "--field npz:NAME takes another one"),
    (re.compile(re.escape(CUT_STL)), "the whole faces are read; they may be cut short"),
    (re.compile(re.escape(OTHER_GRIDS)), "regrid them to latitudes and longitudes to convert them"),
    (re.compile("captions .*"), "their items are converted without"),
    (re.compile(re.escape(NO_LABELS)), "cls members hold the number of a class: 0, 1, ..."),
    (re.compile(re.escape(LINKS)), "copy what they lead to in their place"),
    (re.compile(r"suffix .*"), "read as what they are"),
    (re.compile(r"\.\S+"), "not read; convert them to png or npy if they are data"),
)


def ignore(ignored: Counter[str], kind: str, count: int = 1) -> None:
    """Count more of a kind; of very many kinds those beyond the first hundred together."""
    ignored[kind if kind in ignored or len(ignored) < MOST_KINDS else OTHERS] += count


def beside(suffix: str, taken: str) -> str:
    """The kind of members that could have been taken instead of the one that was."""
    return f"{suffix} beside {taken}"


def number_for_each(name: str) -> str:
    """The kind of an array that may be the labels of those that are split into items."""
    return f"{name} with a number for each item"


def named_otherwise(suffix: str, content_format: str) -> str:
    """The kind of members that are read although their suffix promises another format."""
    return f"suffix .{suffix} for {content_format} data"


def ignored_lines(ignored: Mapping[str, int]) -> list[str]:
    """A short table, a line for each kind; the first one says what to do. Empty where nothing was ignored."""
    kinds = sorted(ignored, key=lambda kind: (_advice(kind)[0], -ignored[kind], kind))
    lines = [f"{ignored[kind]} {kind}" for kind in kinds[:_SHOWN]]
    if kinds and (advice := _advice(kinds[0])[1]):
        lines[0] += f" ({advice})"
    if len(kinds) > _SHOWN:
        rest = kinds[_SHOWN:]
        lines.append(f"{sum(ignored[kind] for kind in rest)} of {len(rest)} more kinds")
    return lines


def most_ignored(ignored: Mapping[str, int]) -> str:
    """The same in one line, for the message of an error."""
    return "; ".join(ignored_lines(ignored))


def _advice(kind: str) -> tuple[int, str]:
    for place, (pattern, advice) in enumerate(_ADVICE):
        if match := pattern.fullmatch(kind):
            return place, advice.format(**match.groupdict())
    return len(_ADVICE), ""
