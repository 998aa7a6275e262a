"""Warnings of libraries on the command line: one line each, before an error, never in the middle of the work."""

from pathlib import Path

from tests.cli.conftest import Invoke
from tests.conftest import tar
from tests.data.test_noise import damaged_tiff


def test_the_command_line_tells_warnings_at_the_end(tmp_path: Path, invoke: Invoke) -> None:
    shard = tar(tmp_path / "a.tar", {f"{number}.tif": damaged_tiff() for number in range(3)})
    ran = invoke("inspect", shard, "--verify", "--json")
    assert ran.code == 0
    lines = ran.errors.splitlines()
    assert lines[0].startswith("warning: ")
    assert "libtiff: Fax4Decode: Bad code word at line" in lines[0]
    assert "(and 2 more times)" in lines[0]
    assert all(line.startswith("warning: ") for line in lines)
    assert invoke("inspect", shard, "--verify", "--json", "-q").errors == ""
