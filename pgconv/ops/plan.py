"""Cost model: work of every evaluation order, forward and backward, and the cheapest of the runnable ones.

An estimate is ``calls + flops / (rate * peak) + bytes / bandwidth`` with the rates of ``pgconv.ops.rates``: what fraction of the
multiply-add peak an order reaches, measured on large calls. What a small call wastes (lanes without a pixel, vectors
without a channel) is counted in the work, not in the rate. GPUs have costs of their own in ``gpu_costs``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgconv.backends.cpp import few_pixels
from pgconv.ops import gpu_costs
from pgconv.ops.cost import Cost
from pgconv.ops.rates import Rates
from pgconv.spec import ConvGeometry, Facts, Plan

DIRECTIONS = ("forward", "backward")

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}

# Pixels in a panel and lanes of a vector of the widest instruction set in float32; only what is wasted depends on them.
_PANEL, _LANES = 32, 16


def costs(facts: Facts, direction: str = "forward", backend: str = "auto") -> dict[str, Cost]:
    """Cost of every evaluation order of a call, by a backend where it matters."""
    backward = direction == "backward"
    table = _COSTS[facts.op](facts, backward)
    if facts.op == "group_conv2d" and facts.device == "cuda":
        return gpu_costs.group_conv2d(facts, table, backward, backend)
    return table


def cheapest(facts: Facts, plans: Sequence[Plan], rates: Rates, direction: str = "forward") -> Plan:
    """The plan with the smallest estimate; the first one on a tie."""
    if len(plans) == 1:
        return plans[0]
    tables = {backend: costs(facts, direction, backend) for backend in {plan.backend for plan in plans}}
    dtype = facts.dtypes[0]
    return min(plans, key=lambda plan: tables[plan.backend][plan.order].seconds(plan, rates, direction, dtype))


def seconds(facts: Facts, plan: Plan, rates: Rates, direction: str) -> float:
    """Estimate of a plan."""
    cost = costs(facts, direction, plan.backend)[plan.order]
    return cost.seconds(plan, rates, direction, facts.dtypes[0])


def bias_seconds(facts: Facts, rates: Rates, direction: str) -> float:
    """Estimate of the head's bias as a convolution of its own, beside a call without it on a GPU."""
    cost = gpu_costs.bias(facts, direction == "backward")
    return cost.seconds(Plan("cuda", "aggregate"), rates, direction, facts.dtypes[0])


