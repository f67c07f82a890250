"""Offsets of taps are kept between calls, where nobody can tell."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pgconv
from pgconv.functional import _taps
from pgconv.spec import ConvGeometry


def geometry(size, support="disc", stride=1):
    return ConvGeometry.make("test", size, stride, "same", 1, support)


@pytest.fixture(autouse=True)
def nothing_kept():
    _taps._kept.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("support", ["disc", "square"])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_elements_stand_at_every_tap(size, support, dtype):
    elements = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    window = geometry(size, support)
    unit = max(1, size // 2)
    want = [
        [torch.cat([(e[:2] + torch.tensor([col, -row])) / unit, e[2:]]) for e in own for row, col in window.taps()]
        for own in elements
    ]
    for _ in range(2):
        assert torch.equal(_taps.at_taps(elements, window), torch.stack([torch.stack(own) for own in want]))
    assert torch.equal(_taps.scaled(elements, window)[..., :2], elements[..., :2] / unit)
    assert torch.equal(_taps.scaled(elements, window)[..., 2:], elements[..., 2:])


def test_windows_types_and_supports_are_told_apart():
    elements = torch.zeros(1, 1, 3)
    calls = [
        (elements.to(dtype), geometry(5, support))
        for dtype in (torch.float32, torch.float64)
        for support in ("disc", "square")
    ]
    found = [_taps.at_taps(*call) for _ in range(2) for call in calls]
    assert [(x.dtype, x.shape[1]) for x in found] == 2 * [
        (dtype, taps) for dtype in (torch.float32, torch.float64) for taps in (13, 25)
    ]
    assert _taps._kept.cache_info().misses == 4 and _taps._kept.cache_info().hits == 4
    # Steps of the window over the image leave it as it is.
    _taps.at_taps(elements, geometry(5, stride=2))
    assert _taps._kept.cache_info().misses == 4


def test_what_inference_mode_made_serves_training():
    layer = pgconv.nn.LiftingConv2d(1, 2, kernel_size=5, num_samples=2)
    image = torch.randn(1, 1, 6, 6)
    with torch.inference_mode():
        layer(image)
    out, _ = layer(image)
    out.sum().backward()
    assert layer.weight.grad is not None and _taps._kept.cache_info().hits > 0


def test_those_who_look_at_operations_see_them_all():
    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    elements, window, seen = torch.zeros(1, 1, 3), geometry(3), []
    for _ in range(2):
        with Seen() as mode:
            _taps.at_taps(elements, window)
        seen.append(mode.names)
        _taps.at_taps(elements, window)
    assert seen[0] == seen[1] and any("arange" in name for name in seen[0])
    assert _taps._kept.cache_info().misses == 1


def test_meta_and_fake_tensors_are_not_kept():
    from torch._subclasses import FakeTensorMode

    window = geometry(3)
    assert _taps.at_taps(torch.zeros(1, 1, 3, device="meta"), window).is_meta
    with FakeTensorMode() as mode:
        _taps.at_taps(mode.from_tensor(torch.zeros(1, 1, 3)), window)
    assert _taps._kept.cache_info().currsize == 0


def test_no_weight_at_all_has_no_mean_and_no_nan():
    from pgconv.functional._kernel import safe_reciprocal

    total = torch.tensor([0.0, 2.0, -4.0], dtype=torch.float64, requires_grad=True)
    found = safe_reciprocal(total)
    assert found.tolist() == [0.0, 0.5, -0.25]
    (first,) = torch.autograd.grad(found.sum(), total, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), total)
    assert first.tolist() == [0.0, -0.25, -0.0625] and second.tolist() == [0.0, 0.25, -0.03125]
