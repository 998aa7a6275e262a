"""Where shards lie: what may be run, what is shown, what can be read again."""

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from functaconv.data.expansion import expand_shards
from functaconv.data.naming import short_name, shown
from functaconv.data.shards import index_shard, read_records
from functaconv.data.storage import fingerprint, is_read_once, is_seekable
from functaconv.errors import InputError, UsageError
from tests.archives import tar
from tests.data.test_shards import MEMBERS, as_pairs, read, until_error

RECORDS = as_pairs(read(tar(MEMBERS)))


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.tar"
    path.write_bytes(tar(MEMBERS))
    return path


def test_a_command_is_read_when_it_is_allowed(shard: Path) -> None:
    (name,) = expand_shards(["pipe:gzip -c x.tar | cat"], allow_pipe=True)
    records, error = until_error(read_records(name))
    assert error is None
    assert as_pairs(records) == RECORDS
    assert fingerprint(name) == {"name": "pipe:gzip ..."}


@pytest.mark.parametrize("spec", ["pipe:touch ran", "x.tar,pipe:touch ran", "pipe:touch{1..2} ran"])
def test_a_command_that_is_not_allowed_is_not_run(shard: Path, spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand_shards([spec])
    assert caught.value.hint
    assert not Path("ran").exists()


def test_a_file_does_not_become_a_command_by_its_name(shard: Path) -> None:
    """Names come from whoever fills a directory."""
    for name in ("pipe:touch ran; cat x.tar", "-", "-.tar"):
        shard.with_name(name).write_bytes(shard.read_bytes())
    for specs in (["pipe*"], ["pipe:touch ran; cat x.tar"], ["[-p]*"]):
        for allow_pipe in (False, True):
            for name in expand_shards(specs, allow_pipe=allow_pipe):
                assert as_pairs(list(read_records(name))) == RECORDS
                assert is_seekable(name)
    assert not Path("ran").exists()
    assert expand_shards(["[-]"]) == ["./-"]


def test_a_command_that_fails_is_an_error_of_its_shard(shard: Path) -> None:
    for command, reason, count in [
        # the tar is whole, and still it may not be all that was to come
        ("cat x.tar; exit 3", "the command ended with status 3", 4),
        ("head -c 4000 x.tar; exit 4", "the command ended with status 4", 1),
        ("head -c 4000 x.tar", "cut short", 1),
        ("exit 5", "the command ended with status 5", 0),
        ("kill -9 $$", "the command ended by SIGKILL", 0),
        ("true", "an empty file", 0),
        ("no-such-command-SECRET", "with status 127", 0),
    ]:
        records, error = until_error(read_records(f"pipe:exec 2>/dev/null; {command}"))
        assert as_pairs(records) == RECORDS[:count]
        assert type(error) is InputError
        assert reason in str(error)
        assert error.hint
        assert str(error).startswith("pipe:exec ...: ")
        assert "SECRET" not in str(error)


def _is_running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_who_stops_reading_ends_the_command_and_all_it_started(shard: Path) -> None:
    command = "trap '' TERM PIPE; sleep 100 & echo $! $$ > pids; while true; do cat x.tar; done"
    records = read_records(f"pipe:{command}")
    next(records)
    processes = [int(number) for number in Path("pids").read_text().split()]
    assert len(processes) == 2
    assert all(map(_is_running, processes))
    records.close()
    deadline = time.monotonic() + 10
    while any(map(_is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_is_running, processes))


def test_a_command_does_not_read_our_stdin(shard: Path) -> None:
    code = "from functaconv.data.shards import read_records; print(len(list(read_records('pipe:cat - x.tar'))))"
    ran = subprocess.run([sys.executable, "-c", code], input=b"garbage", capture_output=True, check=True)
    assert ran.stdout == b"4\n"


def test_only_plain_local_tars_can_be_read_in_any_order(shard: Path) -> None:
    Path("z.tar").write_bytes(gzip.compress(shard.read_bytes()))
    os.mkfifo("fifo.tar")
    able = {name: is_seekable(name) for name in ("x.tar", "z.tar", "fifo.tar", "-", "pipe:cat x.tar", "s3://b/x.tar")}
    assert able == {name: name == "x.tar" for name in able}
    once = {name: is_read_once(name) for name in able}
    assert once == {name: name in ("fifo.tar", "-", "pipe:cat x.tar") for name in able}
    assert fingerprint("fifo.tar") == {"name": "fifo.tar"}
    assert fingerprint("z.tar")["size"] == Path("z.tar").stat().st_size
    for name in ("z.tar", "fifo.tar", "pipe:cat x.tar"):
        with pytest.raises(InputError, match="plain local tar was expected"):
            index_shard(name)
    for function in (is_seekable, is_read_once, fingerprint):
        with pytest.raises(InputError, match="cannot read the shard gone"):
            function("gone.tar")


def test_nothing_secret_is_shown() -> None:
    for shard, expected in [
        ("a/b.tar", "a/b.tar"),
        ("a?b#c@d.tar", "a?b#c@d.tar"),
        ("-", "stdin"),
        ("https://x/a.tar", "https://x/a.tar"),
        ("https://user@x:80/a/b.tar?k=SECRET#SECRET", "https://x:80/a/b.tar"),
        ("https://user:SECRET@x/a@b.tar", "https://x/a@b.tar"),
        ("https://SECRET@SECRET@[::1]:80/a.tar", "https://[::1]:80/a.tar"),
        ("https://user:SEC/RET@x/a.tar", "https://..."),
        ("https://user:SEC?RET@x/a.tar", "https://..."),
        ("https://user:SEC#RET@x/a.tar", "https://..."),
        ("https://?SECRET", "https://..."),
        ("s3://bucket/a/b.tar?versionId=SECRET", "s3://bucket/a/b.tar"),
        ("s3://KEY:SECRET@bucket/a.tar", "s3://bucket/a.tar"),
        ("pipe:cat", "pipe:cat"),
        ("pipe:/usr/bin/curl -H 'X: SECRET' https://x", "pipe:/usr/bin/curl ..."),
        ("pipe:TOKEN=SECRET curl https://x", "pipe:..."),
        ("pipe:$(SECRET)", "pipe:..."),
        ("pipe:", "pipe:..."),
    ]:
        assert shown(shard) == expected
        assert "SECRET" not in short_name(shard)


def test_a_name_is_short_wherever_the_shard_lies() -> None:
    names = ["/data/a.tar", "a.tar", "https://u:p@x/data/a.tar?k=v", "s3://bucket/a.tar"]
    assert {short_name(name) for name in names} == {"a.tar"}
    assert short_name("-") == "-"
