"""Networks to be tested, small and in float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from functaconv.networks import NETWORKS, Inputs, LatentMap, ModulatedNetwork, SirenOptions, SiteGrid

CHANNELS, LATENT = 2, 3


@dataclass(frozen=True)
class Layout:
    """Where the latents of a network live, and a grid of points whose sizes the sites do not divide."""

    sites: SiteGrid
    kernel: int
    points: tuple[int, ...]

    @property
    def dims(self) -> int:
        return len(self.points)

    def coords(self) -> Tensor:
        axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in self.points]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dims)


LAYOUTS = {
    "global-2d": Layout(SiteGrid((1, 1)), 1, (4, 5)),
    "nearest-3d": Layout(SiteGrid((2, 1, 2)), 1, (3, 2, 3)),
    "nearest-2d-global-frame": Layout(SiteGrid((2, 3), frame="global"), 1, (4, 6)),
    "sites-without-points": Layout(SiteGrid((3, 4)), 1, (2, 3)),
    "linear-2d-local-frame": Layout(SiteGrid((2, 3), "linear", "local"), 1, (5, 6)),
    "kernel3-1d": Layout(SiteGrid((4,)), 3, (9,)),
    "linear-kernel3-2d": Layout(SiteGrid((2, 3), "linear", "global"), 3, (4, 5)),
}


WITH_SCALES = {"global-2d", "sites-without-points", "linear-2d-local-frame", "kernel3-1d"}


@pytest.fixture(params=LAYOUTS)
def layout_name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def layout(layout_name: str) -> Layout:
    return LAYOUTS[layout_name]


@pytest.fixture(params=["siren"])
def field(request: pytest.FixtureRequest, layout_name: str) -> ModulatedNetwork:
    """A network of each kind on each layout, half of them with scales."""
    return field_of(LAYOUTS[layout_name], request.param, layout_name in WITH_SCALES)


def field_of(
    layout: Layout, kind: str = "siren", film: bool = False, width: int = 5, depth: int = 4
) -> ModulatedNetwork:
    generator = torch.Generator().manual_seed(1)
    options = SirenOptions(
        width=width, depth=depth, w0_first=7.0, w0_hidden=5.0, modulation="film" if film else "shift"
    )
    inputs = Inputs(coords=layout.dims, channels=CHANNELS, axes=layout.dims)
    network = NETWORKS[kind](inputs, options, generator=generator)
    latent_map = LatentMap(layout.sites, LATENT, network.modulations, kernel=layout.kernel, generator=generator)
    field = ModulatedNetwork(network, latent_map, layout.sites).double()
    for bias in network.biases:
        # zeros would hide a bias that is forgotten
        torch.nn.init.uniform_(bias, -0.3, 0.3, generator=generator)
    return field


def latents_of(layout: Layout, items: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return 0.3 * torch.randn(items, layout.sites.count, LATENT, dtype=torch.float64, generator=generator)
