"""The field's library for such networks, where it is installed: ``escnn.nn.R2Conv`` between regular fields of the rotations C_N.

Shapes are equal: C fields with N channels each to O fields, window, maps, batch, and a trivial field for a lifting convolution.
What is computed is not: see ``DIFFERS``. In training it builds its window anew in every call, as is timed here.

    pip install --no-deps --target FOLDER escnn pymanopt autograd joblib scipy
    PYTHONPATH=FOLDER python -m benchmarks group_conv2d --baselines all,escnn
"""

from __future__ import annotations

import math
import sys
import warnings
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from benchmarks.group_conv2d.baselines import _kernel_elements, _refuses
from benchmarks.group_conv2d.cases import Case, Walk
from benchmarks.suite import Baseline, installed

DIFFERS = (
    "not the same sum: R2Conv of C_N, whose kernel is a combination of fixed steerable functions with coefficients for each "
    "pair of fields; no kernel net, no sampled elements, multiples of 360/N degrees alone; window and bias built in the call"
)
_WIGNER = "lie_learn.representations.SO3.wigner_d"


def load() -> tuple[ModuleType, ModuleType]:
    """``escnn.gspaces`` and ``escnn.nn``.

    Importing escnn asks lie_learn for a function of rotations in space, which nothing in the plane calls. Its last release
    builds with no current compiler of extensions: where it is missing an empty one stands in.
    """
    if not installed("lie_learn"):
        parts = _WIGNER.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), ModuleType(parts[end - 1]))
        sys.modules[_WIGNER].wigner_D_matrix = None  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("escnn.gspaces"), import_module("escnn.nn")


@lru_cache(maxsize=4)
def _layer(inputs: int, outputs: int, nv: int, nu: int, kernel: int, padding: int) -> tuple[torch.nn.Module, Any]:
    """The layer, and a function that says which field a tensor is. Its initial values take long and are not used."""
    gspaces, nn = load()
    space = gspaces.rot2dOnR2(nu)
    of_inputs = space.trivial_repr if nv == 1 else space.regular_repr
    source, target = nn.FieldType(space, [of_inputs] * inputs), nn.FieldType(space, [space.regular_repr] * outputs)
    layer = nn.R2Conv(source, target, kernel, padding=padding, bias=True, initialize=False)
    return layer.train(), lambda x: nn.GeometricTensor(x, source)


def _layer_of(case: Case) -> tuple[torch.nn.Module, Any]:
    padding = case.kernel // 2 if case.padding == "same" else 0
    return _layer(case.inputs, case.outputs, case.nv, case.nu, case.kernel, padding)


class Regular:
    """The layer as a function of signal, coefficients and bias."""

    def __init__(self, case: Case) -> None:
        layer, self._field = _layer_of(case)
        self._layer, self._nu = layer.to(case.device), case.nu

    def __call__(self, f: torch.Tensor, coefficients: torch.Tensor, bias: torch.Tensor, walk: Walk) -> torch.Tensor:
        signal = self._field(f.flatten(1, 2))
        out = torch.func.functional_call(self._layer, {"weights": coefficients, "bias": bias}, (signal,)).tensor
        return out.reshape(f.shape[0], -1, self._nu, *out.shape[-2:])


def operands(case: Case) -> list[torch.Tensor]:
    """The signal of the case, and coefficients and bias in the places of features and head."""
    layer, _ = _layer_of(case)
    generator = torch.Generator(case.device).manual_seed(2)
    shapes = layer.weights.shape, layer.bias.shape
    own = [torch.randn(shape, generator=generator, device=case.device) for shape in shapes]
    return [case.operands()[0], own[0] / math.sqrt(case.inputs * case.nv * case.kernel), own[1]]


def flops(case: Case) -> float:
    """The dense convolution, and the window: for each pair of fields a combination of basis windows."""
    layer, _ = _layer_of(case)
    rows, columns = case.geometry.out_size(case.height, case.width)
    window = case.nv * case.nu * case.kernel**2
    return 2.0 * window * (case.batch * rows * columns * case.inputs * case.outputs + layer.weights.numel())


def refuses(case: Case) -> str | None:
    if case.per_example:
        return "its samples are those of all images"
    if case.nv not in (1, case.nu):
        return "its fields have as many samples before as after"
    return _refuses(_kernel_elements)(case) if case.dtype == "float32" else "measured in float32 alone"


OPTIONAL: tuple[Baseline, ...] = (
    Baseline("escnn", Regular, flops, refuses, module="escnn", differs=DIFFERS, own=operands),
)
