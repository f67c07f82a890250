"""What every sampler returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.serialization import add_safe_globals
from torch.utils._pytree import _register_namedtuple


class Samples(NamedTuple):
    """Group elements with quadrature weights: the points where a group convolution is evaluated.

    elements [S, N, e]: full group elements (zero translation when drawn by a sampler); weights [S, N]. S = 1 is shared
    by the whole batch, S = B gives each example its own set; weights may differ between examples where elements do not,
    which keeps one kernel for the batch. A weight of 0 is an element that is not there; gradients
    of learned samplers flow through elements and weights.
    """

    elements: Tensor
    weights: Tensor


# Programs that take or return samples can be exported and saved, and are loaded as weights are.
add_safe_globals([Samples])
_register_namedtuple(Samples, serialized_type_name="pgconv.sampling.Samples")
