"""Entries of a state dict by name, and which of them were used."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Entries:
    """The entries of ``state`` whose names begin with ``prefix``, under what is left of their names."""

    def __init__(self, owner: str, state: Mapping[str, Tensor], prefix: str = "") -> None:
        self.owner, self.prefix = owner, prefix
        self._state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        self._used: set[str] = set()

    @classmethod
    def of_module(cls, module: nn.Module, owner: str = "") -> Entries:
        """The module's own tensors, with their graph; ``owner`` is the module's class if it is not named."""
        return cls(owner or type(module).__name__, module.state_dict(keep_vars=True))

    def names(self, beginning: str = "") -> list[str]:
        """All that begin so, in the order of the state dict."""
        return [name for name in self._state if name.startswith(beginning)]

    def take(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """The entry of that name, of that shape if one is given."""
        if name not in self._state:
            raise ValueError(
                f"{self.owner}: entry {self.prefix + name!r} is missing, received {', '.join(self._state) or 'none'}; "
                "check the prefix and that both layers have the same kind of kernel net and bias"
            )
        self._used.add(name)
        tensor = self._state[name]
        if shape is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{self.owner}: entry {self.prefix + name!r} must have shape {list(shape)}, received {list(tensor.shape)}"
            )
        return tensor

    def find(self, name: str) -> Tensor | None:
        """The entry of that name, or None."""
        return self.take(name) if name in self._state else None

    def skip(self, beginning: str) -> None:
        """Counts all that begin so as used."""
        self._used.update(self.names(beginning))

    def check_all_used(self) -> None:
        """Raise `ValueError` with the names of entries that nothing was done with."""
        left = [self.prefix + name for name in self._state if name not in self._used]
        if left:
            raise ValueError(
                f"{self.owner}: entries {', '.join(map(repr, left))} are not known in a layer of this kind"
            )


def read_state(owner: str, state: object) -> dict[str, Tensor]:
    """A state dict, or that in a file of tensors (``torch.save``); one under the key "state_dict" is found, too."""
    if isinstance(state, (str, os.PathLike)):
        state = torch.load(state, map_location="cpu", weights_only=True)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(
            f"{owner}: state must be a state dict (names to tensors) or the path of a file with one, received "
            f"{type(state).__name__}; pass model.state_dict()"
        )
    return dict(state)


def copy_into(owner: str, module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy tensors to the module's parameters and buffers of these names, or raise `ValueError` and copy none."""
    there = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, value in values.items():
        if name not in there:
            raise ValueError(f"{owner}: the layer has no {name!r}, but the state has values for it; build it with one")
        if there[name].shape != value.shape:
            raise ValueError(
                f"{owner}: {name!r} of the layer is {list(there[name].shape)}, but the state's values are {list(value.shape)}; "
                "build the layer with the sizes of the trained one"
            )
    with torch.no_grad():
        for name, value in values.items():
            there[name].copy_(value)
