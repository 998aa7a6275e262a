"""Latents and labels as torch tensors, for training on a functaset. The one module here that needs torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from functaconv.functaset.forms import Form

if TYPE_CHECKING:
    from functaconv.functaset.reader import Functaset


class LatentDataset(Dataset[tuple[torch.Tensor, int]]):
    """(latent, label) per item, the latent float32 `[*sites, latent]` or in another form; workers open the functaset
    for themselves.
    """

    def __init__(self, functaset: "Functaset", *, normalize: bool, form: Form = "grid") -> None:
        self.functaset = functaset
        self.normalize, self.form = normalize, form

    def __len__(self) -> int:
        return len(self.functaset.item_rows)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int]:
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        """Many at once: a chunk that several of them share is read once."""
        rows = self.functaset.item_rows[np.asarray(items, np.int64)]
        if (views := self.functaset.attributes.views) > 1:
            rows = rows + torch.randint(views, (len(rows),)).numpy()
        latents = torch.from_numpy(self.functaset.latents(rows, normalize=self.normalize, form=self.form))
        return list(zip(latents, self.functaset.labels[rows].tolist(), strict=True))
