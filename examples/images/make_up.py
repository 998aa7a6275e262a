"""Tiles of scikit-learn's photographs, a class for each photograph: `make_up.py FOLDER`."""

import sys
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

folder = Path(sys.argv[1])
for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for row in range(0, photograph.shape[0] - 63, 48):
        for column in range(0, photograph.shape[1] - 63, 48):
            tile = photograph[row : row + 64, column : column + 64]
            Image.fromarray(tile).save(folder / name / f"{row:03d}_{column:03d}.png")
