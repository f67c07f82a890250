"""Fast Monte Carlo group convolution for PyTorch.

Layers (``pgconv.nn``) and functions (``pgconv.functional``) whose kernel is a small neural network evaluated at
relative group offsets ``v^-1 u``; groups (``pgconv.groups``), kernel nets (``pgconv.kernel_nets``), samplers
(``pgconv.sampling``), neighbours (``pgconv.neighbors``), tasks (``pgconv.data``) and checks (``pgconv.diagnostics``).
"""

from importlib.metadata import PackageNotFoundError, version

from pgconv import (
    backends,
    compat,
    data,
    diagnostics,
    functional,
    groups,
    kernel_nets,
    models,
    neighbors,
    nn,
    ops,
    sampling,
)
from pgconv._layout import group_last
from pgconv.config import show_config
from pgconv.deploy import freeze
from pgconv.diagnostics import self_check, warmup
from pgconv.ops.calibrate import calibrate
from pgconv.ops.dispatch import use_backend
from pgconv.ops.explain import explain

try:
    __version__ = version("pgconv")
except PackageNotFoundError:
    # A source tree on the path without an installation: the version has one owner, the package metadata.
    __version__ = "unknown"

__all__ = [
    "__version__",
    "backends",
    "calibrate",
    "compat",
    "data",
    "diagnostics",
    "explain",
    "freeze",
    "functional",
    "group_last",
    "groups",
    "kernel_nets",
    "models",
    "neighbors",
    "nn",
    "ops",
    "sampling",
    "self_check",
    "show_config",
    "use_backend",
    "warmup",
]
