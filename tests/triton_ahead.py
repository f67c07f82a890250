"""Triton kernels compiled ahead of time for GPUs that need not be there, as calls at real sizes would launch them.

``python triton_ahead.py sm_90`` prints what each came to as a line of JSON. Launches are those of the Python side on tensors
without memory, recorded instead of run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from pgconv import groups
from pgconv.backends.lists import Lists
from pgconv.backends.triton import features, group_conv2d, launch, point_conv, point_lists, runtime
from pgconv.kernel_nets.packing import NetSpec
from pgconv.spec import ConvGeometry, FeatureSpec


class Target(NamedTuple):
    """A kind of GPU: its class in the table of block sizes, and what a block may have."""

    gpu: GPUTarget
    architecture: str
    registers: int
    shared: int


TARGETS = {
    # Shared memory is what compute capability 8.6 and 12.0 have as well.
    "sm_80": Target(GPUTarget("cuda", 80, 32), "ampere", 255, 99 << 10),
    "sm_90": Target(GPUTarget("cuda", 90, 32), "hopper", 255, 227 << 10),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), "amd", 512, 64 << 10),
}
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
OPTIONS = ("num_warps", "num_stages")


class Image(NamedTuple):
    """An image convolution; ``tf32``: whether convolutions may use it."""

    dtype: str
    batch: int
    channels: int
    outputs: int
    inputs: int
    samples: int
    features: int
    window: int
    pixels: int
    tf32: bool = True

    def call(self) -> None:
        """Forward in both orders, gradients of features and head; the signal's is the forward of another call."""
        torch.backends.cudnn.conv.fp32_precision = "tf32" if self.tf32 else "ieee"
        geometry = ConvGeometry.make("test", self.window, 1, "same", 1, "disc")
        shapes = (
            (self.batch, self.channels, self.inputs, self.pixels, self.pixels),
            (1, self.samples, self.inputs, len(geometry.taps()), self.features),
            (self.outputs, self.channels, self.features),
        )
        operands = [torch.empty(shape, dtype=getattr(torch, self.dtype), device="meta") for shape in shapes]
        for order in ("aggregate", "direct"):
            out = group_conv2d.forward(order, *operands, geometry)
        group_conv2d.backward("aggregate", out, *operands, geometry, (False, True, True))


class Points(NamedTuple):
    """A point convolution; ``images`` share the elements. ``alone``: features by themselves, too."""

    dtype: str
    group: str
    net: str
    channels: int
    images: int = 1
    alone: bool = False
    chart: str = "product"
    count: int = 4096

    def operands(self, inputs: int) -> tuple:
        """Without memory, and what is computed of them."""
        f = torch.empty(self.images, inputs, self.channels, dtype=getattr(torch, self.dtype), device="meta")
        v, u = (torch.empty(1, n, groups.get(self.group).element_dim, device="meta") for n in (inputs, self.count))
        net = NetSpec.parse(self.net)
        params, weight = (
            torch.empty(net.num_params, device="meta"),
            f.new_empty(self.channels, self.channels, net.hidden),
        )
        spec = FeatureSpec(self.group, self.chart, "all", "convolution", self.net)
        return (f, v, u, params, weight, None), spec, False

    def call(self) -> None:
        """Forward, and gradients of elements and net."""
        call = self.operands(self.count)
        grad = point_conv.forward(*call)
        point_conv.backward([False, True, True, True, False, False], grad, *call)
        if self.alone:
            params = call[0][3]
            x = torch.empty(self.count, NetSpec.parse(self.net).coord_dim, device="meta")
            features.kernel_net_backward(features.kernel_net(x, params, self.net), x, params, self.net)


class Listed(NamedTuple):
    """A point convolution over lists, of 32 inputs for every output. With many inputs sums are cut."""

    points: Points
    form: str
    inputs: int

    def call(self) -> None:
        """Forward; gradients are those of other calls."""
        shape = self.points.count, 32
        index = torch.empty(shape, dtype=torch.long, device="meta")
        rowptr = torch.empty(self.points.count + 1, dtype=torch.long, device="meta")
        forms = {
            "padded": Lists(index[None]),
            "csr": Lists(index.flatten(), rowptr),
            "runs": Lists(None, rowptr, index[:, 0]),
        }
        operands, *others = self.points.operands(self.inputs)
        point_lists.KERNELS.forward(operands, forms[self.form], *others)


@triton.jit
def slow_sine(x):
    """For what a call of the library's sine looks like."""
    tl.store(x, tl.sin(tl.load(x)))


class Probe(NamedTuple):
    """Of the compiler itself."""

    def call(self) -> None:
        """The kernel above."""
        slow_sine[(1,)](torch.empty(1, device="meta"))


