"""The head's bias: one more kernel-net feature, constantly 1, or a convolution of its own.

``sum_v w_v sum_t sum_c b[o,c] f[b,c,v,p+t]`` is the same for all output elements: a plain convolution of the signal's weighted
sum over ``v``, with the same number at every tap. As a feature the bias costs what each of the others does, and on a GPU what
eight of them do where they come in octets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pgconv.functional._taps import places
from pgconv.spec import ConvGeometry


def as_feature(phi: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Features and head with the bias as the last one."""
    return torch.cat([phi, torch.ones_like(phi[..., :1])], -1), torch.cat([weight, bias[..., None]], -1)


def term(
    f: Tensor, bias: Tensor, share: Tensor | None, reduction: str, gate: Tensor | None, geometry: ConvGeometry
) -> Tensor:
    """What the bias adds to the result ``[B,O,1|Nu,Ho,Wo]``.

    Args:
        f: signal ``[B,C,Nv,H,W]``
        bias: ``[O,C]``
        share: of each sample in the sum over them, ``[S,Nv]``; None for the same for all, by ``reduction``
        reduction: ``"mean"`` or ``"sum"``
        gate: of the output elements ``[S,Nu]``
        geometry: of the convolution
    """
    if share is not None:
        signal = (share[:, None, None].to(f.dtype) @ f.flatten(3)).reshape(*f.shape[:2], *f.shape[3:])
    else:
        signal = f.mean(2) if reduction == "mean" else f.sum(2)
    k = geometry.kernel_size
    support = bias.new_zeros(k * k).index_fill(0, places(geometry, bias.device), 1).view(k, k)
    window = bias[..., None, None] * support
    out = F.conv2d(signal, window, None, geometry.stride, geometry.padding, geometry.dilation)[:, :, None]
    return out if gate is None else out * gate[:, None, :, None, None].to(out.dtype)
