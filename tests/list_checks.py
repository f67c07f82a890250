"""Neighbour lists of the tests of GPU kernels, in every form there is."""

import pytest
import torch

from pgconv.backends.lists import Lists

FORMS = pytest.mark.parametrize("form", ["padded", "csr", "runs"])
LENGTHS = 0, 33, 1, 16, 0, 15, 17


def draw(sets, lengths, nv, form="csr", seed=5):
    """The inputs of every output of every set, repeated ones among them; ``runs``: consecutive ones."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(length):
        if form == "runs":
            begin = int(torch.randint(nv - length + 1, (), generator=generator))
            return list(range(begin, begin + length))
        return torch.randint(nv, (length,), generator=generator).tolist()

    return [[numbers(n) for n in (*lengths[s:], *lengths[:s])] for s in range(sets)]


def written(rows, form):
    """As an operator takes them. Padding stands before, between and behind the numbers."""
    flat = [row for of_set in rows for row in of_set]
    if form == "padded":
        longest = max(map(len, flat)) + 3
        padded = [
            [-1] * (k % 3) + row[:5] + [-1] * (longest - len(row) - k % 3) + row[5:] for k, row in enumerate(flat)
        ]
        return Lists(torch.tensor(padded).reshape(len(rows), -1, longest))
    rowptr = torch.tensor([0, *map(len, flat)]).cumsum(0)
    if form == "runs":
        first = [row[0] if row else 9 for row in flat]
        return Lists(None, rowptr, torch.tensor(first, dtype=torch.long))
    return Lists(torch.tensor([j for row in flat for j in row], dtype=torch.long), rowptr)
