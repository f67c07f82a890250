"""Valid calls of every kind, each with the check of its results. See ``fuzzing``."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import cases
import numpy as np
import torch
from fuzz_broken import break_tensor
from fuzz_compare import compare, compare_with_reference, double, image_convolution, largest, text, with_gradients
from fuzz_draws import VALUES, Draw
from torch import Tensor

from pgconv import groups
from pgconv.backends import native_features
from pgconv.backends.cpp import group_conv2d as native_images
from pgconv.backends.cpp import library
from pgconv.backends.cpp import point_conv as native_points
from pgconv.backends.cpp.backend import BACKEND
from pgconv.backends.lists import Lists
from pgconv.backends.reference import features as reference_features
from pgconv.backends.reference.point_conv import point_conv as reference_points
from pgconv.kernel_nets import packing
from pgconv.spec import SUPPORTS, ConvGeometry, FeatureSpec

WORK = 300_000
"""Multiply-adds of a usual call: the sanitizers make them slow."""
DTYPES = (torch.float32, torch.float32, torch.float64)
ORDERS = tuple(o for o in BACKEND.orders("group_conv2d") if o != "materialize")
NAMES = (*groups.names(), *cases.LABELLED)


def needs_of(draw: Draw, given: list[bool]) -> tuple[bool, ...]:
    """Mostly all gradients, sometimes a few of them."""
    return tuple(given) if draw.chance(0.6) else tuple(x and draw.chance(0.5) for x in given)


def geometry_of(draw: Draw) -> ConvGeometry:
    """Any; strides beyond every image, too."""

    def pair(*numbers: int) -> tuple[int, int]:
        first = draw.choice(numbers)
        return (first, first) if draw.chance(0.5) else (first, draw.choice(numbers))

    kernel, dilation = draw.choice((1, 3, 3, 3, 5, 7, 11)), pair(1, 1, 1, 2, 3, 7)
    padding = (
        tuple(d * (kernel // 2) for d in dilation)
        if draw.chance(0.5)
        else pair(0, 1, 2, 3, 5, kernel // 2 * dilation[0])
    )
    stride = pair(1, 1, 1, 2, 3, 5, draw.choice((17, 1000, 1 << 31)))
    return ConvGeometry(kernel, stride, padding, dilation, draw.choice(SUPPORTS))


def image_sizes(draw: Draw, geometry: ConvGeometry, image: tuple[int, int], **odds: float) -> list[int]:
    """B, C, Nv, O, Nu and H of a call that does not take long."""
    height, width = geometry.out_size(*image)
    pixels, taps = height * width + image[0] * image[1], len(geometry.taps())

    def work(b: int, c: int, nv: int, o: int, nu: int, h: int) -> float:
        return (b + 1) * pixels * (nu + 1) * (c + 1) * (nv + 1) * (taps + h) * (o + 1) / 4

    return draw.sizes(WORK * (20 if draw.chance(0.05) else 1), work, 6, **({"wide": 0.1} | odds))


def conv(draw: Draw) -> tuple[str, Callable[[], None]]:
    """The image convolution in one order."""
    g = geometry_of(draw)
    image = draw.size(wide=0.1, none=0.01), draw.size(wide=0.1, none=0.01)
    while min(g.out_size(*image)) < 1:
        g = geometry_of(draw)
    b, c, nv, o, nu, h = image_sizes(draw, g, image)
    dtype = draw.choice((*DTYPES, torch.bfloat16))
    factors = torch.float32 if dtype == torch.bfloat16 else dtype
    kinds = [draw.choice(VALUES) if draw.chance(0.15) else "normal" for _ in range(4)]
    sets, taps = b if draw.chance(0.3) else 1, len(g.taps())
    shapes = (b, c, nv, *image), (sets, nu, nv, taps, h), (o, c, h), (b, o, nu, *g.out_size(*image))
    operands = [draw.tensor(shape, d, kind) for shape, d, kind in zip(shapes, (dtype, factors, factors, dtype), kinds)]
    f, phi, weight, grad = operands
    # The operator itself, or the functions before it, which send small images elsewhere.
    raw, order, needs = draw.chance(0.5), draw.choice(ORDERS), needs_of(draw, [True] * 3)
    raw &= order != "mix" or g.stride == (1, 1)

    def run() -> None:
        if raw:
            walk = native_images._native_geometry(g, order)
            call = [x.contiguous() for x in (f, phi, weight)]
            bits = sum(need << i for i, need in enumerate(needs))
            out = library.ops().group_conv2d(*call, *walk, order)
            grads = library.ops().group_conv2d_backward(grad.contiguous(), *call, *walk, order, bits)
        else:
            out = native_images.forward(order, f, phi, weight, g)
            grads = native_images.backward(order, grad, f, phi, weight, g, needs)
        if "nonfinite" in kinds:
            return
        found = {"out": out} | {k: x if need else None for k, x, need in zip(("f", "phi", "weight"), grads, needs)}

        def reference(*x: Tensor) -> Tensor:
            return image_convolution(*x, g)

        tensors = {"f": f, "phi": phi, "weight": weight}
        want = with_gradients(reference, double(tensors), double({"": grad})[""])
        scales = largest(with_gradients(reference, double(tensors, True), double({"": grad}, True)[""]))
        if order.startswith("spectral"):  # a spectrum knows no place: errors are of the size of what is anywhere
            sizes = largest({**tensors, "out": grad})
            for name, scale in scales.items():
                others = (x for other, x in sizes.items() if other != name)
                scales[name] = max(scale, math.prod(others))
        for name, need in zip(tensors, needs):
            want[name] = want[name] if need else None
        compare(found, want, scales, dtype)

    said = text(
        order=order, raw=raw, dtype=dtype, f=f, phi=phi, weight=weight, grad=grad, geometry=g, needs=needs, values=kinds
    )
    return said, run


def lists_of(draw: Draw, kind: str | None, batch: int, nv: int, nu: int, most: int) -> Lists:
    """Rows of all lengths from 0 on, whose inputs repeat and come in any order."""
    if kind is None:
        return Lists()
    rows = batch * nu if kind.endswith("each") else nu
    longest = min(draw.choice((0, 1, 3, 8, 64, 65, 130)), max(1, most // max(rows, 1))) if nv else 0
    generator = draw.generator
    counts = torch.randint(0, longest + 1, (rows,), generator=generator)
    counts *= torch.rand(rows, generator=generator) < draw.choice((0.3, 0.9, 1.0))
    if kind.startswith("padded"):
        table = torch.randint(0, max(nv, 1), (rows, longest), generator=generator)
        table[torch.rand(rows, longest, generator=generator) < 0.3] = -1
        return Lists(draw.strided(table.reshape(rows // nu if nu else 1, nu, longest)))
    if kind.startswith("runs"):
        first = torch.randint(0, nv + 1, (rows,), generator=generator)
        counts = counts.minimum(nv - first)
        if draw.chance(0.5) and nu:  # neither end of a run goes back from an output to the next
            first = first.view(-1, nu).sort(-1).values.flatten()
            counts = (first + counts.minimum(nv - first)).view(-1, nu).cummax(-1).values.flatten() - first
    rowptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    if kind.startswith("runs"):
        return Lists(None, rowptr, first)
    return Lists(torch.randint(0, max(nv, 1), (int(rowptr[-1]),), generator=generator), rowptr)


def net_of(draw: Draw, dim: int, hidden: int, dtype: torch.dtype) -> tuple[str, Tensor]:
    """A net's text and its numbers, of the size they have in practice."""
    layers = draw.choice((2, 3, 3, 4, 5)) if hidden < 64 else 2
    spec = packing.NetSpec(draw.choice(packing.ACTIVATIONS), dim, hidden, layers)
    parts = []
    for out, fan_in in spec.shapes:
        parts += [draw.normal(out * fan_in) / max(fan_in, 1) ** 0.5, draw.normal(out) / 3]
    if spec.activation == "sin":
        parts.append(torch.tensor([draw.uniform(0.5, 2.0)], dtype=torch.float64))
    # The same number everywhere would saturate activations, of whose slopes few digits are then left.
    return str(spec), draw.strided(torch.cat(parts).to(dtype), 0)


