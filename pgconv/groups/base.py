"""The interface of every group: what the layers call, and what a group of your own must provide."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pgconv.groups.numerics import norm

PARTS = ("all", "translation", "stabilizer")


class Group:
    """A Lie group (or a discrete extension of one) acting on R^d; an element is a tensor ``[..., element_dim]``.

    All methods are batched: leading axes broadcast as usual. All are differentiable in every tensor argument, contain
    no control flow that depends on values (so they trace under ``torch.compile`` and ``torch.func``), and keep dtype
    and device. `invalid` alone reads values back to the host.

    **A group of your own** is a subclass that sets

    - ``name``: a string, unique among groups in use;
    - ``element_dim``: numbers per element; ``coord_dim``: numbers given to the kernel net by the product chart;
      ``spatial_dim``: d of the space R^d acted on;

    and overrides

    - ``identity(dtype=None, device=None) -> [element_dim]``;
    - ``product(a, b)``, ``inverse(a)``: ``[..., element_dim]`` each;
    - ``act(g, x)``: ``[..., element_dim], [..., spatial_dim] -> [..., spatial_dim]``, a left action;
    - ``coordinates(g, chart="product", part="all") -> [..., coord_dim_of(chart, part)]``: smooth near the identity;
      begin with ``self.check_chart(chart, part)``.

    Everything else has a default that is right for any group and may be overridden for speed or range:

    - ``relative(v, u)`` = ``product(inverse(v), u)``; ``act_inverse(g, x)`` = ``act(inverse(g), x)``;
    - ``matrix(g)``: from the action on 0 and on the unit vectors (the action must be affine);
    - ``distance(a, b, stabilizer_weight=1.0)``: norm of ``coordinates(relative(a, b)) - coordinates(identity)``, the stabiliser's
      coordinates multiplied by the weight;
    - ``charts = ("product",)``, ``coord_dim_of``: extend both together when `coordinates` knows more charts;
    - ``translation_dim = 0``: set it when the first numbers of an element are a translation of R^d; then also set
      ``stabilizer`` (the group of the remaining numbers; by default the group itself), and extend ``coord_dim_of``
      and ``coordinates`` to the parts "translation" and "stabilizer";
    - ``grid(n)``: the identity for n = 1, no other grid; ``invalid(g)``: checks the last axis and finiteness;
    - ``lift``, ``isotropy``, ``sample_isotropy``, ``orbit_dim = 0``: what `pgconv.nn.PointLift` needs to name points by elements;
    - ``sample``, ``exp``, ``log``: raise `NotImplementedError`; layers that draw samples need ``sample``.

    Groups are immutable: copying one returns the same object, and two are equal when class and name are.
    `pgconv.groups.register` makes a group known by name; passing the instance itself works everywhere without that.

    >>> class Scaling(Group):                     # x -> e^s x on the line, stored as the one number s
    ...     name, element_dim, coord_dim, spatial_dim = "R+ on R", 1, 1, 1
    ...     def identity(self, dtype=None, device=None):
    ...         return torch.zeros(1, dtype=dtype, device=device)
    ...     def product(self, a, b):
    ...         return a + b
    ...     def inverse(self, a):
    ...         return -a
    ...     def act(self, g, x):
    ...         return g.exp() * x
    ...     def coordinates(self, g, chart="product", part="all"):
    ...         self.check_chart(chart, part)
    ...         return g if part != "translation" else g[..., :0]
    >>> G = Scaling()
    >>> G.relative(torch.tensor([0.5]), torch.tensor([2.0])), G.matrix(torch.zeros(1))
    (tensor([1.5000]), tensor([[1.]]))
    """

    name: str
    element_dim: int
    coord_dim: int
    spatial_dim: int
    translation_dim: int = 0
    orbit_dim: int = 0
    charts: tuple[str, ...] = ("product",)

    @property
    def stabilizer(self) -> Group:
        """The subgroup that fixes the origin of R^d; the group itself when it has no translations."""
        return self

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The neutral element, ``[element_dim]``."""
        raise self._missing("identity")

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """``a b``: ``[..., element_dim]`` twice, broadcast."""
        raise self._missing("product")

    def inverse(self, a: Tensor) -> Tensor:
        """``a^-1``, ``[..., element_dim]``."""
        raise self._missing("inverse")

    def relative(self, v: Tensor, u: Tensor) -> Tensor:
        """``v^-1 u``: ``[..., element_dim]`` twice, broadcast. ``relative(w v, w u) = relative(v, u)`` for every w."""
        return self.product(self.inverse(v), u)

    def act(self, g: Tensor, x: Tensor) -> Tensor:
        """``g . x``: ``[..., element_dim], [..., spatial_dim] -> [..., spatial_dim]``, broadcast."""
        raise self._missing("act")

    def act_inverse(self, g: Tensor, x: Tensor) -> Tensor:
        """``g^-1 . x``, shapes as `act`."""
        return self.act(self.inverse(g), x)

    def matrix(self, g: Tensor) -> Tensor:
        """Linear part of the action, ``[..., element_dim] -> [..., spatial_dim, spatial_dim]``."""
        basis = torch.eye(self.spatial_dim, dtype=g.dtype, device=g.device)
        g = g.unsqueeze(-2)
        return (self.act(g, basis) - self.act(g, torch.zeros_like(basis))).transpose(-1, -2)

    def exp(self, xi: Tensor) -> Tensor:
        """Exponential map from the algebra vectors `log` returns, to ``[..., element_dim]``."""
        raise self._missing("exp")

    def log(self, g: Tensor) -> Tensor:
        """Logarithm: algebra vectors with ``exp(log(g)) = g``."""
        raise self._missing("log")

    def coordinates(self, g: Tensor, chart: str = "product", part: str = "all") -> Tensor:
        """Coordinates given to the kernel net, ``[..., element_dim] -> [..., coord_dim_of(chart, part)]``."""
        raise self._missing("coordinates")

    def coord_dim_of(self, chart: str, part: str = "all") -> int:
        """Number of coordinates in ``chart`` and ``part``; ``coord_dim`` is that of the product chart."""
        self.check_chart(chart, part)
        return 0 if part == "translation" else self.coord_dim

    def distance(self, a: Tensor, b: Tensor, stabilizer_weight: float = 1.0) -> Tensor:
        """A distance ``[...] >= 0`` that depends on ``a^-1 b`` only, so it is the same for ``(w a, w b)``.

        ``stabilizer_weight`` multiplies what the stabiliser contributes, here all coordinates behind the translation's.
        """
        offset = self.coordinates(self.relative(a, b)) - self.coordinates(self.identity(dtype=a.dtype, device=a.device))
        moved = self.coord_dim_of("product", "translation")
        return norm(torch.cat([offset[..., :moved], stabilizer_weight * offset[..., moved:]], dim=-1))

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` random elements, ``[n, element_dim]``."""
        raise self._missing("sample")

    def grid(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Regular grid of the stabiliser with zero translation, ``[n, element_dim]``; here only n = 1."""
        if n != 1:
            raise ValueError(f"grid: n is {n}, but {self.name} has a regular grid only for n = 1 (the identity)")
        return self.identity(dtype=dtype, device=device).unsqueeze(0)

    def lift(self, x: Tensor) -> Tensor:
        """An element that sends the reference point of x's orbit to x, then the ``orbit_dim`` coordinates of that orbit:
        ``[..., spatial_dim] -> [..., element_dim + orbit_dim]``."""
        raise self._missing("lift")

    def isotropy(self, n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Regular grid ``[n, element_dim]`` of the elements that leave all reference points where they are."""
        raise self._missing("isotropy")

    def sample_isotropy(
        self,
        n: int,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Random ones of those, ``[n, element_dim]``."""
        raise self._missing("sample_isotropy")

    def invalid(self, g: Tensor) -> str | None:
        """Why ``g`` does not hold elements of this group, or None. NaN is let through. Waits for the device."""
        if g.dim() == 0 or g.shape[-1] != self.element_dim:
            return f"elements of {self.name} have {self.element_dim} numbers on the last axis, got {tuple(g.shape)}"
        # A finite sum has no infinite part, and is found out with fewer operations.
        if not math.isfinite(g.sum().item()) and bool(torch.isinf(g).any()):
            return f"an element of {self.name} has an infinite component"
        return None

    def split(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Translation ``[..., translation_dim]`` and stabiliser element ``[..., element_dim - translation_dim]``."""
        self.check_element(g)
        return g[..., : self.translation_dim], g[..., self.translation_dim :]

    def embed_stabilizer(self, h: Tensor) -> Tensor:
        """The element with zero translation and stabiliser part ``h [..., element_dim - translation_dim]``."""
        if self.translation_dim == 0:
            return h
        return torch.cat([h.new_zeros(*h.shape[:-1], self.translation_dim), h], dim=-1)

    def check_chart(self, chart: str, part: str = "all") -> None:
        """Raise `ValueError` unless ``chart`` is one of ``charts`` and ``part`` one of all, translation, stabilizer."""
        if chart not in self.charts:
            raise ValueError(f"chart: {chart!r} is not available for {self.name}; choose from {', '.join(self.charts)}")
        if part not in PARTS:
            raise ValueError(f"part: unknown part {part!r}; choose from {', '.join(PARTS)}")

    def check_element(self, g: Tensor) -> None:
        """Raise `ValueError` unless the last axis of ``g`` has ``element_dim`` numbers."""
        if g.dim() == 0 or g.shape[-1] != self.element_dim:
            raise ValueError(
                f"an element of {self.name} is a tensor [..., {self.element_dim}], got shape {tuple(g.shape)}"
            )

    def _missing(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} ({self.name}) does not define {method}(); override it")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.name == self.name

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __copy__(self) -> Group:
        return self

    def __deepcopy__(self, memo: dict) -> Group:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class FixedSequence:
    """In place of a generator: always the same numbers, evenly spread. Compiled and exported code cannot make a generator."""


def uniforms(n: int, dim: int, generator: torch.Generator | FixedSequence | None) -> Tensor:
    """``[n, dim]`` numbers in [0, 1), in double precision whatever the result's dtype will be, so that one seed gives
    the same elements in every dtype."""
    if n < 0:
        raise ValueError(f"sample: n must be >= 0, got {n}")
    if isinstance(generator, FixedSequence):
        return _evenly_spread(n, dim)
    device = None if generator is None else generator.device
    # See sampling.base: no generator is not the same as one that is None where sizes are symbols.
    own = {} if generator is None else {"generator": generator}
    return torch.rand(n, dim, dtype=torch.float64, device=device, **own)


def _evenly_spread(n: int, dim: int) -> Tensor:
    """Multiples of powers of the root of ``x^(dim + 1) = x + 1`` (dim 1: the golden ratio), modulo 1: Roberts (2018)."""
    root = 1.5
    for _ in range(60):
        root = (1 + root) ** (1 / (dim + 1))
    steps = torch.arange(1, n + 1, dtype=torch.float64)[:, None] * root ** -torch.arange(
        1, dim + 1, dtype=torch.float64
    )
    return (0.5 + steps) % 1


def cast(x: Tensor, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor:
    """Cast to the dtype asked for (torch's default when None) and, when named, to the device."""
    return x.to(dtype=dtype or torch.get_default_dtype(), device=device if device is not None else x.device)


def turn_grid(n: int) -> Tensor:
    """Angles ``2 pi i / n``, i = 0..n-1, ``[n]`` in double precision."""
    return (2 * math.pi) * torch.arange(n, dtype=torch.float64) / n
