"""Running a layer's own code on the side: for its samples, and to compare with.

Samples, counters and schedules are the layer's business: its own forward function draws them here, with one channel, a tiny image
and a stand-in for its kernel net, so that what costs time is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class StandIn(nn.Module):
    """In place of a kernel net: one value 0 at every position; remembers the shape of the coordinates ``[M, d, ...]``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = ()
        self.__dict__["net"] = net

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["net"], name)

    def forward(self, coords: Tensor, *_: Any) -> Tensor:
        """``[M, d, ...] -> [M, 1, ...]``."""
        self.shape = tuple(coords.shape)
        return coords.new_zeros(coords.shape[0], 1, *coords.shape[2:])


def shallow_twin(layer: nn.Module, cls: type) -> Any:
    """Another object of class ``cls`` with the layer's own submodules and tensors, of which it may be given others."""
    twin = object.__new__(cls)
    twin.__dict__ = dict(layer.__dict__)
    for store in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[store] = dict(layer.__dict__[store])
    return twin


def free_twin(layer: nn.Module, cls: type | None = None) -> Any:
    """The same with submodules of its own and copies of all tensors but parameters: what it does leaves no trace in the layer."""
    twin = shallow_twin(layer, cls or type(layer))
    for store in (twin.__dict__, twin._buffers):
        store.update({name: x.detach().clone() for name, x in store.items() if isinstance(x, Tensor)})
    twin._modules.update({name: free_twin(child) for name, child in twin._modules.items() if child is not None})
    return twin


def reduce_to_one_channel(twin: Any) -> StandIn:
    """Makes a twin of a layer of the release one with one channel and a stand-in for its kernel net, which is returned."""
    twin._modules["kernelnet"] = stand_in = StandIn(twin._modules["kernelnet"])
    twin.in_channels = twin.out_channels = 1
    if twin._parameters.get("bias") is not None:
        twin._parameters["bias"] = twin._parameters["bias"].detach()[:, :1]
    return stand_in


@contextmanager
def same_draws(layer: nn.Module) -> Iterator[None]:
    """Random numbers are as if nothing had been drawn, behind the block and for the next one."""
    devices = {x.device for x in layer.state_dict(keep_vars=True).values() if x.device.type == "cuda"}
    with torch.random.fork_rng(sorted(d.index for d in devices)):
        yield


def methods_called(layer: nn.Module, cls: type, args: tuple[Any, ...]) -> tuple[Any, list[tuple[str, tuple, Any]]]:
    """What ``cls.forward`` returns, and its calls of methods of the class in order: name, positional arguments, result."""
    twin, calls = free_twin(layer, cls), []

    def recorded(name: str) -> Callable[..., Any]:
        method = getattr(twin, name)

        def call(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            calls.append((name, (*args, *options.values()), result))
            return result

        return call

    own = {
        name
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("__") and name != "forward"
    }
    twin.__dict__.update({name: recorded(name) for name in own})
    return cls.forward(twin, *args), calls
