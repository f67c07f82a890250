"""Which inputs an output sums over, in the forms the operator takes it, and what can be done with a form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pgconv._shapes import values_can_be_read


class Lists(NamedTuple):
    """Nothing given: all inputs. Else one of

    - ``index [B|1,Nu,K]``: numbers of inputs, padded with -1;
    - ``index [nnz]``, ``rowptr [rows + 1]``: row r has the inputs ``index[rowptr[r] : rowptr[r + 1]]``;
    - ``first [rows]``, ``rowptr [rows + 1]``: row r has ``rowptr[r + 1] - rowptr[r]`` consecutive inputs from ``first[r]``.

    Rows are the outputs of one example, shared by all, or those of every example in turn.
    """

    index: Tensor | None = None
    rowptr: Tensor | None = None
    first: Tensor | None = None

    @property
    def dense(self) -> bool:
        return self.index is None and self.rowptr is None

    def shared(self, nu: int) -> bool:
        """Whether all examples have the same lists."""
        if self.rowptr is not None:
            return self.rowptr.shape[0] == nu + 1
        return self.index is None or self.index.shape[0] == 1

    def readable(self) -> bool:
        """Whether the lengths of the rows can be looked at."""
        return self.rowptr is None or values_can_be_read(self.rowptr)

    def pairs(self) -> int | None:
        """How many pairs the lists have, padding included; None where that cannot be known."""
        if self.index is not None:
            return self.index.numel()
        return int(self.rowptr[-1]) if self.rowptr is not None and self.readable() else None

    def written_out(self) -> Lists:
        """The same without consecutive inputs."""
        if self.first is None:
            return self
        counts, total = self.rowptr.diff(), self.pairs()
        # Places in a row are those in all rows, less where the row begins.
        shift = torch.repeat_interleave(self.first - self.rowptr[:-1], counts, output_size=total)
        return Lists(shift + torch.arange(shift.shape[0], device=shift.device), self.rowptr)

    def of(self, rows: slice, nu: int) -> Lists:
        """Those of some outputs of every example; rows that are not all need readable lengths."""
        if self.dense or rows == slice(0, nu):
            return self
        if self.rowptr is None:
            return Lists(self.index[:, rows])
        starts, ends = self.rowptr[:-1].view(-1, nu)[:, rows], self.rowptr[1:].view(-1, nu)[:, rows]
        counts = (ends - starts).flatten()
        rowptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        if self.index is None:
            return Lists(None, rowptr, self.first.view(-1, nu)[:, rows].flatten())
        bounds = zip(starts[:, 0].tolist(), ends[:, -1].tolist())
        return Lists(torch.cat([self.index[begin:end] for begin, end in bounds]), rowptr)

    def transposed(self, nu: int, nv: int) -> Lists:
        """The outputs of every input, in order; numbers that are none of an input's are left out. The host waits for a device only
        where inputs are consecutive, to see whether outputs then are, too."""
        if self.first is not None and nu:
            begin = self.first.view(-1, nu)
            end = begin + self.rowptr.diff().view(-1, nu)
            if bool(((begin.diff() >= 0) & (end.diff() >= 0)).all()):
                return _runs(begin, end, nv)
        index, rowptr, _ = self.written_out()
        if rowptr is None:
            sets, _, length = index.shape
            rows = torch.arange(sets * nu, device=index.device)[:, None].expand(-1, length).flatten()
        else:
            sets = (rowptr.shape[0] - 1) // nu if nu else 1
            rows = torch.searchsorted(rowptr, torch.arange(index.shape[0], device=index.device), right=True) - 1
        number = index.flatten()
        valid = (number >= 0) & (number < nv) & (rows < sets * nu)
        inputs = torch.div(rows, max(1, nu), rounding_mode="floor") * nv + number
        inputs = inputs.masked_fill(~valid, sets * nv)
        if sets * nv < 1 << 31:
            inputs = inputs.int()  # sorted in half the time
        inputs, order = torch.sort(inputs, stable=True)
        starts = torch.searchsorted(inputs, torch.arange(sets * nv + 1, dtype=inputs.dtype, device=inputs.device))
        return Lists(rows[order] % max(1, nu), starts)


def _runs(begin: Tensor, end: Tensor, nv: int) -> Lists:
    """Of runs ``[sets,Nu]`` of inputs that advance from output to output: an input has the outputs from the first whose run ends
    behind it to the last whose run begins before it."""
    inputs = torch.arange(nv, device=begin.device).expand(begin.shape[0], -1).contiguous()
    first, stop = (torch.searchsorted(x.contiguous(), inputs, right=True) for x in (end, begin))
    counts = (stop - first).clamp(min=0).flatten()
    return Lists(None, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), first.flatten())
