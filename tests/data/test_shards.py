"""Shards as records: grouped as webdataset groups them, and never a record of which a part is missing."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functaconv.data import limits
from functaconv.data.decoders import SUFFIXES
from functaconv.data.expansion import expand_shards
from functaconv.data.ignored import APPLE_DOUBLE, HIDDEN, LINKS, NO_SUFFIX, SPECIAL
from functaconv.data.items import Record
from functaconv.data.shards import index_shard, read_at, read_records
from functaconv.data.storage import fingerprint
from functaconv.errors import FunctaconvError, InputError, UsageError
from tests.archives import Pipe, tar

Members = Sequence[tuple[str, bytes]]
MEMBERS: Members = [
    ("a/0.png", b"p" * 700),
    ("a/0.cls", b"1"),
    ("a/1.png", b"q" * 512),
    ("b/v1.0/2.jpg", b""),
    ("b/v1.0/2.json", b"{}"),
    ("3.png", b"r" * 1300),
]
KEYS = ["a/0", "a/1", "b/v1.0/2", "3"]


def read(content: bytes, **options: Any) -> list[Record]:
    return list(read_records("x.tar", stream=io.BytesIO(content), **options))


def until_error(records: Iterable[Record]) -> tuple[list[Record], FunctaconvError | None]:
    """The records that are read, and the error with which that ends."""
    found: list[Record] = []
    try:
        for record in records:
            found.append(record)  # noqa: PERF402 - those before the error are wanted
    except FunctaconvError as error:
        return found, error
    return found, None


def read_until_error(content: bytes, pipe: bool) -> tuple[list[Record], FunctaconvError | None]:
    stream: Any = Pipe(content) if pipe else io.BytesIO(content)
    found, error = until_error(read_records("x.tar", stream=stream))
    assert error is None or isinstance(error, InputError)
    return found, error


def as_pairs(records: Sequence[Record]) -> list[tuple[str, dict[str, bytes]]]:
    return [(record.key, dict(record.fields)) for record in records]


WHOLE = read(tar(MEMBERS))


def test_members_with_one_key_are_one_record() -> None:
    assert [record.key for record in WHOLE] == KEYS
    assert [record.record for record in WHOLE] == [0, 1, 2, 3]
    assert WHOLE[0].fields == {"png": b"p" * 700, "cls": b"1"}
    assert WHOLE[2].fields == {"jpg": b"", "json": b"{}"}


def test_the_same_key_later_is_a_second_record() -> None:
    records = read(tar([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3")]))
    assert as_pairs(records) == [("a", {"png": b"1"}), ("b", {"png": b"2"}), ("a", {"cls": b"3"})]


def test_suffixes_ignore_case_and_others_are_counted() -> None:
    ignored = Counter[str]()
    members = [("a.PNG", b"1"), ("a.seg.Png", b"2"), ("a.pkl", b"3"), ("README", b"4"), ("b.x.PYD", b"5")]
    records = read(tar(members), ignored=ignored)
    assert as_pairs(records) == [("a", {"png": b"1", "seg.png": b"2"}), ("b", {})]
    assert ignored == {".pkl": 1, "(no suffix)": 1, ".pyd": 1}


@pytest.mark.parametrize("second", ["a.png", "a.PNG"])
def test_a_repeated_suffix_is_a_problem_of_its_record_alone(second: str) -> None:
    records = read(tar([("a.png", b"1"), (second, b"2"), ("b.png", b"3")]))
    assert records[0].problem is not None
    assert "two members named a.png" in records[0].problem
    assert records[0].fields == {}
    assert records[1].problem is None


@pytest.mark.parametrize("pipe", [False, True])
def test_members_beyond_the_limits_are_skipped_with_a_reason(pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tar([("a.png", b"1" * 5000), ("b.png", b"2"), ("c.0.png", b"3" * 900), ("c.1.png", b"4" * 900)])
    stream: Any = Pipe(content) if pipe else io.BytesIO(content)
    monkeypatch.setattr(limits, "MEMBER", 1000)
    monkeypatch.setattr(limits, "RECORD", 1500)
    records = list(read_records("x.tar", stream=stream))
    assert [record.key for record in records] == ["a", "b", "c"]
    assert "a.png has 5000 bytes, expected at most 1000" in str(records[0].problem)
    assert records[1].fields == {"png": b"2"}
    assert "1800 bytes together, expected at most 1500" in str(records[2].problem)
    assert records[2].fields == {}


def test_names_without_end_take_no_memory() -> None:
    long = "x" * 5000
    names = ["a.png", f"b.{long}", f"{long}.png", f"{long}2", "c.png", *(f"d.0{n}" for n in range(2000))]
    ignored = Counter[str]()
    records = read(tar([(name, b"1") for name in names]), ignored=ignored)
    assert [(record.key[:10], record.problem is None) for record in records] == [
        ("a", True), ("b", False), ("x" * 10, False), ("c", True), ("d", True),
    ]  # fmt: skip
    assert "a name of 5002 characters, expected at most 4096" in str(records[1].problem)
    assert all(len(record.key) <= 4096 for record in records)
    assert len(ignored) == 101
    assert ignored["(others)"] == 1900


def test_a_record_has_so_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    content = tar([(f"a.{number}.txt", b"") for number in range(20)] + [("b.png", b"1")])
    monkeypatch.setattr(limits, "MEMBERS", 10)
    records = read(content)
    assert [record.key for record in records] == ["a", "b"]
    assert "more than 10 members a.*" in str(records[0].problem)


NAMES = st.sampled_from(
    ["a", "b", "d/a", "d.e/a", "./a", "../a", "a b", "é", "n" * 120, "d/" + "m" * 150, "__x__", "__x__/a", "_"]
)
ENDINGS = st.sampled_from([".png", ".PNG", ".seg.png", ".cls", ".txt", ".pkl", ".tar.gz", "", ".", ".a."])


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.tuples(NAMES, ENDINGS), max_size=12),
    layout=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_grouping_is_that_of_webdataset(names: list[tuple[str, str]], layout: int) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    members = [(name + ending, f"{number}".encode()) for number, (name, ending) in enumerate(names)]
    content = tar(members, format=layout)
    files = ({**file, "__url__": ""} for file in tar_file_iterator(io.BytesIO(content)))
    expected: list[tuple[str, dict[str, bytes]]] = []
    try:
        for sample in group_by_keys(files):
            fields = {k: v for k, v in sample.items() if k.rpartition(".")[2] in SUFFIXES and k[0] != "_"}
            expected.append((sample["__key__"], fields))
    except ValueError:
        # webdataset gives up at a repeated suffix: the records before have to agree
        assert as_pairs(read(content))[: len(expected)] == expected
    else:
        assert as_pairs(read(content)) == expected


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_format(layout: int) -> None:
    name = "d" * 90 + "/" + "e" * 90 + ".png" if layout == tarfile.USTAR_FORMAT else "d" * 300 + "/é.png"
    (record,) = read(tar([(name, b"1")], format=layout))
    assert record.key == name.removesuffix(".png")
    assert record.fields == {"png": b"1"}


def with_links(*names: tuple[str, bytes, str]) -> bytes:
    """A tar of members without bytes, given by name, type and what they lead to, then two files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, target in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name in ("a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(name[:1].encode() * 3))
    return buffer.getvalue()


def test_directories_links_and_devices_are_passed_over_and_counted() -> None:
    kinds = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    ignored = Counter[str]()
    records = read(with_links(*(("x.png", kind, "/etc/passwd") for kind in kinds)), ignored=ignored)
    assert as_pairs(records) == [("a", {"png": b"aaa"}), ("b", {"png": b"bbb"})]
    # what stands before the first record is told by it
    assert records[0].ignored == ignored == {LINKS: 1, SPECIAL: 2}
    assert not records[1].ignored


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_hard_link_is_its_target(tmp_path: Path, layout: int) -> None:
    long = "x" * 80 if layout == tarfile.USTAR_FORMAT else "x" * 90 + "/" + "y" * 60
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as archive:
        for name, content in ((f"{long}.png", b"pixels"), ("b.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (("b.png", f"{long}.png"), ("c.png", f"{long}.png"), ("d.png", "gone.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    shard = tmp_path / "x.tar"
    shard.write_bytes(buffer.getvalue())
    expected = [
        (long, {"png": b"pixels"}), ("b", {"cls": b"1", "png": b"pixels"}), ("c", {"png": b"pixels"}), ("d", {}),
    ]  # fmt: skip
    ignored = Counter[str]()
    records = list(read_records(str(shard), ignored=ignored))
    assert as_pairs(records) == expected
    assert [read_at(str(shard), location) for location in index_shard(str(shard))] == records
    assert records[3].ignored == ignored == {LINKS: 1}
    # what is gone in a stream cannot be read again
    streamed = read(buffer.getvalue())
    assert as_pairs(streamed)[1:] == [("b", {"cls": b"1"}), ("c", {}), ("d", {})]
    assert sum(record.ignored.get(LINKS, 0) for record in streamed) == 3


def test_members_of_one_key_that_lie_apart_are_one_record_of_a_local_tar(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    members = [("0.cls", b"7"), ("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3"), ("a.json", b"{}"), ("b.cls", b"4")]
    members += [("0.png", b"0"), ("b.png", b"other"), ("c.pkl", b""), ("b.txt", b"5"), ("c.png", b"6")]
    shard.write_bytes(tar(members))
    expected = [
        ("0", {"cls": b"7", "png": b"0"}),
        ("a", {"png": b"1", "cls": b"3", "json": b"{}"}),
        ("b", {"png": b"2", "cls": b"4", "txt": b"5"}),
        # a suffix that is there twice is another record
        ("b", {"png": b"other"}),
        ("c", {"png": b"6"}),
    ]
    records = list(read_records(str(shard)))
    assert as_pairs([record for record in records if record.fields]) == expected
    assert [record.record for record in records if record.fields] == [0, 1, 2, 6, 7]
    assert all(record.is_joined for record in records if not record.fields)
    assert [record.ignored for record in records if record.ignored] == [{".pkl": 1}]
    locations = index_shard(str(shard))
    assert [read_at(str(shard), location) for location in locations] == records
    # from the middle, as parts of a shard are read
    for start in range(1, len(records)):
        assert list(read_records(str(shard), start=start, offset=locations[start].offset)) == records[start:]
    with shard.open("rb") as stream:
        assert [read_at(str(shard), one, stream=stream) for one in index_shard(str(shard), stream=stream)] == records
    assert len([record for record in read(tar(members)) if record.fields]) == 9


def test_what_is_joined_counts_towards_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(tar([("a.png", b"1" * 900), ("b.png", b"2"), ("a.npy", b"3" * 900)]))
    monkeypatch.setattr(limits, "RECORD", 1500)
    records = list(read_records(str(shard)))
    assert "1800 bytes together, expected at most 1500" in str(records[0].problem)
    assert records[1].fields == {"png": b"2"}


def test_a_tar_with_its_labels_apart_is_known_again_when_it_changes(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(tar([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3")]))
    assert len(next(iter(read_records(str(shard)))).fields) == 2
    shard.write_bytes(tar([("a.png", b"1"), ("b.png", b"2")]))
    assert as_pairs(list(read_records(str(shard)))) == [("a", {"png": b"1"}), ("b", {"png": b"2"})]


def test_what_a_mac_adds_is_passed_over() -> None:
    names = ["t/.DS_Store", "t/._a.jpg", "t/a.jpg", "t/._b.jpg", "t/b.jpg", "__MACOSX/t/._b.jpg", "._t", ".hidden.png"]
    ignored = Counter[str]()
    records = read(tar([(name, b"1") for name in names]), ignored=ignored)
    assert as_pairs(records) == [("t/a", {"jpg": b"1"}), ("t/b", {"jpg": b"1"})]
    assert ignored == {HIDDEN: 2, APPLE_DOUBLE: 4}
    assert [record.ignored for record in records] == [{HIDDEN: 1, APPLE_DOUBLE: 2}, {HIDDEN: 1, APPLE_DOUBLE: 2}]


def test_what_belongs_to_no_record_is_counted_where_there_is_none() -> None:
    unplaced = Counter[str]()
    assert read(tar([("README", b"1"), ("._x", b"2")]), unplaced=unplaced) == []
    assert unplaced == {NO_SUFFIX: 1, APPLE_DOUBLE: 1}
    unplaced.clear()
    (record,) = read(tar([("README", b"1"), ("a.png", b"2"), ("LICENSE", b"3")]), unplaced=unplaced)
    assert not unplaced
    assert record.ignored == {NO_SUFFIX: 2}


def test_concatenated_archives_are_read_to_the_end() -> None:
    records = read(tar(MEMBERS) + tar([("3.png", b"1")]) + tar([]) + tar([("4.png", b"2")]))
    assert [record.key for record in records] == [*KEYS, "3", "4"]
    assert [record.record for record in records] == list(range(6))


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_cut_anywhere_gives_whole_records_and_an_error(pipe: bool, layout: int) -> None:
    members = [*MEMBERS, ("long" * 50 + "/4.png", b"s")] if layout == tarfile.PAX_FORMAT else MEMBERS
    content = tar(members, format=layout)
    whole = as_pairs(read(content))
    # the end marker is the last that may not be cut: padding follows
    end = len(content.rstrip(b"\0"))
    end = -(-end // 512) * 512 + 1024
    for length in [*range(0, end, 37), *range(0, end, 512), end - 1]:
        records, error = read_until_error(content[:length], pipe)
        assert as_pairs(records) == whole[: len(records)]
        assert len(records) < len(whole)
        assert error is not None, length
        assert error.exit_code == 65
        assert f"record {len(records)}" in str(error)
        assert "x.tar" in str(error)
    for length in (end, end + 100, len(content)):
        records, error = read_until_error(content[:length], pipe)
        assert error is None
        assert as_pairs(records) == whole


def test_what_is_no_archive_says_what_it_is() -> None:
    for content, reason in [
        (b"", "an empty file"),
        (b"\0" * 512, "stops before its end marker"),
        (b"garbage" * 500, "not a tar archive"),
        (tar(MEMBERS) + b"garbage" * 500, "expected the header of a member"),
        (tar(MEMBERS) + b"garbage", "data after the end"),
        (tar(MEMBERS[:1])[:1536] + b"\0" * 512 + tar(MEMBERS), "single block of zeros"),
    ]:
        _, error = read_until_error(content, pipe=False)
        assert error is not None
        assert reason in str(error)
        assert error.hint


def test_a_damaged_header_ends_in_an_error_not_in_silence() -> None:
    content = bytearray(tar(MEMBERS))
    content[content.index(b"a/1.png")] ^= 0xFF
    records, error = read_until_error(bytes(content), pipe=False)
    # the record before cannot be known to be complete
    assert records == []
    assert "expected the header of a member (bad checksum)" in str(error)


def test_records_are_found_again_at_their_locations(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    members = [*MEMBERS, ("long" * 50 + "/4.png", b"s"), ("5.pkl", b""), ("6.png", b"t"), ("6.PNG", b"t")]
    shard.write_bytes(tar(members) + tar(MEMBERS))
    locations = index_shard(str(shard))
    in_order = list(read_records(str(shard), 2))
    assert [read_at(str(shard), location, 2) for location in locations] == in_order
    with shard.open("rb") as stream:
        assert read_at(str(shard), locations[-1], 2, stream=stream) == in_order[-1]
        assert read_at(str(shard), locations[0], 2, stream=stream) == in_order[0]


def test_a_shard_changed_since_it_was_indexed_is_an_input_error(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(tar(MEMBERS))
    location = index_shard(str(shard))[3]
    shard.write_bytes(tar(MEMBERS)[: location.offset + 600])
    with pytest.raises(InputError, match=r"cut short.*record 3"):
        read_at(str(shard), location)
    shard.write_bytes(tar([("other.png", b"x" * 5000)]))
    with pytest.raises(InputError):
        read_at(str(shard), location)


def test_a_fingerprint_tells_shards_apart(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    shard.write_bytes(b"a" * 200_000)
    first = fingerprint(str(shard))
    assert first["name"] == "x.tar"
    assert first["size"] == 200_000
    shard.write_bytes(b"a" * 199_999 + b"b")
    assert fingerprint(str(shard)) != first
    assert fingerprint("-") == {"name": "-"}


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("t-000000.tar", "t-000001.tar", "t-000002.tar", "notes.txt", ".hidden.tar", "odd #?:{1,2},x.tar"):
        (tmp_path / name).write_bytes(tar(MEMBERS))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.JPG").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_specs_expand_in_order(shards: Path) -> None:
    for specs, expected in [
        (["t-000001.tar"], ["t-000001.tar"]),
        (["t-*.tar"], ["t-000000.tar", "t-000001.tar", "t-000002.tar"]),
        (["t-{000002..000001}.tar"], ["t-000002.tar", "t-000001.tar"]),
        (["t-{000000,000002}.tar"], ["t-000000.tar", "t-000002.tar"]),
        (["t-00000{0..1}.tar,t-*2.tar", "-"], ["t-000000.tar", "t-000001.tar", "t-000002.tar", "-"]),
        (["odd #?:{1,2},x.tar"], ["odd #?:{1,2},x.tar"]),
        (["."], ["odd #?:{1,2},x.tar", "t-000000.tar", "t-000001.tar", "t-000002.tar"]),
    ]:
        assert expand_shards(specs) == expected


def test_specs_that_lead_nowhere_say_what_to_do(shards: Path) -> None:
    for specs, error, reason in [
        (["missing.tar"], InputError, "no such shard: 'missing.tar'"),
        (["t-{000001..000009}.tar"], InputError, "no such shard: 't-000003.tar'"),
        (["nothing-*.tar"], InputError, "no file matches"),
        (["images"], InputError, "no tar shards"),
        (["empty"], InputError, "no tar shards"),
        (["t-{000000.tar"], UsageError, "unbalanced braces"),
        (["hdfs://bucket/a.tar"], UsageError, "cannot read from hdfs:"),
        (["ftp://user:secret@host/{0..3}.tar"], UsageError, "cannot read from ftp:"),
        (["https://user:secret@host/shards/"], UsageError, "https://host/shards/: a web server does not list"),
        (["https://user:secret@host/a-*.tar"], UsageError, "https://host/a-.*tar: a web server does not list"),
        (["pipe:cat secret.tar"], UsageError, "pipe:cat ... runs a command, which has to be allowed"),
        (["t-000000.tar,pipe:cat secret.tar"], UsageError, "a pipe is in a list"),
        (["t-000000.tar", "./t-*.tar"], UsageError, "more than once"),
        (["-", "-"], UsageError, "more than once"),
        (["https:/user:secret@host/a.tar"], InputError, r"no such shard: '\.\.\.'"),
        (["https:/host/a.tar;secret=1"], InputError, r"no such shard: 'https\.\.\.'"),
        (["host/a.tar?X-Amz-Signature=secret"], InputError, r"no file matches 'host/a.tar\.\.\.'"),
        (["a.tar&X-Amz-Signature=secret"], InputError, r"no such shard: 'a.tar\.\.\.'"),
        (["t-000000.tar, ftp://user:secret@host/a.tar"], UsageError, "cannot read from ftp:"),
        ([" https://user:a,secret@host/a-*.tar"], UsageError, "https://host/a-.*tar: a web server does not list"),
        ([], UsageError, "no shards given"),
        ([""], InputError, "no such shard"),
    ]:
        with pytest.raises(error, match=reason) as caught:
            expand_shards(specs)
        assert caught.value.hint
        assert "secret" not in str(caught.value) + caught.value.hint


@pytest.mark.realdata
def test_real_shards_have_as_many_records_as_keys(test_data: Path) -> None:
    for name in ("lfw64", "era5_t2m_uk", "modelnet10_vox32"):
        for shard in expand_shards([str(test_data / name)]):
            with tarfile.open(shard) as archive:
                keys = {member.name.partition(".")[0] for member in archive}
            records = list(read_records(shard))
            assert {record.key for record in records} == keys
            assert len(records) == len(keys) == len(index_shard(shard))
