"""Equivariance error of modules on images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pgconv import groups
from pgconv._shapes import check_floating, check_shape, describe
from pgconv.functional import move_images
from pgconv.groups import Group
from pgconv.sampling import Samples

_MATCH = 1e-4


def equivariance_error(
    module: nn.Module, x: Tensor, group: str | Group, elements: Tensor | None = None, seed: int = 0
) -> Tensor:
    """How far ``module(L_g x)`` is from what equivariance demands, for each group element g.

    ``(L_g x)(p) = x(g^-1 p)`` moves the image about its centre. If the module returns ``(y, Samples)``, equivariance
    demands ``y(L_g x)[u, p] = y(x)[g^-1 u, g^-1 p]`` and the samples must be closed under g; if it returns a tensor
    (logits, pooled features), invariance, ``y(L_g x) = y(x)``. The error is ``||difference|| / ||demanded||`` in the
    2-norm. Quarter turns and mirrors move pixels exactly on square images; other elements interpolate bilinearly, and
    their error includes that of the interpolation. The module is run in its current mode, with the same seed for both
    runs.

    Args:
        module: maps ``x`` to a tensor, or to ``(y [B, C, N, Ho, Wo], Samples)``
        x: images ``[B, C, H, W]``
        group: ``"SE(2)"``, ``"E(2)"``, ``"M(2)"``, ... acting on the plane
        elements: ``[K, e]`` with zero translation; default: the group's grid of quarter turns and mirrors
        seed: of the module's sampling

    Returns:
        relative errors ``[K]``

    Raises:
        ValueError: for images or elements of the wrong shape, or samples that g does not map to each other

    Example:
        >>> import torch, pgconv
        >>> lift = pgconv.nn.LiftingConv2d(1, 4, kernel_size=3, group="SE(2)", num_samples=4).eval()
        >>> x = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
        >>> bool((pgconv.diagnostics.equivariance_error(lift, x, group="SE(2)") < 1e-5).all())
        True
    """
    op = "equivariance_error"
    group = groups.get(group)
    if group.translation_dim != 2:
        raise ValueError(f"{op}: group must act on the plane with translations, received {group.name}")
    if not callable(module):
        raise ValueError(f"{op}: module must be a module or function of images, received {describe(module)}")
    check_shape(op, "x", x, "B C H W", {})
    check_floating(op, "x", x)
    if elements is None:
        elements = _default_elements(group).to(x.device)
    check_shape(op, "elements", elements, "K e", {"e": group.element_dim})
    with torch.no_grad():
        plain = _run(module, x, seed)
        errors = [_error(group, plain, _run(module, _move_image(group, g, x), seed), g) for g in elements]
    return torch.stack(errors)


def _default_elements(group: Group) -> Tensor:
    """The largest grid that moves square images exactly: quarter turns and mirrors, as far as the group has them."""
    for count in (8, 4, 2, 1):
        try:
            grid = group.grid(count)
        except ValueError:
            continue
        matrices = group.matrix(grid.double())
        if torch.allclose(matrices, matrices.round(), atol=1e-5):
            return grid
    raise ValueError(f"equivariance_error: {group.name} has no small grid; pass elements")


def _run(module: nn.Module, x: Tensor, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return module(x)


def _error(group: Group, plain: Any, moved: Any, g: Tensor) -> Tensor:
    if isinstance(plain, Tensor):
        demanded = plain
        found = moved
    elif isinstance(plain, tuple) and len(plain) == 2:
        demanded = _move_maps(group, g, plain[0], Samples(*plain[1]), Samples(*moved[1]))
        found = moved[0]
    else:
        raise ValueError(f"equivariance_error: module must return a tensor or (y, Samples), received {describe(plain)}")
    return (found - demanded).norm() / demanded.norm().clamp(min=torch.finfo(demanded.dtype).tiny)


def _move_maps(group: Group, g: Tensor, y: Tensor, before: Samples, after: Samples) -> Tensor:
    """``y[g^-1 u, g^-1 p]`` for the output samples ``u`` of the moved run."""
    if before.elements.shape[0] != 1:
        raise ValueError(
            "equivariance_error: module must use one sample set for the whole batch (samples_per_example=False)"
        )
    u, v = after.elements[0], before.elements[0]
    source = group.product(group.inverse(g).to(u), u)
    distance = group.distance(source[:, None], v[None, :])
    best, order = distance.min(1)
    if best.max() > _MATCH:
        raise ValueError(
            f"equivariance_error: elements must map the module's output samples to each other; "
            f"{g.tolist()} moves one by "
            f"{best.max():.3g} from the nearest sample. Use eval() for a fixed grid, and elements of that grid"
        )
    maps = y[:, :, order]
    flat = _move_image(group, g, maps.flatten(1, 2))
    return flat.reshape(maps.shape)


def _move_image(group: Group, g: Tensor, x: Tensor) -> Tensor:
    """``x(g^-1 p)`` about the image centre for the linear part of g."""
    matrix = group.matrix(g.double())
    exact = _exact_move(matrix, x)
    if exact is not None:
        return exact
    return move_images(x, g.reshape(1, 1, -1).to(x.device), group)[:, 0]


def _exact_move(matrix: Tensor, x: Tensor) -> Tensor | None:
    """Quarter turns and mirrors as permutations of pixels, where the image allows it."""
    angle = math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))
    turns = round(angle / (math.pi / 2))
    mirrored = float(torch.linalg.det(matrix)) < 0
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64).matrix_power(turns % 4)
    mirror = torch.diag(torch.tensor([1.0, -1.0 if mirrored else 1.0], dtype=torch.float64))
    if not torch.allclose(turn @ mirror, matrix.cpu(), atol=1e-5) or (turns % 2 and x.shape[-1] != x.shape[-2]):
        return None
    return torch.rot90(x.flip(-2) if mirrored else x, turns, (-2, -1))
