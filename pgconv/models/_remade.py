"""Maps behind norm and ReLU, which training does not keep: the backward pass makes them again from what it keeps anyway.

Of ``y = conv(relu(norm(x)))`` autograd keeps ``x`` for the norm and ``relu(norm(x))`` both for the ReLU and the convolution. The
second one costs as much memory as the first one, and next to nothing to make again beside a convolution.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pgconv._autocast import as_now
from pgconv.functional._pieces import can_be_recomputed
from pgconv.models._pooled_norm import pooled_norm, suits, values_again
from pgconv.nn import GroupBatchNorm2d, LiftingConv2d
from pgconv.sampling import Samples

SMALL = 4 << 20
"""Bytes of maps that are kept all the same: the calls to make them again cost more than their memory is worth."""


@contextmanager
def remade_relu(
    norm: nn.Module,
    x: Tensor,
    samples: Samples | None,
    pool: nn.Module | None = None,
    factor: Tensor | None = None,
    source: Callable[[], Source] | None = None,
) -> Iterator[Tensor]:
    """``relu(factor * pool(norm(x, samples)))``; what autograd would keep of it inside the ``with`` it makes again in the backward
    pass, and of ``x``, too, where there is a ``source``. A factor takes no gradient.

    The result must be used inside only, and not be changed. Values and gradients are to the bit those without; running statistics
    count once. Everything is kept as usual where the caller or PyTorch has plans of its own for what autograd keeps: under other
    hooks (``torch.utils.checkpoint``, ``torch.autograd.graph.save_on_cpu``), ``torch.func`` and ``torch.compile``; and of maps
    smaller than ``SMALL``.
    """
    if not can_be_recomputed() or _has_other_hooks() or x.nbytes < SMALL:
        y = norm(x, samples)
        y = y if pool is None else pool(y)
        yield torch.relu(y if factor is None else y * factor.to(y.dtype))
        return
    kept = _Map(norm, x, samples, pool, factor, None if source is None else source(), _around())
    y = kept.before_relu(x)
    if not y.requires_grad:
        yield torch.relu(y)
        return
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, _unpack):
        kept.made = torch.relu(y)
        kept.stride = kept.made.stride()
        del x, y
        yield kept.made
    kept.made = kept.around = None


class Source:
    """``make()``, a tensor that is not kept but made again, of tensors that have not changed since."""

    def __init__(self, make: Callable[[], Tensor], *of: Tensor) -> None:
        self.make, self.autocast = make, as_now(of[0])
        # Without their graphs, and with their counters.
        self.of = [(t.detach(), t._version) for t in of]

    def again(self) -> Tensor:
        """Made again."""
        for t, version in self.of:
            if t._version != version:
                raise RuntimeError(
                    f"a tensor of shape {list(t.shape)}, of which a map before a norm is made again, has been modified in place "
                    "before the backward pass"
                )
        with torch.no_grad(), self.autocast:
            return self.make()


def lifted_again(lift: nn.Module, x: Tensor, samples: Samples) -> Callable[[], Source] | None:
    """For the first map of a network, which takes next to nothing to make: an image has few channels."""
    if not isinstance(lift, LiftingConv2d):
        return None
    return lambda: Source(partial(lift.at, x, samples), x, *samples, *lift.parameters())


class _Map:
    """A map and how it is made, inside one that is still in use; ``made`` is there while somebody uses it."""

    def __init__(
        self,
        norm: nn.Module,
        x: Tensor,
        samples: Samples | None,
        pool: nn.Module | None,
        factor: Tensor | None,
        source: Source | None,
        around: _Map | None,
    ) -> None:
        self.norm, self.samples, self.pool, self.factor, self.around = norm, samples, pool, factor, around
        self.source = source or _unchanged(x)
        self.keeps_x = source is None
        self.training, self.autocast = norm.training, as_now(x)
        self.together = isinstance(norm, GroupBatchNorm2d) and suits(norm, x, samples, pool)
        self.stride: tuple[int, ...] = ()
        self.made: Tensor | None = None

    def before_relu(self, x: Tensor) -> Tensor:
        """Computed for the first time."""

        storage = x.untyped_storage().data_ptr()

        def pack(t: Tensor) -> Any:
            # Autograd keeps this function, which so must not keep x.
            if t.untyped_storage().data_ptr() == storage:
                return _View(self.source, t.size(), t.stride(), t.storage_offset())
            return t if self.around is None else self.around.pack(t)

        with nullcontext() if self.keeps_x else torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            if self.together:
                return self._scaled(pooled_norm(self.norm, x, self.pool))
            y = self.norm(x, self.samples)
            return self._scaled(y if self.pool is None else self.pool(y))

    def pack(self, t: Tensor) -> Any:
        """What autograd is to keep for ``t``."""
        if self.made is None:
            return self  # The ReLU keeps its result, which is not known yet.
        if t.untyped_storage().data_ptr() == self.made.untyped_storage().data_ptr():
            return _View(self, t.size(), t.stride(), t.storage_offset())
        return t if self.around is None else self.around.pack(t)

    def again(self) -> Tensor:
        """Made again, or still there."""
        if self.made is None:
            x = self.source.again()
            with torch.no_grad(), self.autocast:
                y = self._scaled(self._values(x)).relu_()
                # What is kept of views counts on the strides there were.
                self.made = (
                    y
                    if y.stride() == self.stride
                    else torch.empty_strided(y.shape, self.stride, dtype=y.dtype, device=y.device).copy_(y)
                )
            _newest.replace(self)
        return self.made

    def _values(self, x: Tensor) -> Tensor:
        if self.together:
            return values_again(self.norm, x, self.pool)
        if isinstance(self.norm, GroupBatchNorm2d):
            y = self.norm.normalised(x, self.samples, self.training, count=False)
        else:
            y = self.norm(x, self.samples)
        return y if self.pool is None else self.pool(y)

    def _scaled(self, y: Tensor) -> Tensor:
        return y if self.factor is None else y * self.factor.to(y.dtype)


def _unchanged(x: Tensor) -> Source:
    """That is kept."""
    kept = x.detach()
    return Source(lambda: kept, kept)


class _Newest(threading.local):
    """The map made last, of each thread. One is enough: of a shortcut's input, only one of its two uses is followed by the ReLU."""

    of: weakref.ref[_Map] | None = None

    def replace(self, kept: _Map) -> None:
        before = self.of and self.of()
        if before is not None and before is not kept:
            before.made = None
        self.of = weakref.ref(kept)


_newest = _Newest()


def _around() -> _Map | None:
    """The map in whose ``with`` this is called."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    owner = getattr(hooks[0], "__self__", None) if hooks else None
    return owner if isinstance(owner, _Map) else None


def _has_other_hooks() -> bool:
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None and _around() is None


@dataclass
class _View:
    of: _Map | Source
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def _unpack(kept: Any) -> Tensor:
    if isinstance(kept, _View):
        return kept.of.again().as_strided(kept.size, kept.stride, kept.offset)
    if isinstance(kept, _Map):
        # The ReLU is the last one in the backward pass to ask.
        made, kept.made = kept.again(), None
        return made
    return kept
