"""From latents to features: a linear latent map, then the coordinate network it modulates."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from functaconv.networks.correction import Correction
from functaconv.networks.initial import uniform
from functaconv.networks.mapping import Mapping
from functaconv.networks.network import Network, vjp
from functaconv.networks.placement import Placement
from functaconv.networks.reads import Reads
from functaconv.networks.refinement import Refinement
from functaconv.networks.sites import SiteGrid, neighbours
from functaconv.shapes import CellFeatures, CellJacobian, Coords, Features, Latents, Modulations

# spreads below this share of the largest count as it: numbers that hardly vary say little
LEAST_SPREAD = 1e-3
# where items do not differ at all
TINY = 1e-12


class LatentMap(nn.Module):
    """A linear map from a site's latent (kernel 1), or from its 3 x 3 neighbourhood (kernel 3), to modulations, and a
    nonlinear correction of it where there is one. With a mapping network (kernel 1) it is a linear map of its numbers.

    Beyond the border latents are zero. Weights start U(±1/sqrt(fan_in)), without a bias of its own: the network's
    biases are one already.
    """

    neighbourhood: Tensor
    reflected: Tensor

    def __init__(
        self,
        sites: SiteGrid,
        latent: int,
        modulations: int,
        *,
        kernel: int = 1,
        correction: Correction | None = None,
        mapping: Mapping | None = None,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        assert mapping is None or kernel == 1
        self.kernel, self.correction, self.mapping = kernel, correction, mapping
        around = neighbours(sites.shape, kernel // 2, is_closed=sites.is_closed)
        self.register_buffer("neighbourhood", around, persistent=False)
        # site t reads site s at offset o exactly when s lies at offset -o from t
        self.register_buffer("reflected", around.flip(-1), persistent=False)
        self.read = latent * around.shape[1]
        fan_in = self.read if mapping is None else mapping.width
        bound = fan_in**-0.5
        self.weight = nn.Parameter(uniform(modulations, fan_in, low=-bound, high=bound, generator=generator))

    def forward(self, latents: Latents) -> Modulations:
        """Modulations of every site."""
        linear = self._linear(latents)
        return linear if self.correction is None else linear + self.correction(latents)

    def vjp(self, latents: Latents) -> tuple[Modulations, Callable[[Modulations], Latents]]:
        """Modulations, and the function that pulls a cotangent of them back onto the latents."""
        if self.mapping is not None:
            return vjp(self, latents)
        if self.correction is None:
            return self._linear(latents), self._transposed
        correction, onto_latents = vjp(self.correction, latents)
        return self._linear(
            latents
        ) + correction, lambda cotangent: self._transposed(cotangent) + onto_latents(cotangent)

    def _linear(self, latents: Latents) -> Modulations:
        if self.kernel == 1:
            return (latents if self.mapping is None else self.mapping(latents)) @ self.weight.T
        padded = torch.cat([latents, torch.zeros_like(latents[:, :1])], 1)
        return padded[:, self.neighbourhood].flatten(2) @ self.weight.T

    def _transposed(self, cotangent: Modulations) -> Latents:
        back = cotangent @ self.weight
        if self.kernel == 1:
            return back
        count = self.neighbourhood.shape[1]
        back = back.reshape(*back.shape[:2], count, -1)
        padded = torch.cat([back, torch.zeros_like(back[:, :1])], 1)
        offsets = torch.arange(count, device=back.device)
        return padded[:, self.reflected, offsets].sum(2)

    @torch.no_grad()
    def substitute(self, matrix: Float[Tensor, "latent latent"], constant: Float[Tensor, " latent"]) -> None:
        """Become the same map of other latents, of which the present ones are `matrix @ other`: with a mapping network
        `matrix @ other + constant`.
        """
        if self.mapping is not None:
            self.mapping.substitute(matrix, constant)
            return
        per_site = self.weight.reshape(len(self.weight), -1, len(matrix)).to(matrix.dtype)
        self.weight.copy_((per_site @ matrix).flatten(1))
        if self.correction is not None:
            self.correction.substitute(matrix)


class ModulatedNetwork(nn.Module):
    """Latents and placed points to features: all that a base learns except its solver. What is linear in a global
    latent may have a refinement.
    """

    def __init__(
        self, network: Network, latent_map: LatentMap, sites: SiteGrid, refinement: Refinement | None = None
    ) -> None:
        super().__init__()
        self.network, self.latent_map, self.sites, self.refinement = network, latent_map, sites, refinement
        self._seen: tuple[object, Tensor] = (None, torch.empty(0))

    def forward(self, latents: Latents, placement: Placement) -> CellFeatures:
        """Features of every point of every cell."""
        modulation = self.latent_map(latents)
        if placement.by_corner is None:
            return self.refined(self.network.features(modulation, placement), latents, placement)
        return self._blended(self.network.features(modulation, placement.windows), placement)

    def on_grid(self, latents: Latents, coords: Coords) -> Features | None:
        """Features of points behind windows, where that is little work since they form a grid; else None."""
        sites, is_window = self.sites, self.sites.count > 1 and self.sites.interpolation == "window"
        if not is_window or not self.network.sees_windows:
            return None
        return self.network.through_windows(self.latent_map(latents), sites, coords)

    def vjp(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, Callable[[CellFeatures], Latents]]:
        """Features, and the function that pulls a cotangent of them back onto the latents: through the linear part
        alone where there is a refinement, see `refined`.
        """
        modulation, onto_latents = self.latent_map.vjp(latents)
        if placement.by_corner is None:
            features, onto_modulations = self.network.vjp(modulation, placement)
            return self.refined(features, latents, placement), lambda cotangent: onto_latents(
                onto_modulations(cotangent)
            )
        by_window, onto_windows = self.network.vjp(modulation, placement.windows)
        return self._blended(by_window, placement), lambda cotangent: onto_latents(
            onto_windows(placement.parted(cotangent))
        )

    def jacobian(self, latents: Latents, placement: Placement) -> tuple[CellFeatures, CellJacobian]:
        """Features, and their derivative by the latents their cell reads (`reads`), at every point.

        That of the correction or refinement is left out: what it is needed for, the normal matrix of a step, is then
        that of the linear map wherever the latents are, and each cell reads a few sites only.
        """
        onto, modulation, mapping = self.latent_map.weight, self.latent_map(latents), self.latent_map.mapping
        if mapping is not None and self.network.forward_mode:
            # of a global latent: one number of it after the other goes through both
            return self.network.jacobian(modulation, placement, onto @ mapping.jacobian(latents))
        if placement.by_corner is not None:
            assert placement.blend is not None
            by_window, rows = self.network.jacobian(modulation, placement.windows, onto)
            rows = self._by_latents(rows, latents, placement.windows)
            rows = rows.reshape(len(rows), len(placement.index), -1, *rows.shape[2:])
            rows = torch.einsum("cpk,ickpfn->icpfkn", placement.blend, rows).flatten(-2)
            return self._blended(by_window, placement), rows
        features, rows = self.network.jacobian(modulation, placement, onto)
        features = self.refined(features, latents, placement)
        if placement.blend is None:
            return features, self._by_latents(rows, latents, placement)
        if mapping is not None:
            assert placement.corners is not None
            through = mapping.jacobian(latents)[:, placement.corners]
            rows = torch.einsum("cpk,icpfm,ickmn->icpfkn", placement.blend, rows, through).flatten(-2)
        else:
            rows = torch.einsum("cpk,icpfn->icpfkn", placement.blend, rows).flatten(-2)
        return features, rows

    def _by_latents(
        self, rows: Float[Tensor, "#item #cell point channel read"], latents: Latents, placement: Placement
    ) -> CellJacobian:
        """Derivatives by what the latent map's matrix is applied to, as derivatives by the latents."""
        if self.latent_map.mapping is None:
            return rows
        return rows @ placement.spread(self.latent_map.mapping.jacobian(latents))

    def _blended(self, by_window: Float[Tensor, "item window point channel"], placement: Placement) -> CellFeatures:
        features, common = placement.blended(by_window), self.network.common(placement.coords)
        return features if common is None else features + common

    def refined(self, linear: CellFeatures, latents: Latents, placement: Placement) -> CellFeatures:
        """Features of the linear part, with what the refinement adds where there is one.

        A fit takes no derivative of it: it ends where the linear part of what is missing is zero. The refinement is
        learned for such latents, and a step costs no more than an evaluation.
        """
        if self.refinement is None:
            return linear
        values = torch.einsum("kcn,in->ikc", self._derivatives_at_knots(), latents[:, 0])
        added = self.refinement(values)
        return linear + self.refinement.read(added, placement.coords[0])[:, None]

    def _derivatives_at_knots(self) -> Float[Tensor, "knot channel latent"]:
        """Of the linear part; computed anew only when it has changed."""
        assert self.refinement is not None
        weight = self.latent_map.weight
        version = (weight.data_ptr(), None if weight.is_inference() else weight._version, weight.dtype)
        if self._seen[0] != version:
            # gradients may be wanted later, where none are now
            with torch.inference_mode(False), torch.no_grad():
                placement = self.sites.place(self.refinement.places.to(weight))
                _, rows = self.network.jacobian(weight.new_zeros(1, 1, len(weight)), placement, weight)
                self._seen = version, rows[0, 0]
        return self._seen[1]

    @torch.no_grad()
    def expect(self, spread: Float[Tensor, " latent"]) -> None:
        """Latents lie around zero with these standard deviations, and are not correlated: tell what is nonlinear."""
        if self.refinement is not None:
            squares = (self._derivatives_at_knots() * spread).square().sum(-1)
            self.refinement.spread.copy_(squares.mean().sqrt().clamp(min=TINY))
        elif self.latent_map.correction is not None:
            least = max(TINY, LEAST_SPREAD * float(spread.max()))
            self.latent_map.correction.spread.copy_(spread.clamp(min=least))

    @property
    def absorbs_constants(self) -> bool:
        """What all latents have in common can become part of the network: not where it scales a layer, nor where it
        is missing beyond the border. A mapping network has biases that take it.
        """
        if self.latent_map.mapping is not None:
            return True
        return self.latent_map.kernel == 1 and self.network.absorbs_constants and not self.is_corrected

    @property
    def nonlinear(self) -> Correction | Refinement | None:
        """What is learned on top of a linear base: of the latent map, or of what it leads to."""
        return self.latent_map.correction if self.refinement is None else self.refinement

    @property
    def is_corrected(self) -> bool:
        """There is something nonlinear on top of a linear base."""
        return self.nonlinear is not None

    @property
    def keeps_derivatives(self) -> bool:
        """Those that a fit takes are the same everywhere: features are linear, or refined from what is."""
        return self.is_linear or self.refinement is not None

    @property
    def is_linear(self) -> bool:
        """Features are linear in the latent, and their Jacobian is the same everywhere."""
        return self.network.is_linear and not self.is_corrected and self.latent_map.mapping is None

    @property
    def cells(self) -> int:
        """How many cells there are, at most."""
        beyond = 0 if self.sites.count == 1 or self.sites.interpolation == "nearest" else 1
        return math.prod(size + beyond for size in self.sites.shape)

    @torch.no_grad()
    def substitute(self, matrix: Float[Tensor, "latent latent"], constant: Float[Tensor, " latent"]) -> None:
        """Become the same functions of other latents, of which the present ones are `matrix @ other + constant`."""
        assert self.absorbs_constants or not constant.any()
        if self.absorbs_constants and self.latent_map.mapping is None:
            self.network.absorb(self.latent_map.weight.to(constant.dtype) @ constant)
        self.latent_map.substitute(matrix, constant)

    def reads(self, placement: Placement) -> Reads | None:
        """Whose latents a cell's points depend on, in the order of the Jacobian's columns; None when cell i reads
        site i only.
        """
        if self.latent_map.kernel == 1:
            return placement.reads
        return placement.reads_around(self.latent_map.neighbourhood)