PLANAR, WIDE = Points("bfloat16", "SE(2)", "sin:3:32:3", 32), Points("bfloat16", "SE(2)", "sin:3:32:3", 64)
HALVES = Points("float16", "SE(2)", "sin:3:32:3", 64)
SPATIAL = Points("float32", "T(3)", "sin:3:32:3", 32, images=2, alone=True)
RIGID = Points("bfloat16", "SE(3)", "silu:6:64:3", 64)
CASES: dict[str, Image | Points | Listed | Probe] = {
    "gcnn": Image("bfloat16", 128, 128, 128, 8, 8, 8, 3, 32),
    "ckresnet": Image("bfloat16", 64, 32, 32, 8, 8, 32, 7, 28),
    "odd": Image("float16", 64, 33, 70, 3, 5, 9, 3, 27),
    "lifting": Image("float32", 128, 3, 128, 1, 16, 16, 5, 32),
    "gcnn_float32": Image("float32", 128, 128, 128, 8, 8, 8, 3, 32, tf32=False),
    # More than 2^31 numbers.
    "large": Image("bfloat16", 2048, 128, 128, 8, 8, 8, 3, 32),
    "planar": PLANAR,
    "planar_wide": WIDE,
    "planar_float16": HALVES,
    "spatial_float32": SPATIAL,
    "rigid": RIGID,
    # The laws with most fields.
    "mirrored": Points("bfloat16", "E(2)", "sin:5:32:3", 64, chart="embed"),
    "scaled": Points("float32", "Sim(2)", "silu:4:32:3", 32),
    "listed": Listed(PLANAR, "csr", 4096),
    "listed_far": Listed(WIDE, "csr", 1 << 18),
    "listed_runs": Listed(HALVES, "runs", 4096),
    "listed_float32_far": Listed(SPATIAL, "csr", 1 << 14),
    "listed_float32": Listed(SPATIAL, "padded", 4096),
    "listed_rigid": Listed(RIGID, "padded", 4096),
    "probe": Probe(),
}


def recorded(call: Callable[[], None]) -> dict[str, tuple]:
    """The first launch of every kernel by its name: kernel, arguments, options."""
    found: dict[str, tuple] = {}

    def keep(kernel: Any, *args: Any, **options: Any) -> None:
        found.setdefault(kernel.fn.__name__, (kernel, args, options))

    JITFunction.__getitem__ = lambda kernel, grid: partial(keep, kernel)
    call()
    return found


def compiled(target: Target, kernel: Any, args: tuple, options: dict[str, Any]) -> tuple[Any, str]:
    """As by a launch: integers that are 1 are constants, multiples of 16 are known as such. With what the assembler said."""
    values = dict(zip(kernel.arg_names, args)) | options
    signature, constants, known = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        elif parameter.is_constexpr or value == 1:
            signature[name], constants[(place,)] = "constexpr", value
            continue
        else:
            signature[name] = "i64" if value >= 1 << 31 else "i32"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            known[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=known)
    machine = {name: options[name] for name in OPTIONS if name in options}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        return triton.compile(source, target=target.gpu, options=machine), said.getvalue()


def loop_of(text: str) -> list[str]:
    """The outermost loop of a kernel in Triton's own language, as lines."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if "scf.for" in line), None)
    if begin is None:
        return []
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    end = next(i for i in range(begin + 1, len(lines)) if lines[i].startswith(" " * indent + "}"))
    return lines[begin:end]


def numbers(target: Target, result: Any, said: str) -> dict[str, Any]:
    """Registers; bytes or registers that found no place there; shared memory; instructions that matter, by the whole kernel; and
    conversions of layouts in its loop."""
    loop = loop_of(result.asm["ttgir"])
    found = {
        "shared": result.metadata.shared,
        "conversions": sum("ttg.convert_layout" in line for line in loop),
        # Of values that were computed, beside those that the loads of operands fill.
        "stores": sum("ttg.local_store" in line or re.search(r"local_alloc %", line) is not None for line in loop),
    }
    amd = target.gpu.backend == "hip"
    code = result.asm["amdgcn" if amd else "ptx"]
    if amd:
        registers, spilled = r"\.vgpr_count:\s*(\d+)", r"\.(?:vgpr_spill_count|private_segment_fixed_size):\s*(\d+)"
    else:
        registers, spilled = r"Used (\d+) registers", r"(\d+) bytes (?:spill|stack)"
    read = code if amd else said
    patterns = {"mfma": r"\bv_mfma", "mma": r"\bmma\.sync", "wgmma": r"wgmma\.mma_async"}
    return found | {
        "registers": int(re.search(registers, read)[1]),
        "spills": sum(int(n) for n in re.findall(spilled, read)),
        "matrix": {name: len(re.findall(pattern, code)) for name, pattern in patterns.items()},
        "sines": len(re.findall(r"(?:sin|cos)\.approx", code)),
        "slow_sines": code.count("i2opi"),
    }


def main(name: str) -> None:
    """Every case on one target."""
    target = TARGETS[name]
    # No GPU's own blocks.
    os.environ["PGCONV_TILES"] = "shipped"
    nvidia = target.gpu.backend == "cuda"
    runtime.architecture = lambda: target.architecture
    for module in (launch, point_conv):
        module.has_ptx = lambda x: nvidia
    if not nvidia:
        torch.version.hip = "0"
    # Kernels from a cache would come without the assembler's words.
    triton.knobs.compilation.always_compile = triton.knobs.nvidia.dump_ptxas_log = True
    with tempfile.TemporaryDirectory() as triton.knobs.cache.dir:
        for case, described in CASES.items():
            for kernel, launched in recorded(described.call).items():
                row = {"case": case, "kernel": kernel} | numbers(target, *compiled(target, *launched))
                sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
