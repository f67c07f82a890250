"""What all samplers share: checks, dtype and device, random numbers, and how elements are put together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pgconv.sampling.types import Samples

TWO_PI = 2 * math.pi


def kind_of(group) -> str:
    """What can be done with the stabiliser: "trivial", "mirror", "rotation" (SO(2), also with scales),
    "rotation+mirror" (O(2)), or "other" (only its group law, grid and Haar measure are used)."""
    h = group.stabilizer
    if h.element_dim == 0:
        return "trivial"
    rotation, mirror, scale = (getattr(h, part, False) for part in ("rotation", "mirror", "scale"))
    if rotation:
        return "rotation+mirror" if mirror else "rotation"
    return "mirror" if mirror and not scale else "other"


def check_stabilizer(owner: str, group) -> None:
    """Refuses groups without anything to learn."""
    if kind_of(group) == "trivial":
        raise ValueError(
            f"{owner} learns a part of the stabiliser, but {group.name} has none; use 'fixed' with n=1, or a group such as SE(2)"
        )


def planar(group, angle: Tensor, mirror: Tensor | None = None) -> Tensor:
    """Stabiliser elements [..., k] of a planar group from angles [...] and mirrors (broadcast), log scale 0."""
    parts = [angle]
    if getattr(group.stabilizer, "mirror", False):
        parts.append(mirror.expand_as(angle))
    if getattr(group.stabilizer, "scale", False):
        parts.append(torch.zeros_like(angle))
    return torch.stack(parts, dim=-1)


def from_release(angle: Tensor, mirror: Tensor) -> Tensor:
    """Counter-clockwise angle of the element that the method's release stores as (clockwise angle, mirror).

    The release acts on (row, col) as diag(1, m) R(a): a mirror of the column axis after a clockwise rotation. In
    x = col, y = -row, with the mirror of the y axis first, the same map has angle -a for m = +1 and pi + a for m = -1;
    written polynomially in m, as the mirror may carry a gradient.
    """
    return -mirror * angle + (1 - mirror) * (0.5 * math.pi)


def _is_meta(tensor: Tensor) -> bool:
    return tensor.device.type == "meta"


def leave_meta(module: nn.Module, device: torch.device) -> None:
    """Give samplers in ``module`` those tables on ``device`` that are on the meta device.

    Tables are not in the state dict, so ``load_state_dict(assign=True)`` replaces parameters and would leave tables behind.
    """
    for sampler in module.modules():
        if isinstance(sampler, Sampler) and device.type != "meta" and _is_meta(sampler._like):
            for name in sampler._table_values:
                sampler._buffers[name] = sampler._table(name).to(device)
            sampler._like = torch.empty_like(sampler._like, device=device)


class Sampler(nn.Module):
    """Draws N elements of the stabiliser of ``group``; ``forward(batch_size=1, generator=None) -> Samples``.

    Elements and weights are on the module's device, in ``dtype`` (float32 or float64); ``module.double()`` raises it to
    float64 and ``module.half()`` leaves it at float32. Shapes depend on the module only, nothing is read back from the
    device, and forward changes no state: a seeded generator repeats training draws, and in eval mode the set is fixed.
    Random numbers are drawn in float64 on the generator's device (the module's when none is given).

    With ``per_example`` the sets of a training batch are independent, S = batch_size; all else gives S = 1.
    Raises ``ValueError`` for a group that is not a group object, n < 1, a dtype below float32 or an unknown compat.
    """

    _like: Tensor

    def __init__(self, group, n: int, per_example: bool = False, compat: str | None = None, dtype=torch.float32):
        super().__init__()
        owner = type(self).__name__
        if not hasattr(group, "stabilizer"):
            raise ValueError(f"{owner}: group must be a group object, got {group!r}; use pgconv.groups.get(name)")
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValueError(f"{owner}: n must be an integer >= 1 (number of samples), got {n!r}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{owner}: dtype must be torch.float32 or torch.float64, got {dtype}")
        if compat not in (None, "release"):
            raise ValueError(f"{owner}: compat must be None or 'release', got {compat!r}")
        self.group = group
        self.n = n
        self.per_example = per_example
        self.compat = compat
        self.kind = kind_of(group)
        planar_kinds = ("trivial", "mirror", "rotation", "rotation+mirror")
        if compat and (self.kind not in planar_kinds or getattr(group.stabilizer, "scale", False)):
            raise ValueError(
                f"{owner}: compat='release' exists for T(2), M(2), SE(2), E(2) only, got {group.name}; use compat=None"
            )
        self._table_values: dict[str, Tensor] = {}
        self.register_buffer("_like", torch.empty(0, dtype=dtype), persistent=False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Learned ranges and gates as they begin: the whole group."""
        for parameter in self.parameters(recurse=False):
            parameter.fill_(1.0)

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the elements."""
        return torch.promote_types(self._like.dtype, torch.float32)

    def anneal(self, fraction: float) -> None:
        """Set the share of training that is over, in [0, 1]; only relaxed gates use it."""

    def _add_table(self, name: str, make, persistent: bool = False) -> None:
        """Register the float64 tensor make() as a buffer that keeps float64 when the module is cast.

        What the state dict lacks has to outlive a stay on the meta device: a second copy, no buffer, stays on the CPU.
        """
        with torch.device("cpu"):  # the value must exist even while a model is being built on the meta device
            table = make()
        self._table_values[name] = table.clone()
        self.register_buffer(name, table.to(torch.get_default_device()), persistent=persistent)

    def _table(self, name: str) -> Tensor:
        """The table as it is, or as it began where it has no storage."""
        table = self.get_buffer(name)
        return self._table_values[name].clone() if _is_meta(table) else table

    def _apply(self, fn, recurse: bool = True):
        before = {name: self.get_buffer(name) for name in self._table_values}
        values = {name: self._table(name) for name in before}
        super()._apply(fn, recurse)
        for name, table in before.items():
            found = self.get_buffer(name)
            # Only the device is taken from fn, which may lower the dtype or leave memory unwritten.
            if found is not table:
                self._buffers[name] = values[name].to(found.device)
        return self

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        own = [*self.parameters(recurse=False), *self.buffers(recurse=False)]
        for device in {t.device for t in own if not _is_meta(t)}:
            leave_meta(self, device)

    def _num_sets(self, batch_size: int) -> int:
        if batch_size < 0:
            raise ValueError(f"{type(self).__name__}: batch_size must be >= 0, got {batch_size}")
        return batch_size if self.per_example and self.training else 1

    def _uniform(self, *shape: int, generator: torch.Generator | None, device=None) -> Tensor:
        """Numbers in [0, 1) in float64, on the module's device unless another is given."""
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(f"{type(self).__name__}: generator must be a torch.Generator or None, got {generator!r}")
        target = self._like.device if device is None else torch.device(device)
        source = target if generator is None else generator.device
        # Compiled with a batch of any size, rand takes no generator, not even None.
        own = {} if generator is None else {"generator": generator}
        drawn = torch.rand(*shape, dtype=torch.float64, device=source, **own)
        # A copy to an accelerator without blocking is safe: the source is staged before the call returns.
        return drawn.to(target, non_blocking=target.type != "cpu")

    def _haar(self, sets: int, n: int, generator: torch.Generator | None, device=None) -> Tensor:
        """Haar-uniform stabiliser elements [sets, n, k] in float64."""
        h = self.group.stabilizer
        if hasattr(h, "from_uniform"):
            return h.from_uniform(self._uniform(sets, n, h.uniform_dim, generator=generator, device=device))
        device = self._like.device if device is None else device
        return h.sample(sets * n, generator=generator, dtype=torch.float64, device=device).unflatten(0, (sets, n))

    def _index(self, count: int) -> Tensor:
        """0, 1, .., count - 1 in float64."""
        return torch.arange(count, dtype=torch.float64, device=self._like.device)

    def _samples(self, h: Tensor, weights: Tensor | None = None) -> Samples:
        """Stabiliser elements [S, N, k] and weights (broadcast to [S, N]; ones by default) as Samples."""
        elements = self.group.embed_stabilizer(h).to(self.dtype)
        if weights is None:
            weights = torch.ones(h.shape[:-1], dtype=self.dtype, device=h.device)
        return Samples(elements, weights.to(self.dtype).expand(h.shape[:-1]))

    def _stabilizer_grid(self) -> Tensor:
        """The regular grid [n, k] of the stabiliser in float64, in the release's order if asked for."""
        grid = self.group.stabilizer.grid(self.n, dtype=torch.float64)
        if self.compat == "release" and self.kind.startswith("rotation"):
            mirror = grid[:, 1] if self.kind == "rotation+mirror" else torch.ones_like(grid[:, 0])
            return planar(self.group, from_release(grid[:, 0], mirror), mirror)
        return grid

    def extra_repr(self) -> str:
        extra = ", per_example=True" if self.per_example else ""
        return f"{self.group.name}, n={self.n}{extra}" + (f", compat={self.compat!r}" if self.compat else "")
