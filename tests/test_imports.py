"""The package is loaded lazily, and its public names are there."""

import subprocess
import sys

import functaconv


def test_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from functaconv.cli.app import run; code = run(['--help']); "
        "assert not {'torch', 'numpy', 'zarr', 'PIL'} & set(sys.modules), 'heavy import'; sys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_every_public_name_is_importable() -> None:
    for name in functaconv.__all__:
        assert getattr(functaconv, name) is not None
    assert set(functaconv.__all__) <= set(dir(functaconv))
