"""What the kernels of a point convolution with real sizes compile to, without a GPU: ``python triton_ahead.py TARGET`` prints it as
lines of JSON. Launches are those of the Python side on tensors without memory, recorded instead of run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pgconv import groups
from pgconv.backends.lists import Lists
from pgconv.backends.triton import features, list_kernels, net_kernels, point_conv, point_kernels, point_lists
from pgconv.kernel_nets.packing import NetSpec
from pgconv.spec import FeatureSpec

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
OPTIONS = ("num_warps", "num_stages")
POINTS = 4096
CASES = (
    ("bfloat16", "SE(2)", "sin:3:32:3", 32, 1),
    ("bfloat16", "SE(2)", "sin:3:32:3", 64, 1),
    ("float16", "SE(2)", "sin:3:32:3", 64, 1),
    ("float32", "T(3)", "sin:3:32:3", 32, 2),
    ("bfloat16", "SE(3)", "silu:6:64:3", 64, 1),
)
"""Signal, group, net, channels, images that share the elements."""
LISTS = (
    (CASES[0], "csr", 4096),
    (CASES[1], "csr", 1 << 18),
    (CASES[2], "runs", 4096),
    (CASES[3], "csr", 1 << 14),
    (CASES[3], "padded", 4096),
    (CASES[4], "padded", 4096),
)
"""The same cases over lists of some form, with numbers of inputs: beyond some, sums are cut."""


class Recorder:
    """Stands in the place of a kernel and keeps its launches."""

    def __init__(self, kernel, launches: list) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **constants: self.launches.append((self.kernel, args, constants))


def recorded(nvidia: bool) -> dict:
    """Launches by what they were made for."""
    for module in (point_conv, features):
        module.precision = lambda x: "tf32x3" if nvidia else "ieee"
    point_conv.has_ptx = lambda x: nvidia
    launches: list = []
    for module, names in (
        (point_kernels, ("moments", "gradients")),
        (list_kernels, ("list_moments",)),
        (net_kernels, ("net_values", "net_gradients")),
    ):
        for name in names:
            setattr(module, name, Recorder(getattr(module, name), launches))
    found = {}
    for case in CASES:
        dtype, _, net, channels, _ = case
        launches.clear()
        call = call_of(*case)
        grad = point_conv.forward(*call)
        point_conv.backward([False, True, True, True, False, False], grad, *call)
        if dtype == "float32" and channels == 32:
            params = call[0][3]
            x = torch.empty(POINTS, NetSpec.parse(net).coord_dim, device="meta")
            features.kernel_net_backward(features.kernel_net(x, params, net), x, params, net)
        for kernel, args, constants in launches:
            found.setdefault((case, kernel.fn.__name__), (kernel, args, constants))
    for case, form, inputs in LISTS:
        launches.clear()
        tensors, *others = call_of(*case, inputs)
        point_lists.forward(tensors, lists_of(form), *others)
        found[(*case, form, inputs), "list_moments"] = launches[0]
    return found


def call_of(dtype, group, net, channels, images, inputs=POINTS):
    """Operands, without memory, and what is computed of them."""
    f = torch.empty(images, inputs, channels, dtype=getattr(torch, dtype), device="meta")
    v, u = (torch.empty(1, n, groups.get(group).element_dim, device="meta") for n in (inputs, POINTS))
    spec = NetSpec.parse(net)
    params, weight = torch.empty(spec.num_params, device="meta"), f.new_empty(channels, channels, spec.hidden)
    return (f, v, u, params, weight, None), FeatureSpec(group, "product", "all", "convolution", net), False


def lists_of(form):
    """Of 32 inputs for every output."""
    index, rowptr = (
        torch.empty(POINTS, 32, dtype=torch.long, device="meta"),
        torch.empty(POINTS + 1, dtype=torch.long, device="meta"),
    )
    if form == "padded":
        return Lists(index[None])
    return Lists(index.flatten(), rowptr) if form == "csr" else Lists(None, rowptr, index[:, 0])


def compile_launch(kernel, args, constants, target):
    """As for a launch: sizes of 1 are constants, and multiples of 16 are known to be."""
    own = dict(constants)
    options = {name: own.pop(name) for name in OPTIONS if name in own}
    signature, attributes = {}, {}
    for place, (name, value) in enumerate(zip(kernel.arg_names, args)):
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        elif value == 1:
            own[name] = 1
            continue
        else:
            signature[name] = "i64" if value >= 1 << 31 else "i32"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    names = kernel.arg_names
    signature = {name: signature.get(name, "constexpr") for name in names}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in own.items()},
        attrs=attributes,
    )
    return triton.compile(source, target=target, options=options)


def numbers(compiled, target) -> dict:
    """Registers, spills, shared memory and the instructions that matter."""
    found = {"shared": compiled.metadata.shared, "warps": compiled.metadata.num_warps}
    if target.backend == "hip":
        text = compiled.asm["amdgcn"]
        for name, key in (
            ("registers", "vgpr_count"),
            ("spills", "vgpr_spill_count"),
            ("stack", "private_segment_fixed_size"),
        ):
            found[name] = int(re.search(rf"\.{key}:\s+(\d+)", text)[1])
        return found | {"products": text.count("v_mfma"), "sines": 0, "slow_sines": 0}
    text = compiled.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(text)
        arch = re.search(r"^\.target (\w+)", text, re.M)[1]
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"-arch={arch}", source, "-o", Path(folder, "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    for name, pattern in (
        ("registers", r"Used (\d+) registers"),
        ("spills", r"(\d+) bytes spill stores"),
        ("stack", r"(\d+) bytes stack frame"),
    ):
        found[name] = int(re.search(pattern, said)[1])
    return found | {
        "products": len(re.findall(r"mma\.sync|wgmma\.mma_async", text)),
        "sines": len(re.findall(r"(?:sin|cos)\.approx", text)),
        "slow_sines": text.count("i2opi"),
    }


@triton.jit
def slow_sine(x):
    """For what a call of the library's sine looks like."""
    tl.store(x, tl.sin(tl.load(x)))


def main(name: str) -> None:
    """Print a line for each kernel."""
    target = TARGETS[name]
    probe = {("probe", "slow_sine"): (slow_sine, (torch.empty(1),), {})}
    for (case, kernel), launch in (recorded(target.backend == "cuda") | probe).items():
        compiled = compile_launch(*launch, target)
        print(json.dumps({"case": case, "kernel": kernel} | numbers(compiled, target)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
