"""Selecting the files of a source that are packed. Where there are several kinds, the user has to choose one."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from functaconv.data.contents import FIELDS, HEAD, format_of
from functaconv.data.decoders import ARRAY_SUFFIXES, parse_field
from functaconv.data.decoders.images import IMAGE_SUFFIXES
from functaconv.data.folder import opened
from functaconv.data.grids import FIELD_SUFFIXES, is_fields
from functaconv.data.grids.origin import Origin
from functaconv.data.ignored import CAPTIONS, beside, ignore, most_ignored
from functaconv.data.meshes import MESH_SUFFIXES
from functaconv.data.naming import scheme_of, shown
from functaconv.data.unzipping import member_names, unzipped
from functaconv.errors import InputError
from functaconv.packing.files import IMAGE, KINDS, ZARR, ZIP, File, Look, Selection, walk

PACKED_SUFFIXES = (*ARRAY_SUFFIXES, *MESH_SUFFIXES, *FIELD_SUFFIXES)
# suffixes of files that have none, by their format
_SUFFIX_OF = {
    "PNG": "png", "JPEG": "jpg", "WebP": "webp", "BMP": "bmp", "PNM": "ppm", "GIF": "gif", "TIFF": "tif", "npy": "npy",
    "binvox": "binvox", "NetCDF": "nc", "HDF5": "nc", "GRIB": "grib", "OFF": "off", "zip": ZIP,
}  # fmt: skip
_CAPTIONS = (".txt", ".json", ".caption")
_WORD = re.compile(r"[a-z][a-z_-]*")
_MOST_TOLD = 8


def parse_packed_field(field: str) -> tuple[str, str | None]:
    """What `--field` of pack takes: `png` -> (png, None), `solid.binvox`, `npz:NAME` -> (npz, NAME)."""
    return parse_field(field, (*PACKED_SUFFIXES, ZARR))


@contextmanager
def selected(
    source: Path | str, *, field: str | None = None, labels: bool | None = None, exclude: Path | None = None
) -> Iterator[Selection]:
    """The files of a folder, of a zip archive, or the one that the source is; archives are unpacked meanwhile."""
    suffix = None if field is None else parse_packed_field(field)[0]
    file = _lone_file(source)
    with ExitStack() as stack:
        if file is not None and file.suffix == ZIP:
            folder = stack.enter_context(unzipped(Path(source), file.shown))
            if is_fields(folder):
                yield Selection((replace(file, place=folder, suffix=ZARR),), Counter(), is_lone=True)
            else:
                yield _below(folder, file.shown, suffix, labels, None, stack)
        elif file is not None:
            yield Selection((file,), Counter(), is_lone=True)
        else:
            yield _below(Path(source), str(source), suffix, labels, exclude, stack)


def _lone_file(source: Path | str) -> File | None:
    """The source where it is no folder of files."""
    is_url, path = scheme_of(str(source)) is not None, Path(source)
    if is_url and not is_fields(source):
        raise InputError(
            f"no zarr store by its name: {shown(str(source))}",
            hint="only a URL that ends in .zarr is read; download others",
        )
    if not is_url and not path.exists():
        raise InputError(f"no such folder: {path}", hint="give a folder of images, or of npy or npz files")
    if not is_url and path.is_dir() and not is_fields(path):
        return None
    origin = Origin.of(source)
    if is_url or path.is_dir():
        return File(source, ZARR, origin.key, origin.shown)
    content_format, suffix = _format(path), path.suffix.lower().removeprefix(".")
    if content_format == "zip" and suffix != "npz":
        return File(path, ZIP, origin.key, origin.shown)
    if content_format in FIELDS or suffix in FIELD_SUFFIXES:
        return File(path, "nc", origin.key, origin.shown)
    if content_format == "npy" or suffix in ("npy", "npz"):
        return File(path, "npy" if content_format == "npy" else suffix, origin.key, origin.shown)
    raise InputError(
        f"neither a folder nor a file of grids: {path}",
        hint=f"put it into a folder of its own and pack that; files of grids end in {', '.join(FIELD_SUFFIXES)}",
    )


def _below(
    folder: Path, source: str, suffix: str | None, labels: bool | None, exclude: Path | None, stack: ExitStack
) -> Selection:
    """The files below a folder; the folder stands for `source`."""
    walked = walk(folder, _look(suffix), exclude=exclude)
    ignored = walked.ignored
    _name_unchosen(ignored, suffix)
    files: list[File] = []
    for file in walked.files:
        if file.suffix in (ZIP, ZARR, *FIELD_SUFFIXES) and _format(Path(file.place)) == "zip":
            files += _unpacked(file, suffix, ignored, stack)
        elif file.suffix == ZIP:
            ignore(ignored, f".{ZIP}")
        else:
            files.append(file)
    if not files:
        text = most_ignored(ignored) or "no files at all"
        raise InputError(f"nothing to pack in {source}: found {text}", hint=f"expected {', '.join(PACKED_SUFFIXES)}")
    _check_one_kind(files, source)
    _count_captions(files, ignored)
    classes = walked.classes
    if labels and not classes:
        raise InputError(f"no classes in {source}: some files lie beside the sub-folders, expected all within them")
    if labels is False:
        files, classes = [replace(file, label=-1) for file in files], ()
    return Selection(tuple(files), ignored, classes)


def _look(suffix: str | None) -> Look:
    """What files and folders are looked at as; with a `suffix` (solid.binvox) only those that end so."""

    def look(path: Path) -> str | None:
        if path.is_dir():
            return ZARR if is_fields(path) and suffix in (None, ZARR) else None
        own_suffix = _suffix(path)
        # zip: archives of many files may hold what is wanted
        return own_suffix if suffix is None or own_suffix == ZIP or _ends(path.name.lower(), suffix) else None

    return look


def _name_unchosen(ignored: Counter[str], suffix: str | None) -> None:
    """Count files that would be read without the chosen `suffix` as such."""
    for kind in [kind for kind in ignored if suffix is not None and kind.removeprefix(".") in KINDS]:
        ignore(ignored, beside(kind.removeprefix("."), str(suffix)), ignored.pop(kind))


def _ends(name: str, suffix: str) -> bool:
    """Whether a name ends in a suffix, or in another one of the same format: jpg stands for jpeg as well."""
    last = name.rpartition(".")[2]
    same = "." not in suffix and suffix in IMAGE_SUFFIXES and IMAGE_SUFFIXES[suffix] == IMAGE_SUFFIXES.get(last)
    return "." in name and (same or name.endswith(f".{suffix}"))


def _suffix(path: Path) -> str | None:
    """The suffix of a file, by its content where it has none or a number; None for other files."""
    suffix = path.suffix.lower().removeprefix(".")
    if not suffix or suffix.isdecimal():
        return _SUFFIX_OF.get(_format(path) or "")
    return suffix if suffix in KINDS or suffix == ZIP else None


def _format(path: Path) -> str | None:
    try:
        with opened(path) as stream:
            return format_of(stream.read(HEAD))
    # the error appears when the file is packed
    except OSError:
        return None


def _unpacked(file: File, suffix: str | None, ignored: Counter[str], stack: ExitStack) -> list[File]:
    """The grids in an archive within a folder; a zip file of other things is ignored."""
    path = Path(file.place)
    try:
        names = member_names(path, file.shown)
        if not any(_is_of_grids(name) for name in names):
            if file.suffix == ZIP:
                ignore(ignored, f".{ZIP}")
                return []
            return [replace(file, problem="a zip archive without NetCDF files, GRIB files or a zarr store")]
        folder = stack.enter_context(unzipped(path, file.shown))
    except InputError as error:
        return [replace(file, suffix="nc", problem=str(error))]
    if is_fields(folder):
        return [replace(file, place=folder, suffix=ZARR)]
    inner = walk(folder, _look(suffix))
    ignored.update(inner.ignored)
    return [
        replace(one, key=f"{file.key}/{one.key}", shown=f"{file.shown}/{one.shown}", label=file.label)
        for one in inner.files
    ]


def _is_of_grids(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower().removeprefix(".") in FIELD_SUFFIXES or path.name in (".zgroup", ".zarray", "zarr.json")


def _check_one_kind(files: Sequence[File], source: str) -> None:
    """InputError where images lie beside what they show, or most names are there in several forms."""
    names = [PurePosixPath(file.shown) for file in files]
    forms = _forms(names)
    kinds = {file.kind for file in files}
    by_stem: dict[str, set[str]] = {}
    for name, form in zip(names, forms, strict=True):
        by_stem.setdefault(str(name)[: len(str(name)) - len(form)], set()).add(form)
    # of names, not of files
    several = sum(len(forms_of_name) > 1 for forms_of_name in by_stem.values())
    counts = Counter(forms)
    if len(kinds) > 1:
        what = f"files of several kinds ({', '.join(sorted(kinds))})"
    elif several > 1 and 2 * several > len(by_stem):
        what = f"{several} of {len(by_stem)} names in several forms"
    else:
        return
    listing = ", ".join(f"{count} {form or 'without suffix'}" for form, count in counts.most_common(_MOST_TOLD))
    fields = ", or ".join(_chosen_by(form) for form, _ in counts.most_common(_MOST_TOLD) if form)
    raise InputError(f"{source} holds {what}: {listing}", hint=f"choose one with {fields}")


def _chosen_by(form: str) -> str:
    is_mesh = form.rpartition(".")[2] in MESH_SUFFIXES
    return f"--field {form}" + " --resolution N" * is_mesh


def _forms(names: Sequence[PurePosixPath]) -> list[str]:
    """The suffix of each, with the word before it where several files have that too: solid.binvox."""
    split = [name.name.lower().rsplit(".", 2) for name in names]
    dotted = Counter(".".join(parts[1:]) for parts in split if len(parts) == 3 and _WORD.fullmatch(parts[1]))
    return [
        "" if len(parts) == 1 else ".".join(parts[1:]) if dotted[".".join(parts[1:])] > 1 else parts[-1]
        for parts in split
    ]


def _count_captions(files: Sequence[File], ignored: Counter[str]) -> None:
    """Count files of text beside images as captions."""
    for suffix in _CAPTIONS:
        if suffix in ignored and any(file.kind == IMAGE and _has_caption(file, suffix) for file in files):
            ignore(ignored, CAPTIONS, ignored.pop(suffix))


def _has_caption(file: File, suffix: str) -> bool:
    return Path(file.place).with_suffix(suffix).exists()
