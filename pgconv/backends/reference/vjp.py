"""Derivatives of plain PyTorch functions, for use where autograd records the caller or does not record at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

_AUTOGRAD_KEYS = ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView")


def vjp(
    function: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor | None],
    grad: torch.Tensor,
    needs: Sequence[bool],
) -> list[torch.Tensor | None]:
    """Gradients of ``<function(*inputs), grad>`` in the needed inputs, None in the others.

    An operator's kernel runs below autograd: the dispatcher excludes the autograd keys there, so ``enable_grad`` alone
    records nothing. They are taken back in for the duration of this call.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for name in _AUTOGRAD_KEYS:
        excluded = excluded.remove(getattr(torch._C.DispatchKey, name))
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        leaves = [None if x is None else x.detach().requires_grad_(need) for x, need in zip(inputs, needs)]
        wanted = [x for x in leaves if x is not None and x.requires_grad]
        grads = iter(torch.autograd.grad(function(*leaves), wanted, grad, allow_unused=True, materialize_grads=True))
        return [next(grads) if x is not None and x.requires_grad else None for x in leaves]


def independent(x: torch.Tensor | None, need: bool = True) -> torch.Tensor | None:
    """The same values as a variable of its own: an argument computed from another one counts as independent of it, and what is made
    of the view can still be differentiated further. Without ``need`` it is a constant."""
    if x is None or not need:
        return None if x is None else x.detach()
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
