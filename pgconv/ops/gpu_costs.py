"""Work of the image convolution's orders on a GPU, where other things are padded and wasted than on a CPU.

Counts follow the kernels: blocks of the chain take 32 pixels, 8 samples, whole octets of features and a power of two of those.
Where features of an octet stay in registers, a block takes 128 outputs; else it takes 64, and each forms the moments again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from pgconv.backends.cuda import adjoint, kernel_gradient
from pgconv.backends.cuda import group_conv2d as cuda
from pgconv.backends.cuda.layout import feature_octets
from pgconv.ops.cost import Cost
from pgconv.spec import Facts

_PIXELS, _OCTET = 32, 8
_HELD, _HELD_OUTPUTS = (5, 10), 128
"""Granules (taps times octets of samples) of one octet of features that are held in registers, and outputs of a block then,"""
_OUTPUTS = 64
"""and else."""
_TILE = 128
"""Pixels of a block that builds kernel values."""
_BY_KERNEL = 0.7, 0.75
"""What products of the signal's gradient take, and of the kernel's, of what products of chains do backward, where gradients of
features and head go through the kernel's: the first runs as fast as the forward pass there, the second is one product and not a
chain. Not measured."""
_GROUPED = 6.0
"""How much longer a convolution takes the vendor in groups."""


def group_conv2d(facts: Facts, table: Mapping[str, Cost], backward: bool, backend: str) -> dict[str, Cost]:
    """The costs of a CPU, with those of the orders that run on GPUs in place of theirs, by a backend."""
    n = dict(facts.sizes)
    dense, chain = table["materialize"], table["aggregate"]
    grouped = _GROUPED if n["S"] > 1 else 1.0
    # float32 is brought to 16 bits: read twice and written once more, by kernels of their own.
    scaled = facts.dtypes[0] == "float32"
    signals = (2 if scaled else 1) * dense.bytes
    wasted = _chain_flops(n, n["C"], n["O"]) - chain.flops
    if backward:
        # The signal's gradient is the chain of the adjoint problem; those of features and head take the chain's products each, or
        # one product together.
        signal, factors = _signal_flops(facts, backend), 2 * _chain_flops(n, n["C"], n["O"])
        if backend == "cuda" and _through_kernel(facts):
            of_kernel = n["B"] * n["Ho"] * n["Wo"] * kernel_gradient.flops(n["Nu"], n["Nv"], n["T"], n["C"], n["O"])
            signal, factors = _BY_KERNEL[0] * signal, _BY_KERNEL[1] * of_kernel
        wasted = signal + factors - chain.flops
    return {
        **table,
        # Backward both launch several times as many kernels.
        "materialize": replace(dense, wasted=(grouped - 1) * dense.flops, calls=2 if backward else 1),
        "aggregate": replace(chain, wasted=wasted, bytes=signals, calls=(4 if backward else 1) + 2 * scaled),
        "direct": _direct(n, table["direct"], signals, backward),
    }


def one_more_is_dear(features: int, dtype: torch.dtype) -> bool:
    """Whether one feature more costs the chain an octet."""
    return dtype in (torch.float16, torch.bfloat16, torch.float32) and features % _OCTET == 0


def bias(facts: Facts, backward: bool) -> Cost:
    """Of the head's bias as a convolution of its own, see ``functional._head_bias``."""
    n = dict(facts.sizes)
    taps = facts.geometry.kernel_size**2 if facts.geometry else n["T"]
    flops = 2.0 * n["B"] * n["C"] * n["O"] * taps * n["Ho"] * n["Wo"]
    word = 4.0 if facts.dtypes[0] == "float32" else 2.0
    signal = word * n["B"] * n["C"] * n["Nv"] * n["H"] * n["W"]
    result = word * n["B"] * n["O"] * n["Nu"] * n["Ho"] * n["Wo"]
    # What is added to has been written already: it is read and written again.
    moved = result + 3 * signal if backward else signal + 2 * result
    return Cost((2 if backward else 1) * flops, moved, calls=2)


def _through_kernel(facts: Facts) -> bool:
    n = dict(facts.sizes)
    if facts.geometry is None or not kernel_gradient.wanted(n, 2):
        return False
    # Which windows fit depends on the GPU.
    return not (torch.cuda.is_available() and cuda.why_not_kernel_gradient(n, facts.geometry))


def _chain_flops(n: Mapping[str, int], inputs: int, outputs: int) -> float:
    """Of both products, padded."""
    pixels = _whole(n["Ho"] * n["Wo"], _PIXELS)
    octets = feature_octets(n["Hb"])
    granules = n["T"] * -(-n["Nv"] // _OCTET)
    columns = 2.0 * n["B"] * pixels * _whole(n["Nu"], _OCTET) * _whole(inputs * octets, _OCTET) * _OCTET
    moments = _OCTET * granules
    if octets == 1 and granules in _HELD:
        return columns * (moments + _whole(outputs, _HELD_OUTPUTS))
    return columns * (moments * -(-outputs // _OUTPUTS) + _whole(outputs, _OUTPUTS // 2))


def _signal_flops(facts: Facts, backend: str) -> float:
    """Of the signal's gradient, or those that a chain has in the time of the vendor's."""
    n, geometry = dict(facts.sizes), facts.geometry
    if geometry is None or geometry.stride == (1, 1):
        return _chain_flops(n, n["O"], n["C"])
    if backend == "cuda" and adjoint.pays(n, geometry):
        parts = adjoint.adjoints(geometry, n["H"], n["W"])
        return sum(
            _chain_flops(n | {"Nu": n["Nv"], "Nv": n["Nu"], "T": len(x.which), "Ho": 1, "Wo": x.pixels}, n["O"], n["C"])
            for x in parts
        )
    taps = geometry.kernel_size**2 * (_GROUPED if n["S"] > 1 else 1.0)
    return 2.0 * n["B"] * n["C"] * n["O"] * n["Nu"] * n["Nv"] * n["Ho"] * n["Wo"] * taps / adjoint.MARGIN


def _direct(n: Mapping[str, int], direct: Cost, signals: float, backward: bool) -> Cost:
    """Every tile of pixels builds its kernel values again; backward only the signal's gradient goes that way. Not measured."""
    tiles = -(-n["B"] * n["Ho"] * n["Wo"] // _TILE)
    products = 2.0 * n["O"] * n["Nu"] * n["C"] * n["Nv"] * n["T"]
    flops = products * tiles * (_TILE + _whole(n["Hb"], 2 * _OCTET))
    if backward:
        flops += 2 * _chain_flops(n, n["C"], n["O"])
    return replace(direct, wasted=flops - direct.flops, bytes=signals, calls=4 if backward else 1)


def _whole(count: int, unit: int) -> int:
    return -(-count // unit) * unit
