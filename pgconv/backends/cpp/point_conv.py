"""Point convolution in row chunks: native features, vendor matrix products, recomputation in the backward pass.

A chunk of output rows keeps its features ``[S, n, Nv, H]`` within ``_CHUNK_BYTES``, so memory is linear in the points,
forward and backward: nothing of size Nu x Nv is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pgconv.backends.cpp import features
from pgconv.spec import FeatureSpec

# Large enough to amortise a call per chunk, small enough to stay in a shared last-level cache.
_CHUNK_BYTES = 8 << 20


def _chunks(v: torch.Tensor, u: torch.Tensor, hidden: int) -> Iterator[slice]:
    row = max(v.shape[0], u.shape[0]) * v.shape[1] * hidden * v.element_size()
    step = max(1, _CHUNK_BYTES // max(row, 1))
    return (slice(start, start + step) for start in range(0, u.shape[1], step))


def _moments(phi: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """``M[b,i,h,c] = sum_j phi[b,i,j,h] f[b,j,c]``; shared features see the batch as one wide signal."""
    if phi.shape[0] == f.shape[0]:
        return phi.transpose(2, 3) @ f[:, None]
    batch, nv, channels = f.shape
    wide = phi[0].transpose(1, 2) @ f.transpose(0, 1).reshape(nv, batch * channels)
    return wide.unflatten(2, (batch, channels)).permute(2, 0, 1, 3)


def forward(
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    params: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    spec: FeatureSpec,
    depthwise: bool,
) -> torch.Tensor:
    """``[B,Nu,O]`` for all pairs."""
    hidden, channels = weight.shape[-1], f.shape[2]
    head = None if depthwise else weight.permute(2, 1, 0).reshape(hidden * channels, -1)
    parts = []
    for rows in _chunks(v, u, hidden):
        moments = _moments(features.relative_features(v, u[:, rows], params, spec), f)
        parts.append(torch.einsum("ch,bihc->bic", weight, moments) if head is None else moments.flatten(2) @ head)
    out = torch.cat(parts, 1)
    if bias is not None:
        sums = f.sum(1, keepdim=True)
        out += sums * bias if depthwise else sums @ bias.T
    return out


def backward(
    needs: Sequence[bool],
    grad: torch.Tensor,
    f: torch.Tensor,
    v: torch.Tensor,
    u: torch.Tensor,
    params: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    spec: FeatureSpec,
    depthwise: bool,
) -> list[torch.Tensor | None]:
    """Gradients of f, v, u, params, weight, bias (None where not needed)."""
    hidden = weight.shape[-1]
    grad_f, grad_v = torch.zeros_like(f), torch.zeros_like(v)
    grad_u = torch.zeros_like(u)
    # Sums over many chunks are kept in double: a running fp32 sum loses digits at millions of pairs.
    grad_params = torch.zeros_like(params, dtype=torch.float64)
    grad_weight = torch.zeros_like(weight, dtype=torch.float64)
    for rows in _chunks(v, u, hidden):
        phi = features.relative_features(v, u[:, rows], params, spec)
        piece = grad[:, rows]
        if needs[4]:
            pattern = "bic,bihc->ch" if depthwise else "bio,bihc->och"
            grad_weight += torch.einsum(pattern, piece, _moments(phi, f))
        grad_moments = torch.einsum("bic,ch->bihc" if depthwise else "bio,och->bihc", piece, weight)
        if needs[0]:
            grad_f += _adjoint(phi, grad_moments)
        if any(needs[1:4]):
            grad_phi = torch.einsum("bihc,bjc->bijh", grad_moments, f)
            if phi.shape[0] != grad_phi.shape[0]:
                grad_phi = grad_phi.sum(0, keepdim=True)
            part_v, part_u, part_params = features.relative_features_backward(grad_phi, v, u[:, rows], params, spec)
            grad_v += part_v
            grad_u[:, rows] += part_u
            grad_params += part_params
    grad_bias = None
    if bias is not None and (needs[0] or needs[5]):
        sums, total = f.sum(1), grad.sum(1)
        if needs[0]:
            grad_f += (total * bias if depthwise else total @ bias)[:, None]
        grad_bias = (total * sums).sum(0) if depthwise else total.T @ sums
    grads = [grad_f, grad_v, grad_u, grad_params.to(params.dtype), grad_weight.to(weight.dtype), grad_bias]
    return [g if need else None for g, need in zip(grads, needs)]


def _adjoint(phi: torch.Tensor, grad_moments: torch.Tensor) -> torch.Tensor:
    """``sum_{i,h} phi[b,i,j,h] G[b,i,h,c]``, ``[B,Nv,C]``."""
    batch, _, _, channels = grad_moments.shape
    rows = phi.transpose(1, 2).flatten(2)
    if phi.shape[0] == batch:
        return rows @ grad_moments.flatten(1, 2)
    wide = rows[0] @ grad_moments.permute(1, 2, 0, 3).reshape(rows.shape[2], batch * channels)
    return wide.unflatten(1, (batch, channels)).transpose(0, 1)
