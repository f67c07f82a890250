"""Groups of linear maps of R^d: the stabilisers a semidirect product is built from."""

from __future__ import annotations

import torch
from torch import Tensor

from pgconv.groups.base import Group, cast, uniforms


class LinearGroup(Group):
    """A group that acts on R^d linearly; beside `Group` it gives a semidirect product what depends on the action.

    A subclass adds to the contract of `Group`:

    - ``from_uniform(u)``: elements from numbers in [0, 1), ``[..., uniform_dim] -> [..., element_dim]``, carrying the
      uniform to the (truncated) Haar measure; `sample` is built on it;
    - ``algebra_dim``: numbers per algebra vector; ``jacobian(xi, t)`` and ``jacobian_solve(xi, t)``: V t and V^-1 t
      with ``V(xi) = int_0^1 exp(tau A(xi)) dtau``; only for the chart "lie" and for exp and log of the product;
    - ``log_norm(h)``: size of log(h), ``[..., element_dim] -> [...]``.
    """

    algebra_dim: int
    uniform_dim: int

    def from_uniform(self, u: Tensor) -> Tensor:
        """Elements from uniform numbers in [0, 1): ``[..., uniform_dim] -> [..., element_dim]``."""
        raise self._missing("from_uniform")

    def jacobian(self, xi: Tensor, t: Tensor) -> Tensor:
        """``V(xi) t``: ``[..., algebra_dim], [..., spatial_dim] -> [..., spatial_dim]``."""
        raise self._missing("jacobian")

    def jacobian_solve(self, xi: Tensor, t: Tensor) -> Tensor:
        """``V(xi)^-1 t``, shapes as `jacobian`."""
        raise self._missing("jacobian_solve")

    def log_norm(self, h: Tensor) -> Tensor:
        """Size of log(h), zero only for the identity: ``[..., element_dim] -> [...]``."""
        raise self._missing("log_norm")

    def distance(self, a: Tensor, b: Tensor, stabilizer_weight: float = 1.0) -> Tensor:
        """``stabilizer_weight |log(a^-1 b)|``, ``[...]``; the same for ``(w a, w b)``."""
        return stabilizer_weight * self.log_norm(self.relative(a, b))

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` elements from the Haar measure, ``[n, element_dim]``; log scales uniform in [-log 2, log 2]."""
        return cast(self.from_uniform(uniforms(n, self.uniform_dim, generator)), dtype, device)


class Trivial(LinearGroup):
    """The group {e} on R^d: elements are tensors ``[..., 0]``.

    >>> Trivial(3).matrix(Trivial(3).identity())
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """

    element_dim = coord_dim = algebra_dim = uniform_dim = 0
    charts = ("product", "embed", "lie")

    def __init__(self, spatial_dim: int) -> None:
        if spatial_dim < 1:
            raise ValueError(f"spatial_dim must be >= 1, got {spatial_dim}")
        self.spatial_dim = spatial_dim
        self.name = f"{{e}} on R^{spatial_dim}"

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(0, dtype=dtype, device=device)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def inverse(self, a: Tensor) -> Tensor:
        return a

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        return x.expand(*torch.broadcast_shapes(g.shape[:-1], x.shape[:-1]), self.spatial_dim)

    def act_inverse(self, g: Tensor, x: Tensor) -> Tensor:
        return self.act(g, x)

    def exp(self, xi: Tensor) -> Tensor:
        return xi

    def log(self, g: Tensor) -> Tensor:
        return g

    def jacobian(self, xi: Tensor, t: Tensor) -> Tensor:
        return t

    def jacobian_solve(self, xi: Tensor, t: Tensor) -> Tensor:
        return t

    def coordinates(self, g: Tensor, chart: str = "product", part: str = "all") -> Tensor:
        self.check_chart(chart, part)
        return g

    def log_norm(self, h: Tensor) -> Tensor:
        return h.sum(-1)

    def from_uniform(self, u: Tensor) -> Tensor:
        return u
