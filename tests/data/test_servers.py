"""Shards from web servers: every byte or an error, and an error that says whether it is worth trying again."""

import gzip
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from functaconv.data import patience
from functaconv.data.expansion import expand_shards
from functaconv.data.items import Record
from functaconv.data.patience import source_timeout
from functaconv.data.shards import index_shard, read_records
from functaconv.data.storage import fingerprint, is_seekable, opened
from functaconv.errors import (
    ChangedInputError,
    FunctaconvError,
    InputError,
    MissingExtraError,
    ServiceError,
    UsageError,
)
from tests.archives import tar
from tests.data.servers import Answer, Script
from tests.data.test_shards import as_pairs, read, until_error

Serve = Callable[..., Script]
CONTENT = tar([(f"{number:03d}.npy", bytes([number]) * 2500) for number in range(200)])
RECORDS = as_pairs(read(CONTENT))


def url_of(script: Script, name: str = "train.tar") -> str:
    """With a user, a password and a signature."""
    return script.url.replace("//", "//user:SECRET1@") + f"/data/{name}?X-Signature=SECRET2#SECRET3"


def read_until_error(
    shard: str, known: dict[str, str | int] | None = None
) -> tuple[list[Record], FunctaconvError | None]:
    def opened_and_read() -> Iterator[Record]:
        with opened(shard, known=known) as stream:
            yield from read_records(shard, stream=stream)

    records, failure = until_error(opened_and_read())
    if failure is not None:
        told = "".join(traceback.format_exception(failure)) + str(failure.hint)
        assert "SECRET" not in told, told
        assert "127.0.0.1" in str(failure)
    return records, failure


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        ([Answer()], 1),
        ([Answer(chunked=True)], 1),
        ([Answer(503), Answer(500), Answer(429), Answer(408), Answer()], 5),
        ([Answer(stop=200_000), Answer()], 2),
        ([Answer(stop=200_000), Answer(ranges=False)], 2),
        ([Answer(stop=200_000), Answer(503), Answer(stop=150_000), Answer()], 4),
        ([Answer(stop=200_000), Answer(most=300_000), Answer(most=300_000)], 3),
        ([Answer(stop=0), Answer()], 2),
        ([Answer(chunked=True, stop=200_000), Answer(chunked=True)], 2),
        ([Answer(silent=True), Answer()], 2),
    ],
)
def test_a_server_with_troubles_gives_every_record_once(serve: Serve, answers: list[Answer], requests: int) -> None:
    script = serve(CONTENT, *answers)
    records, error = read_until_error(url_of(script))
    assert error is None
    assert as_pairs(records) == RECORDS
    assert len(script.asked) == requests


def test_a_body_that_breaks_off_is_gone_on_with_where_it_did(serve: Serve) -> None:
    script = serve(CONTENT, Answer(stop=200_000), Answer(stop=100_000), Answer())
    assert read_until_error(url_of(script))[1] is None
    assert script.ranges == [None, "bytes=200000-", "bytes=300000-"]
    # a length of what is sent is a length of what is read
    assert {headers["Accept-Encoding"] for headers in script.asked} == {"identity"}


@pytest.mark.parametrize(
    ("answers", "kind", "reason", "requests"),
    [
        ([Answer(404)], InputError, "404 Not Found", 1),
        ([Answer(403)], InputError, "403 Forbidden", 1),
        ([Answer(204)], InputError, "204 No Content", 1),
        ([Answer(503)], ServiceError, r"503 Service Unavailable \(tried 5 times\)", 5),
        ([Answer(stop=200_000, ranges=False)], ServiceError, "tried 5 times", 5),
        ([Answer(silent=True)], ServiceError, "has sent nothing for 0.6 s", 2),
        ([Answer(stop=200_000), Answer(etag='"b"')], ChangedInputError, "is not what it was", 2),
        ([Answer(stop=200_000), Answer(etag='"b"', ranges=False)], ChangedInputError, "is not what it was", 2),
        ([Answer(stop=200_000), Answer(404)], ChangedInputError, "gone", 2),
        ([Answer(stop=200_000), Answer(416)], ChangedInputError, "shorter than it was", 2),
        ([Answer(stop=200_000), Answer(403)], ServiceError, "403 Forbidden, which gave it before", 2),
    ],
)
def test_a_server_that_fails_is_an_error_of_its_kind(
    serve: Serve, answers: list[Answer], kind: type[FunctaconvError], reason: str, requests: int
) -> None:
    script = serve(CONTENT, *answers)
    records, error = read_until_error(url_of(script))
    assert as_pairs(records) == RECORDS[: len(records)]
    assert len(records) < len(RECORDS)
    assert type(error) is kind
    assert re.search(reason, str(error))
    assert error.hint
    assert len(script.asked) == requests


def test_128_shards_come_over_connections_that_break(serve: Serve) -> None:
    script = serve(tar([("a.npy", bytes(90_000)), ("b.npy", b"b")]), *[Answer(stop=60_000), *[Answer()] * 8] * 18)
    for number in range(128):
        assert len(read_until_error(url_of(script, f"{number}.tar"))[0]) == 2
    assert len(script.asked) == 128 + 16


