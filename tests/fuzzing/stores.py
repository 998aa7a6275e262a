"""The functaset loader with damaged stores: one file of a small store is changed, and all that is read is read."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random

import numpy as np

from functaconv.errors import FunctaconvError
from functaconv.functaset.opening import open_functaset, read_attributes
from functaconv.functaset.schema import Layout
from functaconv.functaset.verify import problems_of
from tests.functaset.conftest import LAYOUTS, encode

from .mutation import mutated, mutated_json

GRIDS = Layout(axes=("row", "column"), latent=6, bits="float32", modality="grid", variables=("t", "u"))


class Stores:
    """The functaset loader: one file of a small store is damaged, all that a consumer reads is read."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="functaconv-fuzz-"))
        layouts = {"plain": LAYOUTS["two"], "codes": LAYOUTS["codes"], "tiled": LAYOUTS["tiled"], "grids": GRIDS}
        self.stores = [encode(self.folder / name, layout, canonical=True) for name, layout in layouts.items()]
        self.files = [
            {str(file.relative_to(store)): file.read_bytes() for file in sorted(store.rglob("*")) if file.is_file()}
            for store in self.stores
        ]

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def case(self, random: Random) -> tuple[int, str, bytes | str]:
        """Number of the store, name of the file, and its content, or what is put in its place."""
        number = random.randrange(len(self.stores))
        files = self.files[number]
        data = [name for name in files if "/c/" in name]
        name = random.choice(["zarr.json"] * 12 + data * 2 + ["failed.jsonl", "report.json", "base.safetensors"])
        content = files[name]
        if random.random() < 0.03:
            return number, name, random.choice(("absent", "folder", "fifo", "link out", "link in", "endless"))
        if name == "zarr.json" and random.random() < 0.4:
            # the attributes are a text in it
            root = json.loads(content)
            said = mutated_json(random, json.loads(root["attributes"]["functaconv"]))
            root["attributes"]["functaconv"] = said.decode()
            return number, name, json.dumps(root).encode()
        if name.endswith(".json") and random.random() < 0.85:
            return number, name, mutated_json(random, json.loads(content))
        if name.endswith(".jsonl") and random.random() < 0.7:
            lines = [mutated_json(random, json.loads(line)) for line in content.splitlines()]
            return number, name, b"\n".join(lines) + b"\n" * random.randrange(3)
        return number, name, mutated(random, content, list(files.values()))

    def run(self, case: tuple[int, str, bytes | str]) -> None:
        number, name, content = case
        store = self.stores[number]
        try:
            self._put(store / name, content)
            self._read(store)
        finally:
            file = store / name
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
            file.write_bytes(self.files[number][name])

    def _put(self, file: Path, content: bytes | str) -> None:
        if isinstance(content, bytes):
            file.write_bytes(content)
            return
        file.unlink()
        outside = self.folder / "outside"
        outside.write_bytes(b"secret" * 100)
        match content:
            case "folder":
                file.mkdir()
            case "fifo":
                os.mkfifo(file)
            case "link out":
                file.symlink_to(outside)
            case "link in":
                file.symlink_to("zarr.json" if file.parent in self.stores else "../zarr.json")
            case "endless":
                file.symlink_to("/dev/zero")

    @staticmethod
    def _read(store: Path) -> None:
        # of what cannot be opened, all that is wrong is told
        problems = problems_of(read_attributes(store))
        try:
            functaset = open_functaset(store)
        except FunctaconvError:
            assert problems, "it is refused, and said to be sound"
            raise
        repr(functaset)
        for read in (
            lambda: (functaset.latents(), functaset.latents(normalize=True)),
            lambda: (functaset.keys, functaset.labels, functaset.shapes, functaset.mse, functaset.psnr),
            lambda: (functaset[0], functaset[-1], functaset.tiles, functaset.index(str(functaset.keys[0]))),
            lambda: [functaset.meta(row) for row in range(len(functaset))],
            lambda: [functaset.grid_of(row) for row in range(len(functaset)) if functaset.grids],
            lambda: [(grid.latitude, grid.longitude) for grid in functaset.grids],
            lambda: functaset.failures,
            lambda: (functaset.report, functaset.base_bytes(), functaset.nbytes()),
            lambda: functaset.latents(np.array([0, len(functaset) - 1])),
        ):
            try:
                read()
            except FunctaconvError as error:
                if not problems:
                    raise AssertionError("what cannot be read is said to be sound") from error
            except IndexError:
                assert len(functaset) == 0
