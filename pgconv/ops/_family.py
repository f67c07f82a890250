"""What an operation is: declaration, values on a backend, and its two rules of derivatives. Who calls them, PyTorch's dispatcher
(``_define``) or the direct way around it (``_direct``), is no concern of it.

An operation is a *family*: ``name(tensors, statics, plan) -> Tensor`` and ``name_backward(grad, tensors, statics, plan,
needs) -> Tensor, ...`` with one gradient for each differentiable tensor (an empty tensor where not needed). The
derivative of the backward operator is composed from a differentiable plain PyTorch form, so derivatives of any order
exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pgconv._autocast import dtype_of
from pgconv._layout import laid_out_as
from pgconv.backends.reference.vjp import independent
from pgconv.ops import dispatch, transforms
from pgconv.ops.transforms import Axes
from pgconv.spec import Facts, Plan

_Operands = Sequence[torch.Tensor | None]

_KEYS = torch._C.DispatchKey
# What a backend does is below all of these, as the kernel of an operator: it makes no graph, does not autocast, and its results are
# no views of something inside, which could not be changed in place.
_ABOVE = torch._C.DispatchKeySet(_KEYS.AutogradFunctionality)
for _key in (
    _KEYS.AutogradOther,
    _KEYS.AutogradNestedTensor,
    _KEYS.ADInplaceOrView,
    _KEYS.AutocastCPU,
    _KEYS.AutocastCUDA,
):
    _ABOVE = _ABOVE.add(_key)


def _whole(operands: _Operands, *decoded: Any) -> Iterable[tuple[Any, _Operands]]:
    return ((..., operands),)


@dataclass(frozen=True)
class Family:
    """Declaration of one operation.

    Attributes:
        name: name of the forward operator in namespace ``pgconv``
        tensors: tensor arguments in order; a trailing ``?`` marks an optional one
        differentiable: how many of them, counted from the front, have gradients
        statics: schema of the other arguments, e.g. ``"str spec, bool depthwise"``
        decode: turns the static arguments into what backends take
        facts: description of a call for the planner, from tensors and decoded statics
        fake: shape of the output, from tensors and decoded statics
        axes: what axis 0 of each tensor is (see ``transforms``), from the tensors
        composite: differentiable plain PyTorch form of the forward, from tensors and decoded statics
        cast: names of the tensors that autocast casts to the autocast dtype
        keeps_layout: whether tensors are maps that come out in the layout that they, or the first one, came in (see
            ``pgconv.group_last``); others come out contiguous
        pieces: parts of a call for ``composite`` whose results make up the whole, to be taken one after the other: where they
            lie in the result, and their tensors, from tensors and decoded statics
    """

    name: str
    tensors: tuple[str, ...]
    differentiable: int
    statics: str
    decode: Callable[..., tuple[Any, ...]]
    facts: Callable[..., Facts]
    fake: Callable[..., torch.Tensor]
    axes: Callable[..., Axes]
    composite: Callable[..., torch.Tensor]
    cast: tuple[str, ...] = ()
    keeps_layout: bool = False
    pieces: Callable[..., Iterable[tuple[Any, _Operands]]] = _whole

    @property
    def forward_op(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.pgconv, self.name).default

    @property
    def backward_op(self) -> torch._ops.OpOverload:
        return getattr(torch.ops.pgconv, f"{self.name}_backward").default

    def laid_out(self, like: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A result in the layout that the fake kernels promise: compiled code addresses memory by that promise."""
        return laid_out_as(like, x) if self.keeps_layout else x.contiguous()

    def autocast(self, args: Sequence[Any]) -> list[Any]:
        """The arguments of the forward operator as autocast, where it is on, casts them."""
        cast = list(args)
        for i, name in enumerate(self.tensors):
            if name.rstrip("?") in self.cast and cast[i] is not None and cast[i].is_floating_point():
                cast[i] = cast[i].to(dtype_of(cast[i]))
        return cast

    def split(self, args: Sequence[Any]) -> tuple[tuple[torch.Tensor | None, ...], tuple[Any, ...]]:
        """Tensors, and everything after them."""
        return tuple(args[: len(self.tensors)]), tuple(args[len(self.tensors) :])

    def run(self, *args: Any) -> torch.Tensor:
        """Values of the forward operator, which has these arguments."""
        tensors, (*statics, plan) = self.split(args)
        decoded = self.decode(*statics)
        with torch._C._ExcludeDispatchKeyGuard(_ABOVE):
            out = dispatch.run(self.name, self.facts(*tensors, *decoded), Plan.parse(plan), (*tensors, *decoded))
            return self.laid_out(tensors[0], out)

    def run_backward(self, grad: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        """Values of the backward operator."""
        tensors, (*statics, plan, needs) = self.split(args)
        decoded = self.decode(*statics)
        facts = self.facts(*tensors, *decoded)
        with torch._C._ExcludeDispatchKeyGuard(_ABOVE):
            grads = dispatch.run_backward(self.name, facts, Plan.parse(plan), needs, grad, (*tensors, *decoded))
            found = zip(tensors, grads, needs)
            return tuple(self.laid_out(t, g) if n and g is not None else grad.new_empty(0) for t, g, n in found)

    def gradients(
        self,
        backward: Callable[..., Any],
        grad: torch.Tensor,
        saved: _Operands,
        statics: Sequence[Any],
        needed: Sequence[bool],
    ) -> tuple[torch.Tensor | None, ...]:
        """Derivative of the forward operator: of each of its tensors, None where there is none or it is not needed.

        Args:
            backward: what runs the backward operator
            grad: gradient of the result
            saved, statics: arguments of the forward operator
            needed: of which a gradient is needed
        """
        needs = list(needed[: self.differentiable])
        if transforms.have_tangents((grad, *saved)):
            backward = partial(transforms.plain_gradients, self)
        grads = backward(grad, *saved, *statics, needs)
        grads = (grads,) if isinstance(grads, torch.Tensor) else grads
        kept = [g if need else None for g, need in zip(grads, needs)]
        return (*kept, *[None] * (len(saved) - len(kept)))

    def second_gradients(
        self, cotangents: Sequence[torch.Tensor], saved: _Operands, statics: Sequence[Any]
    ) -> tuple[torch.Tensor | None, ...]:
        """Derivative of the backward operator: of each of its tensors, None where there is none.

        Args:
            cotangents: gradients of its results
            saved, statics: its arguments
        """
        grad, *tensors = saved
        *encoded, _, needs = statics
        count, decoded = self.differentiable, self.decode(*encoded)
        further = torch.is_grad_enabled()
        with torch.enable_grad():
            grad = independent(grad)
            differentiable = [independent(t) for t in tensors[:count]]
            chosen = [(t, c) for t, c, n in zip(differentiable, cotangents, needs) if n and t is not None]
            sources = [grad, *[t for t in differentiable if t is not None]]
            total: list[torch.Tensor | None] = [None] * len(sources)
            for place, operands in self.pieces([*differentiable, *tensors[count:]], *decoded):
                out = self.composite(*operands, *decoded)
                first = torch.autograd.grad(
                    out,
                    [t for t, _ in chosen],
                    grad[place],
                    create_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                second = torch.autograd.grad(
                    first, sources, [c for _, c in chosen], create_graph=further, allow_unused=True
                )
                total = [x if t is None else t if x is None else t + x for t, x in zip(total, second)]
        results = iter(total)
        grads = [next(results), *[None if t is None else next(results) for t in differentiable]]
        return (*grads, *[None] * (len(tensors) - count))