def test_a_tar_that_was_cut_before_it_was_served_is_damaged(serve: Serve) -> None:
    records, error = read_until_error(url_of(serve(CONTENT[:300_000])))
    assert as_pairs(records) == RECORDS[: len(records)]
    assert records
    assert type(error) is InputError
    assert "cut short" in str(error)


def test_a_server_nobody_finds_is_a_service_error(hasty: None) -> None:
    _, error = read_until_error("http://127.0.0.1:1/a.tar?SECRET")
    assert type(error) is ServiceError
    assert "http://127.0.0.1:1/a.tar: connection refused" in str(error)


def test_an_encoding_is_read_as_compression(serve: Serve) -> None:
    """What a server calls an encoding of a tar is a .tar.gz: its length is that of the compressed bytes."""
    script = serve(gzip.compress(CONTENT), Answer(stop=1000, headers={"Content-Encoding": "gzip"}), Answer())
    records, error = read_until_error(url_of(script))
    assert error is None
    assert as_pairs(records) == RECORDS


def test_a_url_is_known_again_by_what_the_server_says(serve: Serve) -> None:
    script = serve(CONTENT, Answer(headers={"Last-Modified": "yesterday"}))
    found = fingerprint(url_of(script))
    assert found == {"name": "train.tar", "size": len(CONTENT), "etag": '"a"'}
    assert read_until_error(url_of(script), known=found)[1] is None
    script.answers = [Answer(etag='"b"')]
    assert type(read_until_error(url_of(script), known=found)[1]) is ChangedInputError
    script.answers = [Answer(404)]
    assert type(read_until_error(url_of(script), known=found)[1]) is ChangedInputError
    script.answers = [Answer(403)]
    assert type(read_until_error(url_of(script), known=found)[1]) is ServiceError
    script.answers = [Answer(etag=None, headers={"Last-Modified": "today"}, chunked=True)]
    assert fingerprint(url_of(script)) == {"name": "train.tar", "modified": "today"}


def test_who_stops_reading_hangs_up(serve: Serve) -> None:
    script = serve(CONTENT, Answer(silent=True, stop=100_000))
    records = read_records(url_of(script))
    assert next(records).key == "000"
    records.close()
    assert not is_seekable(url_of(script))
    with pytest.raises(InputError, match="plain local tar was expected"):
        index_shard(url_of(script))
    assert len(script.asked) == 1


def test_urls_stand_beside_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(CONTENT)
    specs = ["a.tar,https://x/t-{00..02}.tar?s={x}", "HTTP://u:p@y:80/b.tar"]
    urls = [f"https://x/t-0{number}.tar?s={{x}}" for number in range(3)]
    assert expand_shards(specs) == ["a.tar", *urls, "HTTP://u:p@y:80/b.tar"]
    whole = ["https://u:p,w@x/a.tar?ids=1,,2&X-Amz-Signature=S", "https://x/b,c.tar"]
    assert expand_shards([f" a.tar, {whole[0]}, {whole[1]},"]) == ["a.tar", *whole]
    with pytest.raises(UsageError, match=r"given more than once: https://x/a\.tar$"):
        expand_shards(["https://x/a.tar?SECRET", "https://x/a.tar?SECRET"])
    for bad in ("https://x/SECRET1.tar?{SECRET", "https://", "http://:80/?SECRET", "https://[::1/x?SECRET"):
        with pytest.raises(UsageError) as caught:
            list(read_records(expand_shards([bad])[0]))
        assert "SECRET" not in str(caught.value).replace("SECRET1", "")


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(MissingExtraError, match="obstore") as caught:
        expand_shards([f"{scheme}://b/a.tar"])
    assert caught.value.hint == "pip install 'functaconv[remote]'"


def test_a_login_goes_along_to_the_same_server_alone(serve: Serve) -> None:
    other = serve(CONTENT)
    script = serve(
        CONTENT, Answer(302, headers={"Location": "/else.tar"}), Answer(302, headers={"Location": other.url})
    )
    assert read_until_error(url_of(script))[1] is None
    assert [headers.get("Authorization") for headers in script.asked] == ["Basic dXNlcjpTRUNSRVQx"] * 2
    assert [headers.get("Authorization") for headers in other.asked] == [None]


def test_a_server_leads_nowhere_but_to_servers(serve: Serve) -> None:
    for place in ["file:///etc/passwd", "ftp://127.0.0.1/a.tar"]:
        _, error = read_until_error(url_of(serve(CONTENT, Answer(302, headers={"Location": place}))))
        assert type(error) is InputError


def test_proxies_of_the_environment_are_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    script = serve(CONTENT)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", script.url.replace("//", "//me:SECRET4@"))
    assert as_pairs(list(read_records("http://far.invalid/a.tar?x=1"))) == RECORDS
    assert script.asked[0]["Host"] == "far.invalid"
    assert script.asked[0]["Proxy-Authorization"].startswith("Basic ")


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_timeout_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(patience.TIMEOUT_VARIABLE, value)
    with pytest.raises(UsageError, match=patience.TIMEOUT_VARIABLE):
        source_timeout()
