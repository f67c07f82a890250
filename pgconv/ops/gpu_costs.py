"""Work of the image convolution's orders on a GPU, where other things are padded and wasted than on a CPU.

Counts follow the kernels: a block of the chain takes 32 pixels, 8 samples, and 64 or 128 outputs, whole octets of features and a
power of two of those; windows whose features do not stay in registers are read from shared memory, which halves the speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pgconv.ops.cost import Cost
from pgconv.spec import Facts

_PIXELS, _OCTET = 32, 8
_HELD = (5, 10)
"""Granules (taps times octets of samples) of one octet of features that are held in registers."""
_NOT_HELD = 2.5
"""How much longer the others take."""
_GROUPED = 6.0
"""How much longer a convolution takes the vendor in groups."""


def group_conv2d(facts: Facts, table: Mapping[str, Cost], backward: bool) -> dict[str, Cost]:
    """The costs of a CPU, with those of the orders that run on GPUs in place of theirs."""
    n = dict(facts.sizes)
    dense, chain = table["materialize"], table["aggregate"]
    grouped = _GROUPED if n["S"] > 1 else 1.0
    signals = dense.bytes
    wasted = _chain_flops(n, n["C"], n["O"]) - chain.flops
    if backward:
        # The signal's gradient is the chain of the adjoint problem; those of features and head take the chain's products each.
        wasted = _chain_flops(n, n["O"], n["C"]) + 2 * _chain_flops(n, n["C"], n["O"]) - chain.flops
    return {
        **table,
        "materialize": replace(dense, wasted=(grouped - 1) * dense.flops),
        "aggregate": replace(chain, wasted=wasted, bytes=signals),
    }


def _chain_flops(n: Mapping[str, int], inputs: int, outputs: int) -> float:
    """Of both products, padded."""
    pixels = _whole(n["Ho"] * n["Wo"], _PIXELS)
    octets = 1 << max(0, (n["Hb"] - 1) // _OCTET).bit_length()
    granules = n["T"] * -(-n["Nv"] // _OCTET)
    columns = 2.0 * n["B"] * pixels * _whole(n["Nu"], _OCTET) * _whole(inputs * octets, _OCTET) * _OCTET
    held = octets == 1 and granules in _HELD
    return columns * (_OCTET * granules + _whole(outputs, 64)) * (1.0 if held else _NOT_HELD)


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit
