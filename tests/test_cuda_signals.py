"""How the image convolution's signals go to the CUDA kernels and back: some images at a time, and at every stride."""

import conv_machines
import pytest
import torch
from conv_machines import MACHINES, assert_close, expected, make

from pgconv._layout import group_last, is_group_last
from pgconv.backends.cuda import group_conv2d, scaled, signals
from pgconv.backends.cuda.adjoint import adjoints
from pgconv.spec import ConvGeometry

if not MACHINES:
    pytest.skip("neither the emulator nor a GPU", allow_module_level=True)

device = conv_machines.device


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "group last"])
@pytest.mark.parametrize("per_example", [True, False], ids=["own samples", "shared"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
def test_images_taken_a_few_at_a_time(device, monkeypatch, dtype, per_example, last):
    """What belongs to an image is the same to the bit, sums over images as accurate."""
    tensors, geometry = make(dtype, b=5, c=5, o=5, nv=9, nu=9, size=(5, 7), per_example=per_example)
    grad, wanted = expected(tensors, geometry)
    f, phi, weight = (x.to(device) for x in tensors)
    f, grad = (group_last(x) if last else x for x in (f, grad.to(device)))
    of_images = [True, True, per_example, False]  # out and the gradients of f, phi, weight
    wanted, results = list(wanted), []
    for images, taken in ((5, [5]), (4, [2, 3]), (2, [1, 2, 2]), (0, [1] * 5)):
        monkeypatch.setattr(signals, "COPY", images * 2 * 5 * 16 * 5 * 7)
        seen = []

        def copy(x, scale, seen=seen):
            seen.append(len(x))
            return signals.samples_last(x, scale)

        monkeypatch.setattr(group_conv2d, "samples_last", copy)
        out = group_conv2d.forward("aggregate", f, phi, weight, geometry)
        assert seen == taken
        gradients = group_conv2d.backward("aggregate", grad, f, phi, weight, geometry, (True,) * 3)
        assert seen[len(taken) :: 2] == seen[len(taken) + 1 :: 2] == taken
        results.append((out, *gradients))
        assert is_group_last(out) == is_group_last(gradients[0]) == last
        for x, (want, same) in zip(results[-1], wanted):
            assert_close(x, want, same, dtype)
        for x, y, own in zip(results[0], results[-1], of_images):
            assert not own or torch.equal(x, y)


def test_images_are_taken_together_where_nothing_is_copied(monkeypatch):
    monkeypatch.setattr(signals, "COPY", 1)
    images = [slice(k, k + 1) for k in range(3)]
    f = torch.zeros(3, 2, 8, 4, 5).half()
    scale = scaled.scale(f.float(), 0)
    assert list(signals.together((group_last(f), None))) == [slice(0, 3)]
    for other, by in ((f, None), (group_last(f), scale), (group_last(f[:, :, :7]), None)):
        assert list(signals.together((other, by))) == images
        assert list(signals.together((group_last(f), None), (other, by))) == images
    assert list(signals.together((f[:0], None))) == []


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "group last"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "support", "shape"),
    [
        (3, 2, "same", 1, "disc", {}),  # a residue of pixels that no tap meets
        (3, 2, "same", 1, "square", {"per_example": True}),
        (5, (2, 3), (1, 0), 1, "disc", {"nv": 9}),
        (5, (1, 2), "same", (1, 2), "disc", {"hidden": 9}),
        (3, (3, 1), (4, 0), (3, 2), "square", {"size": (14, 9)}),
        (1, (2, 4), 0, 1, "disc", {}),  # strides past the window
        (1, 3, 2, 1, "disc", {"size": (2, 7)}),  # and past the image
        (7, 2, "same", 1, "disc", {"c": 2, "nu": 8, "nv": 8, "b": 1}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=["float16", "float32"])
def test_the_signals_gradient_at_other_strides(
    device, monkeypatch, dtype, kernel, stride, padding, dilation, support, shape, last
):
    monkeypatch.setattr(group_conv2d.adjoint, "pays", lambda *call: True)
    monkeypatch.setattr(group_conv2d.vendor_conv, "backward", None)
    tensors, geometry = make(
        dtype, **shape, geometry=ConvGeometry.make("test", kernel, stride, padding, dilation, support)
    )
    grad, wanted = expected(tensors, geometry)
    want, same = list(wanted)[1]
    grad, f, *factors = (x.to(device) for x in (grad, *tensors))
    grad, f = (group_last(x) if last else x for x in (grad, f))
    (found, *_) = group_conv2d.backward("aggregate", grad, f, *factors, geometry, (True, False, False))
    assert is_group_last(found) == last
    assert_close(found, want, same, dtype)


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
@pytest.mark.parametrize("stride", [1, 2, (3, 4), (1, 7)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_every_pair_of_pixels_is_in_one_adjoint(kernel, stride, dilation, padding):
    """By counting: pixel of the signal, tap, output."""
    geometry = ConvGeometry.make("test", kernel, stride, padding, dilation, "disc")
    size, (height, width) = (8, 6), geometry.out_size(8, 6)
    if min(height, width) < 1:
        pytest.skip("the kernel does not fit")
    (sy, sx), (py, px), (dy, dx), r = geometry.stride, geometry.padding, geometry.dilation, geometry.radius
    want = set()
    for k, (row, col) in enumerate(geometry.taps()):
        for y in range(height):
            for x in range(width):
                q = sy * y - py + dy * (row + r), sx * x - px + dx * (col + r)
                if 0 <= q[0] < size[0] and 0 <= q[1] < size[1]:
                    want.add((q, k, (y, x)))
    found = []
    for part in adjoints(geometry, *size):
        rows, columns = (range(n)[axis] for n, axis in zip(size, (part.rows, part.columns)))
        _, _, pad_y, pad_x, *own = part.walk.geometry
        assert (len(rows), len(columns)) == tuple(own) and part.pixels == len(rows) * len(columns)
        assert min(part.walk.taps[0::2]) == min(part.walk.taps[1::2]) == 0
        for k, ty, tx in zip(part.which, part.walk.taps[0::2], part.walk.taps[1::2]):
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    y, x = i - pad_y + ty, j - pad_x + tx
                    if 0 <= y < height and 0 <= x < width:
                        found.append(((row, column), k, (y, x)))
    assert len(found) == len(want) and set(found) == want


def test_the_vendors_gradient_of_the_signal_is_taken_where_it_has_fewer_products():
    sizes = {"S": 1, "Nu": 8, "Nv": 8, "C": 64, "O": 64, "H": 32, "W": 32}

    def pays(kernel, stride, hidden, **more):
        geometry = ConvGeometry.make("test", kernel, stride, "same", 1, "disc")
        height, width = geometry.out_size(32, 32)
        return group_conv2d.adjoint.pays(sizes | {"Ho": height, "Wo": width, "Hb": hidden} | more, geometry)

    assert pays(3, 2, 8) and not pays(3, 2, 16) and pays(3, 1, 16)
    assert pays(7, 2, 8) and not pays(7, 4, 16) and pays(7, 4, 16, S=2)
