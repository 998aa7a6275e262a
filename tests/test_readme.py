"""Every block of the README runs, in order, as a reader would run it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- (?P<kind>[\w ]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)```", re.DOTALL)
BLOCKS = [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


def test_the_set_up_and_the_test_command_are_those_that_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    set_up, tests = (block["code"] for kind in ("set up", "tests") for block in BLOCKS if block["kind"] == kind)
    assert len(set_up.strip().splitlines()) == 2
    assert set_up.strip().splitlines()[1] in ci.splitlines()
    assert tests.strip() in ci.splitlines()


@pytest.mark.slow
def test_all_other_blocks_run_in_order(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("xarray")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FUNCTACONV_DEMO_MINUTES": "0.05",
        "FUNCTACONV_FIT_BASE_MINUTES": "0.05",
    }
    script = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
    ran = 0
    for block in BLOCKS:
        if block["kind"] is not None:
            continue
        # head may close the pipe early: that is what the block shows
        code = block["code"].replace("| head -3", "| (head -3; cat >/dev/null)")
        done = subprocess.run(
            [*script[block["language"]], code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{block['code']}\n{done.stdout}\n{done.stderr}"
        ran += 1
    assert ran == 8
    assert (tmp_path / "functaconv-demo" / "contact-sheet.png").stat().st_size > 10_000
    assert len(list((tmp_path / "pictures").iterdir())) == 4
