"""A linear classifier on latents, four fifths for training: `classify.py STORE.zarr`."""

import sys

import torch

import functaconv

dataset = functaconv.open_functaset(sys.argv[1]).torch_dataset(normalize=True)
latents = torch.stack([latent.flatten() for latent, _ in dataset])
labels = torch.tensor([int(label) for _, label in dataset])
if labels.min() < 0:
    sys.exit("the items have no labels")
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[: 4 * len(order) // 5], order[4 * len(order) // 5 :]
classifier = torch.nn.Linear(latents.shape[1], int(labels.max()) + 1)
optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-2, weight_decay=0.1)
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(classifier(latents[train]), labels[train]).backward()
    optimizer.step()
right = (classifier(latents[test]).argmax(1) == labels[test]).float().mean()
print(f"{100 * float(right):.1f}% of {len(test)} items are in the right of {int(labels.max()) + 1} classes")
