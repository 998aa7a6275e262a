"""What image files say of themselves that costs time or memory out of proportion: looked at before Pillow does."""

import struct

from functaconv.errors import ItemError

_MOST_CHUNKS, _BYTES_PER_CHUNK = 10_000, 256
"""of a PNG: so many, and one more for so many bytes of the file. Each costs Pillow microseconds and an entry"""
_MOST_SCANNED = 1 << 32
"""of a JPEG, scans x pixels: each scan of a progressive one goes through all pixels, however few bytes it has"""
_MOST_IN_TAG = 1 << 20
"""of a TIFF, numbers in a tag: strips and tiles have one each, and become Python integers"""
_LEAST_TILE = 1 << 24
"""pixels of a TIFF's tile that are taken whatever the size of the image"""
_MOST_PAGES = 100_000
_SUBFILE, _REDUCED_OR_MASK = 254, 5
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
# bytes (1), ASCII (2), signed bytes (6) and undefined (7) are kept as they are
_KEPT = (1, 2, 6, 7)


def check_header(content: bytes, name: str) -> None:
    """ItemError where opening the image would cost too much."""
    check = {"PNG": _check_png, "TIFF": _check_tiff}.get(name)
    if check is not None:
        try:
            check(content)
        except struct.error:
            # cut off: Pillow says so in its own words
            return


def check_scans(content: bytes, pixels: int) -> None:
    """ItemError for a JPEG of so many scans that decoding it would take minutes."""
    # within coded data a byte of 255 is never followed by this one
    scans = content.count(b"\xff\xda")
    if scans * pixels > _MOST_SCANNED:
        raise ItemError(f"{scans} scans of {pixels} pixels each")


def screen_size(content: bytes, name: str) -> tuple[int, int] | None:
    """Width and height of what moves, for which Pillow takes memory when it opens the file."""
    if name == "GIF" and len(content) >= 10:
        return int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    return _webp_size(content) if name == "WebP" else None


def _webp_size(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X" and len(content) >= 30:
        return tuple(int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))  # type: ignore[return-value]
    if kind == b"VP8 " and len(content) >= 30:
        return tuple(int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (26, 28))  # type: ignore[return-value]
    if kind == b"VP8L" and len(content) >= 25:
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def _check_png(content: bytes) -> None:
    most, place, chunks = _MOST_CHUNKS + len(content) // _BYTES_PER_CHUNK, 8, 0
    while place + 8 <= len(content):
        place += 12 + int.from_bytes(content[place : place + 4], "big")
        chunks += 1
        if chunks > most:
            raise ItemError(f"more than {most} chunks in {len(content)} bytes")


def further_pages(content: bytes) -> int:
    """Of a TIFF, pages after the first one, without copies of it in smaller sizes and masks."""
    pages, seen = 0, set[int]()
    try:
        order, is_big, offset, head, entry = _first_page(content)
        pointer, step = "Q" if is_big else "L", 20 if is_big else 12
        while offset and offset not in seen and len(seen) < _MOST_PAGES:
            seen.add(offset)
            (entries,) = struct.unpack_from(order + head, content, offset)
            place = offset + struct.calcsize(order + head)
            tag, kind, _ = struct.unpack_from(order + entry, content, place)
            # tags are sorted, and this is the lowest
            at = place + step - struct.calcsize(order + pointer)
            (value,) = struct.unpack_from(order + ("H" if kind == 3 else "L"), content, at)
            pages += not (tag == _SUBFILE and value & _REDUCED_OR_MASK)
            (offset,) = struct.unpack_from(order + pointer, content, place + entries * step)
    except struct.error:
        # the chain leads out of the file: what comes of it is told by whoever reads it
        pass
    return max(0, pages - 1)


def _first_page(content: bytes) -> tuple[str, bool, int, str, str]:
    """Byte order, whether it is a BigTIFF, where the first page is, and the formats of a count and of an entry."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", content, 2)[0] == 43
    start = struct.unpack_from(order + ("Q" if is_big else "L"), content, 8 if is_big else 4)[0]
    return order, is_big, start, *(("Q", "HHQ") if is_big else ("H", "HHL"))


def _check_tiff(content: bytes) -> None:
    order, is_big, start, head, entry = _first_page(content)
    (entries,) = struct.unpack_from(order + head, content, start)
    place, step = start + struct.calcsize(order + head), 20 if is_big else 12
    sizes: dict[int, int] = {}
    for number in range(min(entries, 65535)):
        at = place + number * step
        tag, kind, count = struct.unpack_from(order + entry, content, at)
        if kind not in _KEPT and count > _MOST_IN_TAG:
            raise ItemError(f"{count} numbers in tag {tag}, expected at most {_MOST_IN_TAG}")
        if tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT):
            value = at + struct.calcsize(order + entry)
            (sizes[tag],) = struct.unpack_from(order + {3: "H", 16: "Q"}.get(kind, "L"), content, value)
    tile = sizes.get(_TILE_WIDTH, 0) * sizes.get(_TILE_HEIGHT, 0)
    if tile > max(_LEAST_TILE, 4 * sizes.get(_WIDTH, 0) * sizes.get(_HEIGHT, 0)):
        raise ItemError(f"tiles of {sizes[_TILE_WIDTH]} x {sizes[_TILE_HEIGHT]} pixels")
