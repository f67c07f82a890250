"""From the neighbours or offsets a user passes to the lists the operators take, checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pgconv._shapes import check_shape, describe, require_tensor, values_can_be_read
from pgconv.backends.lists import Lists

Neighbors = Tensor | tuple[Tensor, Tensor]
Offsets = Tensor | tuple[Tensor, Tensor]

_NEIGHBORS = "pass an integer tensor [B|1, Nu, K] padded with -1, or a CSR pair (rowptr, index)"
_OFFSETS = "pass integers [E + 1] that rise from 0 to the number of points, or a pair of them for v and u"


class Examples(NamedTuple):
    """Examples of a ragged batch, one after the other on the points axis.

    Attributes:
        of_v: example of every input ``[Nv]``
        of_u: example of every output ``[Nu]``
        count: how many
    """

    of_v: Tensor
    of_u: Tensor
    count: int


def neighbor_lists(op: str, neighbors: object, batch: int, nu: int, nv: int, device: torch.device) -> Lists:
    """``neighbors`` as lists; those of None are dense."""
    if neighbors is None:
        return Lists()
    if isinstance(neighbors, (tuple, list)):
        if len(neighbors) != 2:
            raise ValueError(f"{op}: neighbors has {len(neighbors)} parts; {_NEIGHBORS}")
        rowptr, index = (require_tensor(op, name, x) for name, x in zip(("neighbors[0]", "neighbors[1]"), neighbors))
        check_shape(op, "neighbors[1]", index, "nnz", {})
        check_shape(op, "neighbors[0]", rowptr, "rows+1", {"rows+1": (nu + 1, batch * nu + 1)})
    else:
        rowptr, index = None, require_tensor(op, "neighbors", neighbors)
        check_shape(op, "neighbors", index, "B|1 Nu K", {"B": batch, "Nu": nu})
    for tensor in (rowptr, index):
        if tensor is not None:
            _check_integers(op, "neighbors", tensor, device, _NEIGHBORS)
    _check_neighbor_values(op, index, rowptr, nv)
    return Lists(index.long(), None if rowptr is None else rowptr.long())


def ragged_lists(op: str, offsets: object, f: Tensor, nu: int) -> tuple[Lists, Examples]:
    """Lists by which every output sums over the inputs of its example, and which example a point belongs to."""
    sizes = {"v": f.shape[1], "u": nu}
    if f.shape[0] != 1:
        raise ValueError(
            f"{op}: offsets say where examples begin on the points axis, so f must be [1, Nv, C], received {describe(f)}; "
            "leave them out, or lay the examples one after the other with f.flatten(0, 1)[None]"
        )
    pair = tuple(offsets) if isinstance(offsets, (tuple, list)) else (offsets, offsets)
    if len(pair) != 2:
        raise ValueError(f"{op}: offsets has {len(pair)} parts; {_OFFSETS}")
    axes: dict = {}
    for (name, size), value in zip(sizes.items(), pair):
        label = f"offsets of {name}"
        check_shape(op, label, value, "E+1", axes)
        _check_integers(op, label, require_tensor(op, label, value), f.device, _OFFSETS)
        if value.shape[0] == 0 or (
            values_can_be_read(value)
            and (int(value[0]) != 0 or int(value[-1]) != size or bool((value.diff() < 0).any()))
        ):
            shown = value.tolist() if value.numel() <= 8 else f"{value[:8].tolist()} ... {int(value[-1])}"
            raise ValueError(f"{op}: {label} must rise from 0 to the {size} points there are, received {shown}")
    of_v, of_u = (_examples(x.long(), n) for x, n in zip(pair, sizes.values()))
    starts = pair[0].long()
    lengths = starts.diff()[of_u]
    rowptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Lists(None, rowptr, starts[of_u]), Examples(of_v, of_u, starts.shape[0] - 1)


def _examples(offsets: Tensor, size: int) -> Tensor:
    """Example of every point: how many examples end before it."""
    return torch.searchsorted(offsets[1:].contiguous(), torch.arange(size, device=offsets.device), right=True)


def _check_integers(op: str, name: str, tensor: Tensor, device: torch.device, way_out: str) -> None:
    if tensor.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{op}: {name} must be int32 or int64, received {describe(tensor)}; {way_out}")
    if tensor.device != device:
        raise ValueError(f"{op}: {name} is on {tensor.device} but f is on {device}; move one of them with .to(device)")


def _check_neighbor_values(op: str, index: Tensor, rowptr: Tensor | None, nv: int) -> None:
    if not values_can_be_read(index):
        return
    low = 0 if rowptr is not None else -1
    if index.numel() and (int(index.min()) < low or int(index.max()) >= nv):
        raise ValueError(
            f"{op}: neighbors must hold input numbers from {low} to {nv - 1}, "
            f"received values from {int(index.min())} to {int(index.max())}"
        )
    if rowptr is not None and (
        int(rowptr[0]) != 0 or int(rowptr[-1]) != index.numel() or bool((rowptr.diff() < 0).any())
    ):
        raise ValueError(
            f"{op}: neighbors[0] (rowptr) must rise from 0 to the number of pairs {index.numel()}, received "
            f"{int(rowptr[0])} .. {int(rowptr[-1])}"
        )
