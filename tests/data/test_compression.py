"""Compressed tars: told by content, whole or an error, in bounded memory."""

import bz2
import gzip
import io
import lzma
import sys
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functaconv.data import limits
from functaconv.data.shards import read_records
from functaconv.errors import MissingExtraError
from tests.archives import tar
from tests.data.test_shards import MEMBERS, as_pairs, read, read_until_error


def zstd(content: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(content)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd, "tar": bytes,
}  # fmt: skip
KINDS = [kind for kind in COMPRESSORS if kind != "tar"]
# bytes that do not compress, so that there is somewhere to cut
CONTENT = tar([*MEMBERS, *((f"{n}.npy", bytes((n * i * i) % 251 for i in range(700))) for n in range(4, 12))])
RECORDS = as_pairs(read(CONTENT))
# what follows the end marker is padding: it may be missing
NEEDED = -(-len(CONTENT.rstrip(b"\0")) // 512) * 512 + 1024


# of a frame, its checksum and an empty block
_END_OF_ZSTD = 24


def compressed(kind: str) -> bytes:
    """In two streams, the first of which ends within a member."""
    make = COMPRESSORS[kind]
    return make(CONTENT[:3000]) + make(CONTENT[3000:NEEDED])


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("kind", KINDS)
def test_compressed_tars_are_read_whatever_they_are_called(kind: str, pipe: bool) -> None:
    # zeros fill the last block of a tape
    padded = [compressed(kind) + bytes(1000)] if kind in ("gzip", "bzip2") else []
    for content in (compressed(kind), COMPRESSORS[kind](CONTENT), *padded):
        records, error = read_until_error(content, pipe)
        assert error is None
        assert as_pairs(records) == RECORDS


def test_a_frame_that_is_to_be_skipped_comes_first_in_pzstd() -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0size"
    records, error = read_until_error(skipped + zstd(CONTENT[:3000]) + skipped + zstd(CONTENT[3000:]), pipe=True)
    assert error is None
    assert as_pairs(records) == RECORDS


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_tar_cut_at_any_byte_gives_whole_records_and_an_error(kind: str) -> None:
    content = compressed(kind)

    @settings(max_examples=80, deadline=None, database=None)
    @given(length=st.integers(0, len(content) - 1), pipe=st.booleans())
    def cut(length: int, pipe: bool) -> None:
        records, error = read_until_error(content[:length], pipe)
        assert as_pairs(records) == RECORDS[: len(records)]
        if kind == "zstd" and length >= len(content) - _END_OF_ZSTD:
            # zstandard does not say that the end of a frame is missing: the tar within it was whole
            assert error is not None or len(records) == len(RECORDS)
            return
        assert error is not None
        assert error.exit_code == 65
        assert error.hint
        assert f"x.tar: {error}".startswith("x.tar: x.tar: ")
        assert f"(record {len(records)}, byte" in str(error)

    cut()


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_byte_anywhere_does_not_go_unnoticed(kind: str) -> None:
    content = compressed(kind)

    @settings(max_examples=80, deadline=None, database=None)
    @given(place=st.integers(0, len(content) - 1), change=st.integers(1, 255))
    def flip(place: int, change: int) -> None:
        wrong = bytearray(content)
        wrong[place] ^= change
        records, error = read_until_error(bytes(wrong), pipe=False)
        # a date in a header is of no importance
        assert error is not None or as_pairs(records) == RECORDS

    flip()


def test_damage_is_found_at_the_same_record_however_the_bytes_come() -> None:
    """A run that goes on must find what the one before found."""
    for kind in KINDS:
        content = bytearray(COMPRESSORS[kind](CONTENT))
        content[len(content) * 3 // 4] ^= 0xFF
        found = [read_until_error(bytes(content), pipe) for pipe in (False, True)]
        assert str(found[0][1]) == str(found[1][1])
        assert found[0][1] is not None
        assert found[0][0] == found[1][0]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_other_bytes_after_the_end_are_damage(kind: str) -> None:
    records, error = read_until_error(COMPRESSORS[kind](CONTENT) + b"garbage", pipe=True)
    assert as_pairs(records) == RECORDS
    assert f"no valid {kind} stream" in str(error)


def test_what_is_not_kept_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes of zeros are a few bytes."""
    monkeypatch.setattr(limits, "MEMBER", 1000)
    for kind in KINDS:
        bomb = COMPRESSORS[kind](tar([("a.npy", bytes(24 << 20)), ("b.pkl", bytes(24 << 20)), ("c.npy", b"1")]))
        tracemalloc.start()
        try:
            records = list(read_records("x.tar", stream=io.BytesIO(bomb)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert "expected at most 1000" in str(records[0].problem)
        assert as_pairs(records)[1:] == [("b", {}), ("c", {"npy": b"1"})]
        assert peak < 20 << 20


def test_a_window_larger_than_any_is_refused() -> None:
    # the descriptor of the window: two to the 31st
    content = bytearray(zstd(CONTENT))
    content[4:6] = bytes([0x00, 21 << 3])
    _, error = read_until_error(bytes(content), pipe=False)
    assert "too much memory" in str(error)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zstd(CONTENT)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match="zstandard") as caught:
        read(content)
    assert caught.value.hint == "pip install 'functaconv[zstd]'"
