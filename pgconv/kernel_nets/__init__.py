"""Kernel nets: small networks phi of group coordinates whose last layer, the head, belongs to the convolution."""

from __future__ import annotations

import inspect

from pgconv.kernel_nets import packing
from pgconv.kernel_nets.base import KernelNet
from pgconv.kernel_nets.fourier import FourierNet
from pgconv.kernel_nets.gabor import GaborNet, MAGNet
from pgconv.kernel_nets.mlp import MLP
from pgconv.kernel_nets.siren import SIREN

_REGISTRY = {"siren": SIREN, "mlp": MLP, "fourier": FourierNet, "gabor": GaborNet, "magnet": MAGNet}


def names() -> list[str]:
    """Names accepted by ``get``."""
    return list(_REGISTRY)


def get(name: str, coord_dim: int, **options) -> KernelNet:
    """Build a kernel net by name; options are those of its class. Raises ``ValueError`` naming the valid ones.

    >>> get("siren", 3, hidden=16, omega0=30.0)
    SIREN(
      coord_dim=3, hidden=16, layers=3, omega0=30
      (weights): ParameterList(
          (0): Parameter containing: [torch.float32 of size 16x3]
          (1): Parameter containing: [torch.float32 of size 16x16]
      )
      (biases): ParameterList(
          (0): Parameter containing: [torch.float32 of size 16]
          (1): Parameter containing: [torch.float32 of size 16]
      )
    )
    """
    if not isinstance(name, str) or name not in _REGISTRY:
        raise ValueError(f"kernel net: unknown name {name!r}; choose one of {', '.join(_REGISTRY)}")
    cls = _REGISTRY[name]
    known = [option for option in inspect.signature(cls).parameters if option != "coord_dim"]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(f"kernel net {name!r}: unknown options {unknown}; it takes {known}")
    return cls(coord_dim, **options)


__all__ = ["FourierNet", "GaborNet", "KernelNet", "MAGNet", "MLP", "SIREN", "get", "names", "packing"]
