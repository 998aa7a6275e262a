"""The package is loaded lazily, and its public names are there."""

import os
import subprocess
import sys

import pytest

import functaconv


@pytest.mark.parametrize(("users", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_user_says_otherwise(users: str | None, used: str) -> None:
    code = (
        "import atexit, os, sys; from functaconv.cli import main; sys.argv = ['functaconv', '--version']; "
        "atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)); main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": users} if users else {}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert ran.stdout.splitlines()[-1] == f"{used} False"


def test_every_public_name_is_importable() -> None:
    for name in functaconv.__all__:
        assert getattr(functaconv, name) is not None
    assert set(functaconv.__all__) <= set(dir(functaconv))