def spec_of(draw: Draw, hidden: int, dtype: torch.dtype, part: str = "all") -> tuple[FeatureSpec, Tensor]:
    """Features on any group, and the net's numbers."""
    name = draw.choice(NAMES)
    group = groups.get(name)
    chart, form = draw.choice(group.charts), draw.choice(cases.FORMS)
    part = "all" if "/" in name else part
    net, params = net_of(draw, group.coord_dim_of(chart, part), hidden, dtype)
    return FeatureSpec(name, chart, part, form, net), params


def elements_of(draw: Draw, spec: FeatureSpec, sets: int, count: int, dtype: torch.dtype, kind: str) -> Tensor:
    """Elements of the group, or with ``nonfinite`` numbers that are none."""
    x = cases.elements(spec.group, (sets, count), np.random.default_rng(draw.randrange(1 << 30)))
    if kind == "nonfinite":
        return draw.tensor(tuple(x.shape), dtype, kind)
    return draw.strided(x.to(dtype), 2)


def points(draw: Draw) -> tuple[str, Callable[[], None]]:
    """The point convolution."""
    depthwise, shared, most = draw.chance(0.25), draw.chance(0.5), WORK * (20 if draw.chance(0.05) else 1)
    kind = draw.choice((None, "padded", "padded-each", "csr", "csr-each", "runs", "runs-each"))
    b, nv, nu, c, o, h = draw.sizes(
        most, lambda b, nv, nu, c, o, h: (b + 1) * (nv + 1) * (nu + 1) * (h + 1) * (h + c + 1) + b * nu * c * o * h, 6
    )
    h, o = max(h, 1), c if depthwise else o
    dtype = draw.choice(DTYPES)
    spec, params = spec_of(draw, h, dtype)
    low = torch.bfloat16 if dtype == torch.float32 and draw.chance(0.2) else dtype
    kinds = [draw.choice(("small", "denormal", "nonfinite")) if draw.chance(0.1) else "normal" for _ in range(3)]
    sv, su = ((1, 1), (b, 1), (1, b), (b, b))[0 if shared else draw.randrange(4)]
    head = (c,) if depthwise else (o, c)
    tensors = {
        "f": draw.tensor((b, nv, c), low, kinds[0]),
        "v": elements_of(draw, spec, sv, nv, dtype, kinds[1]),
        "u": elements_of(draw, spec, su, nu, dtype, "normal"),
        "params": params,
        "weight": draw.tensor((*head, h), low, kinds[2]),
        "bias": draw.tensor(head, low) if draw.chance(0.6) else None,
    }
    lists = lists_of(draw, kind, b, nv, nu, most // max(1, c * h))
    grad = draw.tensor((b, nu, o), low)
    needs = needs_of(draw, [x is not None for x in tensors.values()])

    def run() -> None:
        operands = list(tensors.values())
        out = native_points.forward(operands, lists, spec, depthwise)
        grads = native_points.backward(needs, grad, operands, lists, spec, depthwise)
        if "nonfinite" in kinds:
            return

        def reference(*x: Tensor) -> Tensor:
            return reference_points(*x, lists, spec, depthwise)

        found = {"out": out} | dict(zip(tensors, grads))
        needed = [name for name, need in zip(tensors, needs) if need]
        compare_with_reference(found, partial(with_gradients, reference), tensors, needed, grad, low)

    said = text(
        spec=spec, lists=kind, dtype=dtype, depthwise=depthwise, **tensors, index=lists.index, rowptr=lists.rowptr,
        needs=needs, values=kinds,
    )  # fmt: skip
    return said, run


def features(draw: Draw) -> tuple[str, Callable[[], None]]:
    """Features of relative elements, and the net at given coordinates."""
    dtype, h = draw.choice(DTYPES), max(1, draw.size())
    if draw.chance(0.3):
        dim, count = draw.choice((0, 1, 2, 3, 4, 5, 8, 12, 20, 33)), draw.size(wide=0.5)
        net, params = net_of(draw, dim, h, dtype)
        kind = draw.choice(VALUES[2:]) if draw.chance(0.15) else "normal"
        tensors = {"coords": draw.tensor((*draw.choice(((), (2,))), count, dim), dtype, kind), "params": params}
        spec, kinds, needed, names = net, [kind], list(tensors), ("kernel_net", "kernel_net_backward")
        reference = reference_features.kernel_net
    else:
        spec, params = spec_of(draw, h, dtype, draw.choice(("all", "translation", "stabilizer")))
        s, nv, nu = draw.sizes(WORK, lambda s, nv, nu: (s + 1) * (nv + 1) * (nu + 1) * (h + 1) ** 2, 3)
        sv, su = draw.choice(((1, 1), (s, 1), (1, s), (s, s)))
        kinds = ["nonfinite" if draw.chance(0.1) else "normal" for _ in range(2)]
        v, u = (elements_of(draw, spec, *x, dtype, kind) for x, kind in zip(((sv, nv), (su, nu)), kinds))
        tensors = {"v": v, "u": u, "params": params}
        needed, names = list(tensors), ("relative_features", "relative_features_backward")
        reference = reference_features.relative_features
    value, gradients = (getattr(native_features, name) for name in names)

    def run() -> None:
        out = value(*tensors.values(), spec)
        grad = draw.tensor(tuple(out.shape), dtype)
        grads = gradients(grad, *tensors.values(), spec)
        if "nonfinite" in kinds:
            return
        found = {"out": out} | dict(zip(tensors, grads))

        def exact(*x: Tensor) -> Tensor:
            return reference(*x, spec)

        compare_with_reference(found, partial(with_gradients, exact), tensors, needed, grad, dtype)

    return text(op=names[0], spec=spec, dtype=dtype, **tensors, values=kinds), run


def functions(draw: Draw) -> tuple[str, Callable[[], None]]:
    """The public functions, on whatever the planner takes or on the native code."""
    op = draw.choice(
        ("group_conv2d", "lifting_conv2d", "pointwise_group_conv", "depthwise_lifting_conv2d", *["point_conv"] * 4)
    )
    image, lifting = op != "point_conv", "lifting" in op
    name = draw.choice(cases.IMAGE_GROUPS if image else NAMES)
    fields = {"group": name, "chart": draw.choice(groups.get(name).charts), "form": draw.choice(cases.FORMS)}
    fields |= {"layers": draw.choice((2, 3, 4)), "bias": draw.chance(0.7)}
    fields |= {"net": draw.choice(("siren", "silu", "gelu", "tanh", "fourier", "gabor", "magnet"))}
    fields |= {"sets": draw.choice(("11", "B1", "1B", "BB")), "weights": draw.choice((None, "shared", "each"))}
    fields |= {"gate": draw.choice((None, None, "shared", "each"))}
    if lifting or op.startswith("depthwise"):
        fields |= {"weights": None, "sets": fields["sets"].replace("B1", "11").replace("BB", "1B")}
    if op.startswith("depthwise"):
        fields["gate"] = None
    if image:
        fields["size"] = size = draw.randrange(1, 12), draw.randrange(1, 12)
        g = geometry_of(draw)
        while min(g.out_size(*size)) < 1:
            g = geometry_of(draw)
        if "pointwise" in op:
            g = ConvGeometry(1, g.stride, (0, 0), (1, 1), "disc")
            fields["stride"] = g.stride
        else:
            fields |= {x: getattr(g, x) for x in ("kernel_size", "stride", "padding", "dilation", "support")}
        sizes = image_sizes(draw, g, size, none=0)
    else:
        fields |= {"depthwise": draw.chance(0.3), "mask": draw.chance(0.3)}
        sizes = draw.sizes(
            WORK,
            lambda b, c, nv, o, nu, h: (b + 1) * (nv + 1) * (nu + 1) * (h + 1) * (h + c + o * c / nv + 1),
            6,
            none=0,
        )
        fields["neighbors"] = draw.choice((None, "padded", "padded-each", "csr", "csr-each", "ragged"))
        if fields["neighbors"] == "ragged":
            fields |= {"batch": 1, "sets": "11"}
    # Without batch, if the lists are ragged.
    fields = dict(zip(("batch", "channels", "nv", "out", "nu", "hidden"), (max(1, n) for n in sizes))) | fields
    if not lifting:
        fields["reduction"] = draw.choice(("mean", "sum"))
    dtype, backend = draw.choice((torch.float32, torch.float64)), draw.choice((None, "cpp"))
    misuse = draw.chance(0.15)
    case = cases.image_case(f"fuzz-{draw.randrange(1 << 30)}", op=op, **fields)

    def run() -> None:
        call = cases.build(case)
        # Where the last dimension is that of an element, its numbers belong together.
        tensors = {}
        for name, x in call.leaves().items():
            expandable = 0 if name.startswith("net.") else x.dim() - (name in ("u", "v"))
            tensors[name] = draw.strided(x.detach().to(dtype), expandable)
        if misuse:
            name = draw.choice(sorted(call.tensors))
            _, tensors[name], _ = break_tensor(draw, tensors[name])
            with contextlib.suppress(Exception):
                given = {name: x for name, x in tensors.items() if name in call.tensors}
                replace(call, net=call.net.to(dtype), tensors=given)(backend=backend)
            return
        with torch.no_grad():
            grad = draw.tensor(tuple(call(backend="reference").shape), dtype)
        found = call_with_gradients(call, backend, tensors, grad)
        results = partial(call_with_gradients, call, "reference")
        compare_with_reference(found, results, tensors, list(tensors), grad, dtype)

    return text(case=case, dtype=dtype, backend=backend, misuse=misuse), run


def call_with_gradients(
    call: cases.Call, backend: str | None, tensors: dict[str, Tensor], grad: Tensor
) -> dict[str, Tensor]:
    """As ``with_gradients`` of a public function's call with other numbers."""
    net = copy.deepcopy(call.net).to(grad.dtype).requires_grad_()
    leaves = {name: x.detach().requires_grad_() for name, x in tensors.items() if name in call.tensors}
    for name, p in net.named_parameters():
        p.data = tensors[f"net.{name}"].detach().resolve_neg()
    bound = replace(call, net=net, tensors=leaves)
    out = bound(backend=backend)
    grads = torch.autograd.grad(out, bound.leaves().values(), grad, allow_unused=True, materialize_grads=True)
    return {"out": out.detach()} | dict(zip(bound.leaves(), grads))
