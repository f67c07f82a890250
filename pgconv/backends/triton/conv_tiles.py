"""How large the blocks of the image convolution's kernels are: a table, by class of GPU, kernel and size of the call.

Entries were chosen by what they compile to (registers without spills, shared memory within the limit; see
``tests/test_triton_compiled.py``), not by time; ``TUNING`` says how a search by time goes on from there.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from pgconv.backends.triton.tuning import Tuning, within_registers


class Block(NamedTuple):
    """``rows`` of pixels and samples; ``depth`` of channels and features; outputs; ``products`` (taps and samples) at a time.

    ``direct`` has one sample and as many features as there are: ``rows`` are pixels, ``depth`` is the most features at a time.
    """

    rows: int
    depth: int
    outputs: int
    products: int
    warps: int
    stages: int


class Tile(NamedTuple):
    """A block for a call. ``P`` pixels, ``UB`` samples, ``CB`` channels, ``HB`` features, ``OB`` outputs, ``KB`` products."""

    P: int
    UB: int
    CB: int
    HB: int
    OB: int
    KB: int
    warps: int
    stages: int

    def sizes(self, *names: str) -> dict[str, int]:
        """Those that a kernel takes."""
        return {name: getattr(self, name) for name in names}


LEAST = 16
"""Matrix instructions have no smaller sides."""
MOST_SAMPLES, MOST_FEATURES, MOST_PIXELS = 8, 32, 64
WIDE = 64
"""Samples times features of a block beyond which moments take so many registers that other blocks are needed."""

# By kernel: 16-bit operands and 32-bit operands, each narrow and wide.
_Table = dict[str, tuple[Block, Block, Block, Block]]

_HOPPER: _Table = {
    "chain": (
        Block(256, 32, 128, 64, 8, 2),
        Block(256, 64, 64, 32, 8, 2),
        Block(128, 32, 64, 32, 8, 2),
        Block(128, 32, 64, 32, 8, 2),
    ),
    "direct": (
        Block(128, 32, 128, 32, 8, 2),
        Block(128, 32, 128, 32, 8, 2),
        Block(64, 32, 128, 16, 8, 2),
        Block(64, 32, 128, 16, 8, 2),
    ),
    "head_gradient": (
        Block(64, 64, 128, 32, 8, 2),
        Block(128, 128, 64, 32, 8, 2),
        Block(64, 64, 64, 32, 8, 2),
        Block(64, 64, 64, 32, 8, 2),
    ),
    "feature_gradient": (
        Block(128, 64, 64, 64, 8, 2),
        Block(128, 128, 32, 64, 8, 2),
        Block(64, 64, 32, 32, 8, 2),
        Block(64, 64, 32, 32, 8, 2),
    ),
}
# Of these none takes more than 64 KiB of shared memory, which is all that there is on other GPUs.
_AMPERE: _Table = {
    "chain": (
        Block(128, 32, 128, 32, 8, 2),
        Block(256, 64, 32, 32, 8, 2),
        Block(32, 32, 64, 32, 4, 2),
        Block(128, 32, 32, 32, 8, 2),
    ),
    "direct": (
        Block(128, 32, 64, 32, 8, 2),
        Block(128, 32, 64, 32, 8, 2),
        Block(64, 32, 64, 16, 8, 2),
        Block(64, 32, 64, 16, 8, 2),
    ),
    "head_gradient": (
        Block(64, 64, 64, 32, 8, 2),
        Block(128, 128, 32, 32, 8, 2),
        Block(64, 32, 64, 32, 4, 2),
        Block(64, 64, 32, 32, 8, 2),
    ),
    "feature_gradient": (
        Block(128, 64, 32, 64, 8, 2),
        Block(128, 128, 32, 64, 8, 2),
        Block(64, 64, 32, 32, 8, 2),
        Block(64, 64, 32, 32, 8, 2),
    ),
}
_TINY = Block(256, 32, 16, 64, 4, 1)
"""So that even small images have several blocks."""

TABLE: dict[str, _Table] = {
    "hopper": _HOPPER,
    "ampere": _AMPERE,
    "small": _AMPERE,
    "amd": _AMPERE,
    "interpreter": {name: (_TINY,) * 4 for name in _HOPPER},
}


def tile(architecture: str, kernel: str, word: int, samples: int, features: int, outputs: int, products: int) -> Tile:
    """Of a call: bytes of a number, samples of the result, features, outputs, and taps times samples of the signal."""
    ub = 1 if kernel == "direct" else min(MOST_SAMPLES, _power(samples))
    hb = max(LEAST // ub, min(MOST_FEATURES, _power(features)))
    block = TABLE[architecture][kernel][2 * (word > 2) + (ub * hb > WIDE)]
    ob = max(LEAST, min(block.outputs, _power(outputs)))
    return Tile(
        P=block.rows if kernel == "direct" else min(MOST_PIXELS, block.rows // ub),
        UB=ub,
        CB=max(1, block.depth // hb),
        HB=hb,
        OB=ob,
        # Three chunks are unrolled: the smallest that are enough waste least.
        KB=next((kb for kb in (16, 32) if products <= 3 * kb and kb < block.products), block.products),
        # Rows of the products are outputs there: few do not suffice for many warps.
        warps=min(block.warps, 4) if kernel == "direct" and ob < 64 else block.warps,
        stages=block.stages,
    )


def sums(kernel: str, t: Tile) -> int:
    """Numbers in the sums of a block, of both products."""
    first = {
        "chain": t.P * t.CB * t.UB * t.HB,
        "direct": t.OB * t.KB,
        "head_gradient": t.P * t.CB * t.UB * t.HB,
        "feature_gradient": t.P * t.UB * t.CB * t.HB,
    }
    second = {
        "chain": t.P * t.UB * t.OB,
        "direct": t.OB * t.P,
        "head_gradient": t.CB * t.HB * t.OB,
        "feature_gradient": t.KB * t.UB * t.HB,
    }
    return first[kernel] + second[kernel]


def _allowed(kernel: str, t: Tile) -> bool:
    """Whether a block's sums fit into registers and no side of a product is too small for matrix instructions."""
    if min(t) < 1 or t.stages > 4:
        return False
    sides = [t.HB] if kernel == "direct" else [t.P * t.CB, t.UB * t.HB, t.CB * t.HB]
    return min(t.P * t.UB, t.OB, t.KB, *sides) >= LEAST and within_registers(sums(kernel, t), t.warps)


TUNING = {
    name: Tuning(("P", "OB", "warps", "KB", "CB", "stages"), partial(_allowed, name))
    for name in ("chain", "head_gradient", "feature_gradient")
} | {"direct": Tuning(("P", "OB", "warps", "KB", "stages"), partial(_allowed, "direct"))}
"""By kernel. Samples and features of a block are those of the call."""


def _power(n: int) -> int:
    """The next power of two."""
    return 1 << max(0, n - 1).bit_length()
