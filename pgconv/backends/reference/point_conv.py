"""Point convolution in plain PyTorch: the definition, with the head applied after the sum over neighbours.

``out[b,i,o] = sum_j sum_c psi(offset(u_i, v_j))[o,c] f[b,j,c]``, ``psi[o,c] = sum_h W[o,c,h] phi_h + b[o,c]``
(depthwise: ``psi[c] = sum_h W[c,h] phi_h + b[c]`` and no sum over c).
Pairs ``(i,j)`` are all of them, or those of neighbour lists, see ``Lists``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pgconv.backends.lists import Lists
from pgconv.backends.reference.features import pair_features
from pgconv.spec import FeatureSpec

Features = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def point_conv(
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    params: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lists: Lists,
    spec: FeatureSpec,
    depthwise: bool,
) -> torch.Tensor:
    """``f [B,Nv,C]``, ``v [B|1,Nv,e]``, ``u [B|1,Nu,e]`` -> ``[B,Nu,O]`` with the net given by packed parameters."""

    def features(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return pair_features(v, u, params, spec).to(weight.dtype)

    return sum_over_pairs(features, f, v, u, weight, bias, lists, depthwise)


def sum_over_pairs(
    features: Features,
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lists: Lists,
    depthwise: bool,
) -> torch.Tensor:
    """The same with any function from broadcast pairs ``[...,e]`` to features ``[...,H]``."""
    index, rowptr, _ = lists = lists.written_out()
    if lists.dense:
        phi = features(v[:, None], u[:, :, None])
        moments, sums = torch.einsum("bijh,bjc->bihc", phi, f), f.sum(1, keepdim=True)
    elif rowptr is None:
        phi = features(gather_rows(v, index), u[:, :, None])
        signal = _neighbor_rows(f, index)
        moments, sums = torch.einsum("bikh,bikc->bihc", phi, signal), signal.sum(2)
    else:
        batch, nu = f.shape[0], u.shape[1]
        (f, v, u), rows, index = _csr_pairs((f, v, u), index, rowptr, nu)
        phi, signal = features(v[:, index], u[:, rows]), f[:, index]
        moments = _sum_rows(phi[..., :, None] * signal[..., None, :], rows, u.shape[1]).reshape(
            batch, nu, phi.shape[-1], f.shape[2]
        )
        sums = _sum_rows(signal, rows, u.shape[1]).reshape(batch, nu, f.shape[2])
    out = torch.einsum("ch,bihc->bic" if depthwise else "och,bihc->bio", weight, moments)
    if bias is not None:
        # The kernel's bias is the same for all pairs, so it sees only the sum of the signal.
        out = out + (sums * bias if depthwise else torch.einsum("oc,bic->bio", bias, sums))
    return out


def sum_of_neighbors(x: torch.Tensor, lists: Lists, nu: int) -> torch.Tensor:
    """``sum_j x[b,j,:]`` over each output's list: ``x [B|1,Nv,k]`` -> ``[B|1,Nu,k]``."""
    index, rowptr, _ = lists.written_out()
    if rowptr is None:
        return _neighbor_rows(x, index).sum(2)
    (flat,), rows, columns = _csr_pairs((x,), index, rowptr, nu)
    return _sum_rows(flat[:, columns], rows, rowptr.shape[0] - 1).reshape(x.shape[0], nu, x.shape[2])


def gather_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``x [B|1,N,k]``, ``index [B|1,Nu,K]`` -> ``[B,Nu,K,k]``; padding (-1) reads row 0, to be masked by the caller."""
    batch = x.shape[0] if index.shape[0] == 1 else index.shape[0]
    safe = index.clamp(min=0).expand(batch, -1, -1)
    picked = torch.gather(x.expand(batch, -1, -1), 1, safe.flatten(1)[..., None].expand(-1, -1, x.shape[2]))
    return picked.reshape(*safe.shape, x.shape[2])


def _neighbor_rows(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    rows = gather_rows(x, index)
    return torch.where((index >= 0)[..., None], rows, torch.zeros_like(rows))


def _csr_pairs(
    tensors: tuple[torch.Tensor, ...], index: torch.Tensor, rowptr: torch.Tensor, nu: int
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
    """Tensors, output number and input number of every pair; lists per example make the batch one long point set."""
    counts = rowptr[1:] - rowptr[:-1]
    numbers = torch.arange(counts.shape[0], device=index.device)
    rows = torch.repeat_interleave(numbers, counts, output_size=index.shape[0])
    if counts.shape[0] == nu:
        return tensors, rows, index
    batch, nv = counts.shape[0] // nu, tensors[0].shape[1]
    flat = tuple(x.expand(batch, -1, -1).flatten(0, 1)[None] for x in tensors)
    return flat, rows, index + torch.div(rows, nu, rounding_mode="floor") * nv


def _sum_rows(x: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    return x.new_zeros(x.shape[0], count, *x.shape[2:]).index_add(1, rows, x)
