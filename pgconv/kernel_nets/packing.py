"""One flat vector for all parameters of a kernel net, and the net as a pure function of it.

Layout of the packed vector (the only place where it is written down; native kernels read the same)::

    for each hidden layer l = 1 .. layers - 1:
        A_l   hidden x in, row-major      (in = coord_dim for l = 1, else hidden)
        b_l   hidden
    omega0                                (activation "sin" only: one last number)

and the net is ``h_0 = coords``, ``h_l = act(A_l h_(l-1) + b_l)``, for "sin" ``h_l = sin(omega0 (A_l h_(l-1) + b_l))``;
its features are the last ``h``. The head (the last linear layer) belongs to the convolution and is not packed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv._autocast import without_autocast

_POINTWISE = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}
ACTIVATIONS = ("sin", *_POINTWISE)


@dataclass(frozen=True)
class NetSpec:
    """What a packed vector describes; its text form is ``activation:coord_dim:hidden:layers``.

    ``activation`` is one of "sin", "silu", "relu", "gelu" (the exact erf form), "tanh"; ``layers`` counts the head.
    Raises ``ValueError`` for anything else.

    >>> spec = NetSpec.parse("sin:3:32:3")
    >>> spec.hidden, spec.num_params, str(spec)
    (32, 1185, 'sin:3:32:3')
    """

    activation: str
    coord_dim: int
    hidden: int
    layers: int

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"net_spec: activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        check_sizes("net_spec", self.coord_dim, self.hidden, self.layers)

    @classmethod
    def parse(cls, text: str) -> NetSpec:
        """Inverse of ``str``."""
        parts = text.split(":")
        if len(parts) != 4 or not all(part.isdigit() for part in parts[1:]):
            raise ValueError(
                f"net_spec: expected 'activation:coord_dim:hidden:layers' such as 'sin:3:32:3', got {text!r}"
            )
        return cls(parts[0], *map(int, parts[1:]))

    def __str__(self) -> str:
        return f"{self.activation}:{self.coord_dim}:{self.hidden}:{self.layers}"

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(hidden, in) of every hidden layer."""
        return [(self.hidden, self.coord_dim)] + [(self.hidden, self.hidden)] * (self.layers - 2)

    @property
    def num_params(self) -> int:
        """Length P of the packed vector."""
        return sum(out * (fan_in + 1) for out, fan_in in self.shapes) + (self.activation == "sin")


def check_sizes(owner: str, coord_dim: int, hidden: int, layers: int) -> None:
    """Raise ``ValueError`` unless ``coord_dim >= 0``, ``hidden >= 1`` and ``layers >= 2`` are integers."""
    for name, value, least in (("coord_dim", coord_dim, 0), ("hidden", hidden, 1), ("layers", layers, 2)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            hint = " (layers counts the head)" if name == "layers" else ""
            raise ValueError(f"{owner}: {name} must be an integer >= {least}{hint}, got {value!r}")


def check_coords(owner: str, coords: Tensor, coord_dim: int) -> None:
    """Raise ``ValueError`` unless coords is a real floating-point tensor [..., coord_dim]."""
    if not isinstance(coords, Tensor) or not coords.is_floating_point():
        found = coords.dtype if isinstance(coords, Tensor) else repr(coords)
        raise ValueError(f"{owner}: coords must be a floating-point tensor, got {found}; convert it first")
    if coords.ndim == 0 or coords.shape[-1] != coord_dim:
        raise ValueError(
            f"{owner}: coords must be [..., D={coord_dim}], got {list(coords.shape)}; "
            "build the net with coord_dim equal to the number of coordinates of the chart"
        )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype features are computed in: at least float32 (phases reach hundreds of radians)."""
    return torch.promote_types(dtype, torch.float32)


def exact_affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W^T + b`` for the few coordinates of a group element, [..., D] -> [..., H].

    Written as D multiply-adds, not as a matrix product, because matrix products may run in TF32 or bf16 where the user
    allows that, and a phase of tens of radians would then be off by 0.1 rad or more. D = 0 gives the bias.
    """
    out = bias.expand(*x.shape[:-1], bias.shape[0])
    for d in range(weight.shape[1]):
        out = torch.addcmul(out, x[..., d : d + 1], weight[:, d])
    return out


def pack(layers: list[tuple[Tensor, Tensor]], omega0: Tensor | None = None) -> Tensor:
    """Flatten ``[(A, b), ...]`` and omega0 (scalar, "sin" only) into one vector [P], in at least float32."""
    pieces = [tensor.reshape(-1) for layer in layers for tensor in layer]
    if omega0 is not None:
        pieces.append(omega0.reshape(-1))
    dtypes = {piece.dtype for piece in pieces}
    if dtypes != {torch.float32}:
        dtype = functools.reduce(torch.promote_types, dtypes, torch.float32)
        pieces = [piece.to(dtype) for piece in pieces]
    return torch.cat(pieces)


def unpack(net_spec: str | NetSpec, params: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """Views of a packed vector: ``([(A [hidden, in], b [hidden]), ...], omega0 [] or None)``.

    Raises ``ValueError`` if the length does not fit the spec.

    >>> layers, omega0 = unpack("sin:2:4:3", torch.arange(33.0))
    >>> [list(A.shape) for A, b in layers], float(omega0)
    ([[4, 2], [4, 4]], 32.0)
    """
    spec = NetSpec.parse(net_spec) if isinstance(net_spec, str) else net_spec
    if params.ndim != 1 or params.shape[0] != spec.num_params:
        raise ValueError(
            f"params: net {spec} needs a vector [P={spec.num_params}], got {list(params.shape)}; use KernelNet.pack()"
        )
    layers, at = [], 0
    for out, fan_in in spec.shapes:
        weight = params[at : at + out * fan_in].view(out, fan_in)
        at += out * fan_in
        layers.append((weight, params[at : at + out]))
        at += out
    return layers, (params[at] if spec.activation == "sin" else None)


def features(net_spec: str | NetSpec, params: Tensor, coords: Tensor) -> Tensor:
    """phi(coords) of a packed net: ``h_l = act(A_l h_(l-1) + b_l)``, in plain differentiable PyTorch.

    params [P], coords [..., D] -> [..., hidden] in the dtype of params; computed in at least float32, also under
    autocast. Raises ``ValueError`` on sizes that do not fit.

    >>> features("relu:1:2:2", torch.tensor([1.0, -1.0, 0.5, 0.5]), torch.tensor([[2.0]]))
    tensor([[2.5000, 0.0000]])
    """
    spec = NetSpec.parse(net_spec) if isinstance(net_spec, str) else net_spec
    check_coords(f"kernel net {spec}", coords, spec.coord_dim)
    dtype = compute_dtype(params.dtype)
    layers, omega0 = unpack(spec, params.to(dtype))
    with without_autocast(coords.device):
        h = coords.to(dtype)
        for index, (weight, bias) in enumerate(layers):
            h = exact_affine(h, weight, bias) if index == 0 else F.linear(h, weight, bias)
            h = torch.sin(omega0 * h) if omega0 is not None else _POINTWISE[spec.activation](h)
    return h.to(params.dtype)