def _padded(n: int, unit: int) -> int:
    return -(-n // unit) * unit


def _inside(geometry: ConvGeometry | None, size: tuple[int, int], out: tuple[int, int]) -> float:
    """Share of a dense window's reads that meet the image: a good dense convolution skips the padding."""
    if geometry is None:
        return 1.0
    share = 1.0
    for i in (0, 1):
        stride, padding, dilation = geometry.stride[i], geometry.padding[i], geometry.dilation[i]
        hits = 0
        for tap in range(geometry.kernel_size):
            low, high = -(-(padding - tap * dilation) // stride), (size[i] - 1 + padding - tap * dilation) // stride
            hits += max(0, min(high, out[i] - 1) - max(low, 0) + 1)
        share *= hits / max(geometry.kernel_size * out[i], 1)
    return share


def _group_conv2d(facts: Facts, backward: bool) -> dict[str, Cost]:
    n = dict(facts.sizes)
    word = _BYTES[facts.dtypes[0]]
    geometry = facts.geometry
    size, out = (n["H"], n["W"]), (n["Ho"], n["Wo"])
    pixels, pixels_in = n["Ho"] * n["Wo"], n["H"] * n["W"]
    k2 = geometry.kernel_size**2 if geometry else n["T"]
    pair = n["O"] * n["Nu"] * n["C"] * n["Nv"]
    f_bytes = word * n["B"] * n["C"] * n["Nv"] * pixels_in
    y_bytes = word * n["B"] * n["O"] * n["Nu"] * pixels
    signals = 2 * f_bytes + y_bytes if backward else f_bytes + y_bytes
    build = 2 * n["S"] * pair * n["T"] * n["Hb"]

    # Backward: gradients of the signal and of the kernel, and three products with the kernel's factors.
    twice, thrice = (2, 3) if backward else (1, 1)

    # Panels without all their pixels; and a sum over few taps is soon at its end, where it is added to memory.
    panel = _padded(pixels, _PANEL) / max(pixels, 1)
    panel_in = _padded(pixels_in, _PANEL) / max(pixels_in, 1)
    short = 1 + (1.5 if backward else 3) / max(n["Nv"] * n["T"], 1)
    # Kernel values are built, packed and read again.
    values = 3 * word * n["S"] * pair * n["T"]

    dense = 2 * n["B"] * pair * k2 * pixels
    taps = 2 * n["B"] * pair * n["T"] * pixels
    moments = 2 * n["B"] * n["Nu"] * n["C"] * n["Hb"] * n["Nv"] * n["T"] * pixels
    head = 2 * n["B"] * n["O"] * n["Nu"] * n["C"] * n["Hb"] * pixels
    # Few pixels take no panels.
    few = few_pixels.pay(pixels, n["B"], (n["C"], n["Nv"]), (n["O"], n["Nu"]), n["T"], n["Hb"])
    distribute = 2 * n["B"] * n["O"] * n["Nu"] * n["Hb"] * n["Nv"] * n["T"] * pixels_in
    mixed = 2 * n["B"] * n["Nv"] * n["O"] * n["C"] * n["Hb"] * pixels_in
    work = {
        # What lies outside the image is subtracted as negative waste.
        "materialize": Cost(
            twice * dense + thrice * build,
            # Backward the vendor's library brings operands into layouts of its own and back.
            signals * thrice + thrice * 4 * word * n["S"] * pair * k2,
            # A convolution in groups reaches less than half of what the plain one does.
            twice * dense * (_inside(geometry, size, out) * (2.3 if n["S"] > 1 else 1) - 1),
        ),
        "direct": Cost(twice * taps + thrice * build, signals + values, twice * taps * (panel * short - 1)),
        "aggregate": Cost(
            thrice * moments + twice * head,
            signals,
            0.0 if few else thrice * moments * (panel * short - 1) + twice * head * (panel - 1),
        ),
        "mix": Cost(thrice * (distribute + mixed), signals, thrice * (distribute + mixed) * (panel_in - 1)),
    }
    if geometry is not None and min(out) > 0:
        work |= _spectral(n, geometry, size, out, build, signals, values, backward)
    return work


def _spectral(
    n: dict[str, int],
    geometry: ConvGeometry,
    size: tuple[int, int],
    out: tuple[int, int],
    build: float,
    signals: float,
    values_bytes: float,
    backward: bool,
) -> dict[str, Cost]:
    """Both spectral orders: transforms of the planes and work for every frequency; a complex product is three real ones."""
    period_y, period_x = geometry.period(*size)
    half = period_y // 2 + 1
    frequencies, padded = period_x * half, _padded(period_x * half, _LANES)

    def transforms(lanes: int, unit: int) -> float:
        """Both sides' planes; backward the window side has one more transform, that of its gradient."""
        return sum(
            times * n["B"] * planes * (4 * lanes * height * _padded(width, unit) + 8 * period_x * width * lanes)
            for times, planes, (height, width) in (
                (2 if backward else 1, n["C"] * n["Nv"], size),
                (1, n["O"] * n["Nu"], out),
            )
        )

    exact, wide = transforms(half, 1), transforms(_padded(half, _LANES), _LANES)
    # Spectra are written and read beside the signals.
    planes = n["C"] * n["Nv"] * (2 if backward else 1) + n["O"] * n["Nu"]
    traffic = signals + 16 * n["B"] * padded * planes
    sets = n["B"] if n["S"] > 1 else 1
    pair = n["O"] * n["Nu"] * n["C"] * n["Nv"]
    values = (2 if backward else 1) * pair * (6 * n["B"] + 2 * n["T"] * sets)
    moments = n["B"] * n["C"] * n["Hb"] * n["Nu"] * (6 * n["Nv"] * (3 if backward else 1))
    head = n["B"] * n["C"] * n["Hb"] * n["Nu"] * (4 * n["O"] * (2 if backward else 1))
    taps = 2 * n["T"] * n["Hb"] * n["Nu"] * n["Nv"] * (n["B"] if backward else sets)

    def cost(per_frequency: float, once: float, moved: float, calls: int) -> Cost:
        waste = per_frequency * (padded - frequencies) + wide - exact
        return Cost(per_frequency * frequencies + exact + once, traffic + moved, waste, calls)

    return {
        "spectral": cost(values, (3 if backward else 1) * build, values_bytes, sets),
        "spectral-aggregate": cost(moments + head + taps, 0.0, 0.0, 1),
    }


def _point_conv(facts: Facts, backward: bool) -> dict[str, Cost]:
    """Matrix products of net, moments and head; what belongs to pairs is never stored.

    Where outputs have far fewer channels than inputs the native code takes less forward: it runs the adjoint problem.
    """
    n = dict(facts.sizes)
    word = _BYTES[facts.dtypes[0]]
    inputs, outputs = n["B"] * n["Nv"], n["B"] * n["Nu"]
    net = _net_flops(facts) * n["pairs"] * max(n["S"], 1) / max(n["B"], 1)
    channel = 2 * n["pairs"] * n["Hb"]
    head = 2 * n["Hb"] * n["C"] * (1 if n["depthwise"] else n["O"])
    signal, result = word * inputs * n["C"], word * outputs * n["O"]
    lists = 8 * n["pairs"] if n["lists"] else 0
    if n["depthwise"] and n["S"] < n["B"]:
        # Values of the kernel once for all examples of a set, a multiply-add for each; backward their gradient is summed, too.
        values = channel * n["C"] * max(n["S"], 1) / n["B"]
        sums = 2 * n["pairs"] * n["C"]
        times = (3, 3, 2) if backward else (1, 1, 1)
        flops = sum(t * x for t, x in zip(times, (net, values, sums)))
        return {"aggregate": Cost(flops, (2 if backward else 1) * signal + result + lists)}
    if not backward:
        return {"aggregate": Cost(net + channel * n["C"] + head * outputs, signal + result + lists)}
    # All gradients. Features are computed again, and the net's two products reversed. Three products with the moments of the
    # inputs, the head used twice; or two with those of the outputs' gradients (the adjoint problem) and the head three times.
    # The native code takes what is less, the small head of a depthwise call left out of account.
    weighed = 0 if n["depthwise"] else head
    pairs, rows = min(
        (channel * 3 * n["C"], 2 * outputs), (channel * 2 * n["O"], 3 * inputs), key=lambda x: x[0] + weighed * x[1]
    )
    return {"aggregate": Cost(3 * net + pairs + head * rows, 2 * signal + result + lists)}


def _features(facts: Facts, backward: bool) -> dict[str, Cost]:
    n = dict(facts.sizes)
    points = n["points"] if "points" in n else n["S"] * n["Nu"] * n["Nv"]
    hidden = int(facts.features.net.split(":")[2]) if facts.features else 0
    times = 3 if backward else 1
    return {"direct": Cost(times * _net_flops(facts) * points, times * _BYTES[facts.dtypes[-1]] * points * hidden)}


def _net_flops(facts: Facts) -> float:
    if facts.features is None:
        return 0.0
    _, coord_dim, hidden, layers = facts.features.net.split(":")
    return 2.0 * int(hidden) * (int(coord_dim) + (int(layers) - 2) * int(hidden))


_COSTS = {
    "group_conv2d": _group_conv2d,
    "point_conv": _point_conv,
    "relative_features": _features,
    "kernel_net": _features,
}
