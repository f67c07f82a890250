"""Cost model: FLOPs and bytes of every evaluation order, and the cheapest of the runnable ones.

An estimate is ``flops / (rate * peak) + bytes / bandwidth``. Only ratios between orders matter, so one nominal peak and
bandwidth serve all machines; the rates are the fraction of the matrix peak an order reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgconv.spec import Facts, Plan

_NOMINAL_PEAK = 4e11
_NOMINAL_BANDWIDTH = 2e10

# Fraction of peak. Vendor convolutions run close to it; the plain tap loops are many separate GEMMs.
_RATES = {"materialize": 0.8, "direct": 0.5, "aggregate": 0.4, "mix": 0.4}

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Cost:
    """Work of one order: floating point operations (a multiply-add counts two) and bytes moved to and from memory."""

    flops: float
    bytes: float

    def seconds(self, rate: float = 0.5) -> float:
        """Estimate on the nominal machine."""
        return self.flops / (rate * _NOMINAL_PEAK) + self.bytes / _NOMINAL_BANDWIDTH


def costs(facts: Facts) -> dict[str, Cost]:
    """Cost of every evaluation order of a call."""
    return _COSTS[facts.op](facts)


def cheapest(facts: Facts, plans: Sequence[Plan]) -> Plan:
    """The plan with the smallest estimate; the first one on a tie."""
    if len(plans) == 1:
        return plans[0]
    table = costs(facts)
    return min(plans, key=lambda plan: table[plan.order].seconds(_RATES[plan.order]))


def _group_conv2d(facts: Facts) -> dict[str, Cost]:
    n = dict(facts.sizes)
    word = _BYTES[facts.dtypes[0]]
    pixels, pixels_in = n["Ho"] * n["Wo"], n["H"] * n["W"]
    k2 = facts.geometry.kernel_size**2 if facts.geometry else n["T"]
    pair = n["O"] * n["Nu"] * n["C"] * n["Nv"]
    signals = word * (n["B"] * n["C"] * n["Nv"] * pixels_in + n["B"] * n["O"] * n["Nu"] * pixels)
    build = 2 * n["S"] * pair * n["T"] * n["Hb"]
    gathered = n["B"] * n["C"] * n["Nv"] * pixels * n["T"]
    moments = n["B"] * n["Nu"] * n["C"] * n["Hb"] * pixels
    mixed = n["B"] * n["Nv"] * n["O"] * n["Hb"] * pixels_in
    return {
        "materialize": Cost(2 * n["B"] * pair * k2 * pixels + build, signals + 4 * word * n["S"] * pair * k2),
        "direct": Cost(
            2 * n["B"] * pair * n["T"] * pixels + build, signals + word * (3 * gathered + 3 * n["S"] * pair * n["T"])
        ),
        "aggregate": Cost(
            2 * moments * n["Nv"] * n["T"] + 2 * n["O"] * moments,
            signals + word * (3 * gathered + 3 * moments * n["T"]),
        ),
        "mix": Cost(
            2 * mixed * n["C"] + 2 * n["B"] * n["O"] * n["Nu"] * n["Hb"] * n["Nv"] * n["T"] * pixels,
            signals + word * 3 * mixed * n["T"],
        ),
    }


def _point_conv(facts: Facts) -> dict[str, Cost]:
    n = dict(facts.sizes)
    word = _BYTES[facts.dtypes[0]]
    rows = n["B"] * n["Nu"]
    net = _net_flops(facts) * n["pairs"] * max(n["S"], 1) / max(n["B"], 1)
    moments = 2 * n["pairs"] * n["C"] * n["Hb"]
    head = 2 * rows * n["Hb"] * n["C"] * (1 if n["depthwise"] else n["O"])
    signals = word * (n["B"] * n["Nv"] * n["C"] + rows * n["O"])
    return {"aggregate": Cost(net + moments + head, signals + word * 2 * n["pairs"] * n["Hb"])}


def _features(facts: Facts) -> dict[str, Cost]:
    n = dict(facts.sizes)
    points = n["points"] if "points" in n else n["S"] * n["Nu"] * n["Nv"]
    hidden = int(facts.features.net.split(":")[2]) if facts.features else 0
    return {"direct": Cost(_net_flops(facts) * points, _BYTES[facts.dtypes[-1]] * points * hidden)}


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
