"""What is not fused runs on a few outputs at a time: the same numbers, and memory that does not grow with the pairs."""

import sys

import pytest
import torch
from cases import build, point_case
from test_backends import error

from pgconv.backends.reference import pieces

LISTS = (None, "padded", "padded-each", "csr", "csr-each")


def call(neighbors, **fields):
    more = {"neighbors": neighbors} if neighbors else {}
    return build(point_case(f"pieces-{neighbors}", nv=6, nu=11, **more, **fields)).to(torch.float64, grad=True)


@pytest.fixture
def few(monkeypatch):
    """Pieces of three outputs or so, and how many there were."""
    seen = []
    original = pieces.pieces

    def counted(*operands):
        for piece in original(*operands):
            seen.append(piece)
            yield piece

    def limit(numbers):
        monkeypatch.setattr(pieces, "FEATURES", numbers)
        for module in ("pgconv.ops.point_conv", "pgconv.functional.point_conv"):
            monkeypatch.setattr(sys.modules[module], "pieces", counted)
        return seen

    return limit


def first_and_second(case):
    """Output, all gradients, and the gradients of a number made of these."""
    leaves = list(case.leaves().values())
    out = case()
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    first = torch.autograd.grad((out * weight).sum(), leaves, create_graph=True)
    score = sum((g * torch.linspace(1, 2, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in first)
    second = torch.autograd.grad(score, leaves, allow_unused=True)
    return [out, *first], [torch.zeros_like(x) if g is None else g for g, x in zip(second, leaves)]


@pytest.mark.parametrize("neighbors", LISTS)
@pytest.mark.parametrize("net", ["siren", "gabor"])
def test_pieces_make_up_the_whole(neighbors, net, few):
    """The first net is fused, so that only second derivatives come in pieces; the second never is."""
    case = call(neighbors, net=net)
    expected = first_and_second(case)
    seen = few(100)
    for found, wanted in zip(first_and_second(case), expected):
        for x, y in zip(found, wanted):
            assert error(x, y) <= 1e-12
    assert len(seen) >= 2
    assert sum(p.rows.stop - p.rows.start for p in seen) % 11 == 0
