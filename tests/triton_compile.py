"""Compiles the kernels of image convolutions ahead of time, as calls without data would launch them, and prints what came out.

``python triton_compile.py sm_90``: one line of JSON for each kernel; no GPU is needed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pgconv.backends.triton import conv_forward, conv_gradients, group_conv2d, runtime
from pgconv.spec import ConvGeometry

TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), "ampere"),
    "sm_90": (GPUTarget("cuda", 90, 32), "hopper"),
    "gfx942": (GPUTarget("hip", "gfx942", 64), "amd"),
}
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
CALLS = {
    # B, C, O, samples in and out, features, window, pixels; then dtype, and whether convolutions may use TF32.
    "gcnn": ((128, 128, 128, 8, 8, 8, 3, 32), torch.bfloat16, True),
    "ckresnet": ((64, 32, 32, 8, 8, 32, 7, 28), torch.bfloat16, True),
    "odd": ((64, 33, 70, 3, 5, 9, 3, 27), torch.float16, True),
    "lifting": ((128, 3, 128, 1, 16, 16, 5, 32), torch.float32, True),
    "gcnn_float32": ((128, 128, 128, 8, 8, 8, 3, 32), torch.float32, False),
    # More than 2^31 numbers.
    "large": ((2048, 128, 128, 8, 8, 8, 3, 32), torch.bfloat16, True),
}
PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Recorder:
    """Stands for a kernel and keeps the arguments of its launches."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **options: self.launches.append((self.kernel, args, options))


def launches(sizes, dtype, tf32):
    """Of forward in both orders, and of the gradients of features and head; the signal's is the forward of another call."""
    found = []
    for module, names in ((conv_forward, ("chain", "direct")), (conv_gradients, ("head_gradient", "feature_gradient"))):
        for name in names:
            kernel = getattr(module, name)
            setattr(module, name, Recorder(kernel.kernel if isinstance(kernel, Recorder) else kernel, found))
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    b, c, o, nv, nu, hidden, window, pixels = sizes
    geometry = ConvGeometry.make("test", window, 1, "same", 1, "disc")
    shapes = (b, c, nv, pixels, pixels), (1, nu, nv, len(geometry.taps()), hidden), (o, c, hidden)
    operands = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    for order in ("aggregate", "direct"):
        out = group_conv2d.forward(order, *operands, geometry)
    group_conv2d.backward("aggregate", out, *operands, geometry, (False, True, True))
    return found


def compiled(target, kernel, args, options):
    """As a launch would: integers that are 1 are constants, multiples of 16 are known as such."""
    options = dict(options)
    machine = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    values = dict(zip(kernel.arg_names, args)) | options
    signature, constants, known = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
            known[(place,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value == 1:
            signature[parameter.name] = "constexpr"
            constants[(place,)] = value
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                known[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=known)
    return triton.compile(source, target=target, options=machine)


def assembled(ptx, name):
    """What the assembler says; the newest of those that come with Triton, else the other."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        for assembler in ("ptxas-blackwell", "ptxas"):
            arguments = ["-v", f"-arch={'sm_90a' if name == 'sm_90' else name}", source, "-o", Path(folder) / "cubin"]
            said = subprocess.run([PTXAS / assembler, *arguments], capture_output=True, text=True).stderr
            if "Used" in said:
                return said
    raise RuntimeError(said)


def loop_of(text):
    """The outermost loop of a kernel in Triton's own language, as lines."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if "scf.for" in line)
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    end = next(i for i in range(begin + 1, len(lines)) if lines[i].startswith(" " * indent + "}"))
    return lines[begin:end]


def facts(target, name, result):
    """Registers, spills, shared memory, matrix instructions, and conversions of layouts in the loop."""
    loop = loop_of(result.asm["ttgir"])
    found = {
        "shared": result.metadata.shared,
        "conversions": sum("ttg.convert_layout" in line for line in loop),
        # Of values that were computed, beside those that the loads of operands fill.
        "stores": sum("ttg.local_store" in line or re.search(r"local_alloc %", line) is not None for line in loop),
    }
    if target.backend == "hip":
        code = result.asm["amdgcn"]
        read = {key: int(re.search(rf"\.{key}:\s*(\d+)", code)[1]) for key in ("vgpr_count", "vgpr_spill_count")}
        stack = int(re.search(r"private_segment_fixed_size:\s*(\d+)", code)[1])
        return found | {
            "registers": read["vgpr_count"],
            "spills": read["vgpr_spill_count"] + stack,
            "matrix": {"mfma": len(re.findall(r"\bv_mfma", code))},
        }
    ptx, said = result.asm["ptx"], assembled(result.asm["ptx"], name)
    spills = [int(n) for n in re.findall(r"(\d+) bytes (?:spill|stack)", said)]
    matrix = {"wgmma": len(re.findall(r"wgmma\.mma_async", ptx)), "mma": len(re.findall(r"\bmma\.sync", ptx))}
    return found | {
        "registers": int(re.search(r"Used (\d+) registers", said)[1]),
        "spills": sum(spills),
        "matrix": matrix,
    }


def main(name):
    """Every call on one target."""
    target, architecture = TARGETS[name]
    runtime.architecture = lambda: architecture
    if target.backend == "hip":
        torch.version.hip = "0"
    for call, arguments in CALLS.items():
        for kernel, args, options in launches(*arguments):
            result = compiled(target, kernel, args, options)
            row = {"call": call, "kernel": kernel.fn.__name__} | facts(target, name, result)
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
