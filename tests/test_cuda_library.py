"""The CUDA library as built: it loads where torch has no CUDA, is never mapped there unasked, and its kernels keep to their
registers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pgconv.backends.cpp import library as cpu
from pgconv.backends.cuda import library

NVCC = shutil.which("nvcc")
if not library.PATH.exists() and NVCC is None:
    pytest.skip("no CUDA library and no nvcc to build it", allow_module_level=True)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_was_built():
    assert library.PATH.exists()


OPERATORS = (
    "kernel_net",
    "kernel_net_backward",
    "relative_features",
    "relative_features_backward",
    "point_moments",
    "point_list_moments",
    "point_gradient",
    "conv_chain",
    "group_last",
    "conv_head_gradient",
    "conv_feature_gradient",
    "conv_kernel_gradient",
)


def test_it_loads_without_cuda_and_registers_its_operators():
    out = run(
        "import torch\n"
        f"torch.ops.load_library({str(cpu.PATH)!r})\n"
        f"torch.ops.load_library({str(library.PATH)!r})\n"
        "print(torch.ops.pgconv_C.cuda_architectures())\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        f"print(all(has('pgconv_C::' + name, 'CUDA') for name in {OPERATORS}))\n"
        "print(repr(torch.ops.pgconv_C.cuda_why_not_net('sin:3:32:3', 4)))\n"
        "assert 'driver' in (torch.ops.pgconv_C.cuda_why_not_driver() or 'driver')\n"
    )
    assert out.split("\n")[:3] == ["80, 90a, 100f, 120", "True", "''"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA")
def test_a_torch_without_cuda_never_maps_it():
    out = run(
        "import pgconv, torch\n"
        "conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, group='SE(2)', num_samples=2)\n"
        "conv(torch.ones(1, 1, 5, 5)); pgconv.show_config()\n"
        "print('libpgconv_cuda' in open('/proc/self/maps').read())\n"
    )
    assert out.strip() == "False"


@pytest.mark.skipif(shutil.which("nm") is None or shutil.which("readelf") is None, reason="needs binutils")
def test_symbols_of_torch_that_may_be_missing_are_weak():
    symbols = subprocess.run(["nm", "-D", "--undefined-only", library.PATH], capture_output=True, text=True).stdout
    weak = set(re.findall(r"^ +w (\S+)", symbols, re.M))
    assert {"torch_stream_native_handle", "aoti_torch_get_current_cuda_stream"} <= weak
    needed = subprocess.run(["readelf", "-d", library.PATH], capture_output=True, text=True).stdout
    libraries = re.findall(r"NEEDED.*\[(.*)\]", needed)
    assert "libtorch.so" in libraries
    assert not [name for name in libraries if name.startswith("libcuda")]
    assert "RPATH" not in needed and "RUNPATH" not in needed


def cuobjdump():
    packaged = (
        Path(sys.prefix) / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "nvidia"
    )
    return next(map(str, packaged.glob("*/bin/cuobjdump")), shutil.which("cuobjdump"))


def usage():
    """(architecture, kernel) -> registers, bytes of stack."""
    text = subprocess.run([cuobjdump(), "-res-usage", library.PATH], capture_output=True, text=True, check=True).stdout
    found, arch, name = {}, None, None
    for line in text.splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            arch = match.group(1)
        elif match := re.search(r"Function (\S+):", line):
            name = match.group(1)
        elif match := re.search(r"REG:(\d+) STACK:(\d+)", line):
            found[arch, name] = int(match.group(1)), int(match.group(2))
    return found


def instructions(arch, kernel):
    """Names of all instructions of the kernels whose name matches ``kernel``."""
    tool = Path(cuobjdump())
    names = sorted(name for a, name in usage() if a == arch and re.search(kernel, name))
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    for name in names:
        call = [tool, "-sass", "-arch", arch, "-fun", name, library.PATH]
        text = subprocess.run(call, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}).stdout
        yield name, re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", text, re.M)


# Registers of a thread that blocks of the kernel's size leave it, and bytes of stack, that is numbers which move through memory.
# Two counters of the outermost loop may in the kernels of features, which are few.
MOST = {
    "conv_chain": (255, 0),
    "conv_wide": (255, 0),
    "conv_head_gradient": (255, 0),
    "conv_feature_gradient": (255, 0),
    "conv_kernel_gradient": (255, 0),
    "point_moments": (255, 0),
    "list_moments": (255, 0),
    "point_gradient": (255, 0),
    "net_forwardIf": (255, 16),
    "net_backwardIf": (255, 16),
}


@pytest.mark.skipif(cuobjdump() is None, reason="needs cuobjdump")
def test_hot_kernels_keep_to_their_registers():
    seen = usage()
    for kernel, (most_registers, most_stack) in MOST.items():
        of_kernel = {key: value for key, value in seen.items() if kernel in key[1]}
        assert {arch for arch, _ in of_kernel} >= {"sm_80", "sm_90a"}, kernel
        for key, (registers, stack) in of_kernel.items():
            assert registers <= most_registers and stack <= most_stack, (key, registers, stack)


PORTABLE_CHAIN = "conv_chain.*Lb0E"


@pytest.mark.skipif(cuobjdump() is None, reason="needs cuobjdump")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    ("kernel", "variants"),
    [
        (PORTABLE_CHAIN, 10),
        ("conv_head_gradient", 8),
        ("conv_feature_gradient", 8),
        ("conv_kernel_gradient", 2),
        ("point_moments", 21),
        ("list_moments", 10),
        ("point_gradient", 22),
    ],
)
def test_matrix_products_are_matrix_instructions_on_registers(arch, kernel, variants):
    found = dict(instructions(arch, kernel))
    assert len(found) == variants
    for name, seen in found.items():
        assert {"HMMA", "LDSM", "LDGSTS"} <= set(seen), name
        assert kernel.startswith("conv") or "MUFU" in seen, name
        assert not {"LDL", "STL"} & set(seen), name


@pytest.mark.skipif(cuobjdump() is None, reason="needs cuobjdump")
@pytest.mark.parametrize(("kernel", "variants"), [("conv_chain.*Lb1E", 12), ("conv_wide", 8)])
def test_products_of_warpgroups_are_their_instructions(kernel, variants):
    found = dict(instructions("sm_90a", kernel))
    assert len(found) == variants
    for name, seen in found.items():
        assert {"HGMMA", "LDSM", "LDGSTS"} <= set(seen) and not {"LDL", "STL"} & set(seen), name
    # Other GPUs have no such instructions, and their images nothing but the names.
    for name, seen in dict(instructions("sm_80", kernel)).items():
        assert not {"HMMA", "LDSM"} & set(seen), name
