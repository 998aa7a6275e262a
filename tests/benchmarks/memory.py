"""Peak memory of encoding few and many items: `python -m tests.benchmarks.memory OUT.json [FEW MANY]`.

Tiny images (8 x 8), 10,000 and 100,000 of them by default, are encoded in a process each; their peaks should be alike.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from functaconv.training import fit_base
from tests.benchmarks.provenance import provenance

SIDE, PER_SHARD, DIFFERENT = 8, 20_000, 256
MIB = 1 << 20
TINY = {
    "network": {"width": 16, "depth": 3},
    "latent": {"numbers": 8},
    "training": {"steps": 20, "batch_size": 16},
}
PROGRAM = """
import json, resource, sys
from functaconv.conversion import encode
encoded = encode(sys.argv[1], sys.argv[2], sys.argv[3], device="cpu")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"items": encoded.report["count"], "peak": peak * 1024}))
"""


def peaks(folder: Path, counts: Sequence[int]) -> dict[int, int]:
    """Bytes at the peak, by the number of items."""
    pictures = _pictures()
    sample = folder / "sample.tar"
    _write(sample, pictures, 0, 200)
    fit_base(str(sample), folder / "base.safetensors", settings=TINY, device="cpu")
    found = {}
    for count in counts:
        shards = folder / str(count)
        shards.mkdir()
        for number, start in enumerate(range(0, count, PER_SHARD)):
            _write(shards / f"{number:06d}.tar", pictures, start, min(start + PER_SHARD, count))
        command = [sys.executable, "-c", PROGRAM, folder / "base.safetensors", shards, folder / f"{count}.zarr"]
        began = time.monotonic()
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        if result["items"] != count:
            raise RuntimeError(f"{result['items']} of {count} items came through")
        found[count] = int(result["peak"])
        print(f"{count} items: {found[count] / MIB:.0f} MiB, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found


def _pictures() -> list[bytes]:
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(DIFFERENT):
        buffer = BytesIO()
        Image.fromarray(random.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    return pictures


def _write(path: Path, pictures: Sequence[bytes], start: int, stop: int) -> None:
    with tarfile.open(path, "w") as archive:
        for number in range(start, stop):
            member = tarfile.TarInfo(f"{number:08d}.png")
            content = pictures[number % len(pictures)]
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


def main() -> None:
    out, counts = Path(sys.argv[1]), [int(count) for count in sys.argv[2:]] or [10_000, 100_000]
    with tempfile.TemporaryDirectory() as folder:
        found = peaks(Path(folder), counts)
    row = {"items": counts, "peak_bytes": [found[count] for count in counts], **provenance()}
    out.write_text(json.dumps(row, indent=2) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
