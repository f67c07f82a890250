"""Images moved by group elements in every precision."""

from __future__ import annotations

import math

import pytest
import torch

import pgconv
from pgconv.functional import move_images

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [128, 224])
def test_the_identity_and_a_quarter_turn_lose_no_pixel(dtype, size):
    x = torch.randn(1, 2, size, size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, math.pi / 2], dtype=torch.float64)
    elements = torch.cat([torch.zeros(2, 2), angles[:, None]], 1)[None]
    still, turned = move_images(x, elements, "SE(2)").unbind(1)
    assert still.dtype == dtype
    # A rounding of a position, of at most the size, moves a value by that share of what its neighbours differ.
    bound = 8 * size * torch.finfo(torch.promote_types(dtype, torch.float32)).eps + torch.finfo(dtype).eps
    for found, want in ((still, x), (turned, torch.rot90(x, 1, (-2, -1)))):
        torch.testing.assert_close(found.double(), want.double(), atol=bound * x.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_any_turn_is_that_of_float32_rounded(dtype):
    x = torch.randn(2, 1, 33, 47).to(dtype)
    elements = torch.tensor([[[0.0, 0.0, 0.7], [0.0, 0.0, -2.0]]])
    assert torch.equal(move_images(x, elements, "SE(2)"), move_images(x.float(), elements, "SE(2)").to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_go_to_images_and_elements_in_their_types(dtype):
    seen = []
    for kind in (dtype, torch.float32):
        x = torch.linspace(-1, 1, 81).reshape(1, 1, 9, 9).to(dtype).to(kind).requires_grad_()
        elements = torch.tensor([[[0.0, 0.0, 0.7]]], requires_grad=True)
        move_images(x, elements, "SE(2)").float().square().sum().backward()
        assert x.grad.dtype == kind and elements.grad.dtype == torch.float32
        seen.append((x.grad.float(), elements.grad))
    for low, full in zip(*seen, strict=True):
        torch.testing.assert_close(low, full, rtol=0.03, atol=0.03 * full.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_leaves_positions_alone(dtype):
    x, elements = torch.randn(1, 1, 128, 128).to(dtype), torch.tensor([[[0.0, 0.0, 0.3]]])
    want = move_images(x, elements, "SE(2)")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(move_images(x, elements, "SE(2)"), want)


@pytest.mark.parametrize("dtype", HALVES)
def test_augerino_in_16_bits_sees_the_images_of_float32(dtype):
    seen = []

    class Seen(torch.nn.Module):
        def forward(self, x):
            seen.append(x.float())
            return x.mean((-2, -1))

    model, x = pgconv.models.Augerino(Seen(), "SE(2)", num_samples=4).eval(), torch.randn(1, 1, 96, 96).to(dtype)
    model(x.float())
    model.to(dtype)(x)
    torch.testing.assert_close(seen[1], seen[0], rtol=torch.finfo(dtype).eps, atol=1e-6)
