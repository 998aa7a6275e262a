"""A folder of simple meshes, a class per sub-folder: `make_up.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
import trimesh

random = np.random.default_rng(0)
folder = Path(sys.argv[1])


def stool() -> trimesh.Trimesh:
    width, height, leg = random.uniform(0.6, 1), random.uniform(0.6, 1.2), random.uniform(0.08, 0.15)
    parts = [trimesh.creation.box((width, width, 0.12), trimesh.transformations.translation_matrix((0, 0, height)))]
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (width - leg) / 2, y * (width - leg) / 2, height / 2)
            parts.append(trimesh.creation.box((leg, leg, height), trimesh.transformations.translation_matrix(at)))
    return trimesh.util.concatenate(parts)


KINDS = {
    "box": lambda: trimesh.creation.box(random.uniform(0.3, 1, 3)),
    "ball": lambda: trimesh.creation.icosphere(3).apply_scale(random.uniform(0.4, 1, 3)),
    "ring": lambda: trimesh.creation.torus(1.0, random.uniform(0.2, 0.5)),
    "stool": stool,
}
for name, make in KINDS.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(12):
        make().export(folder / name / f"{name}_{number:02d}.off")
