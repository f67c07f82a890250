"""What a training run is made of: a frozen description, changed by ``key=value``."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import nn

from pgconv import data, models
from pgconv._shapes import check_choice, check_positive_int, describe
from pgconv.data import Task
from pgconv.demo.terminal import LARGEST_SEED

NETWORKS = {"CKResNet": models.CKResNet, "GCNN13": models.GCNN13}
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Config:
    """A training run.

    Attributes:
        name: of the run
        task, task_options: of ``pgconv.data.get``
        network, network_options: class in ``pgconv.models``, and its arguments beside channels and classes
        augerino, augerino_samples: group that is learned at the input, around the network, and copies; None: nothing is
        epochs, batch_size: at most so many, of all processes together
        lr, range_lr, omega_lr: Adam's, of learned ranges, of learnable frequencies; None: ``lr``
        schedule: ``"cosine"``: from 0 up to ``lr`` in ``warmup_epochs``, then along a cosine to 1e-6; or ``"constant"``
        weight_penalty: factor of ``sum (||K||_F + ||bias||_2)``
        gate_penalty: factor of the divergence of gates that depend on the input (``partial="input"``)
        monotone: factor of ``models.monotone_loss``
        clip: largest norm of the gradient; None: any
        patience: epochs without a better validation after which the run ends
        precision: of convolutions and products, by autocast
        seed: of initial weights, orders, samples and dropout
        published: test accuracy in percent of the published run; None where there is none
        note: where the run differs from what its name says
    """

    name: str
    task: str
    task_options: dict[str, Any] = field(default_factory=dict)
    network: str = "CKResNet"
    network_options: dict[str, Any] = field(default_factory=dict)
    augerino: str | None = None
    augerino_samples: int = 8
    epochs: int = 300
    batch_size: int = 64
    lr: float = 1e-3
    range_lr: float | None = None
    omega_lr: float | None = None
    schedule: str = "cosine"
    warmup_epochs: int = 5
    weight_penalty: float = 0.0
    gate_penalty: float = 0.0
    monotone: float = 0.0
    clip: float | None = None
    patience: int = 100
    precision: str = "float32"
    seed: int = 0
    published: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        check_choice("train", "task", self.task, tuple(data.names()))
        check_choice("train", "network", self.network, tuple(NETWORKS))
        check_choice("train", "schedule", self.schedule, SCHEDULES)
        check_choice("train", "precision", self.precision, PRECISIONS)
        for name in ("epochs", "batch_size", "patience", "augerino_samples"):
            check_positive_int("train", name, getattr(self, name))
        check_positive_int("train", "warmup_epochs", self.warmup_epochs, minimum=0)
        if check_positive_int("train", "seed", self.seed, minimum=0) > LARGEST_SEED:
            raise ValueError(f"train: seed must be at most {LARGEST_SEED}, received {self.seed}")
        self._check_numbers(("lr",), zero=False)
        self._check_numbers(("clip",), zero=False, none=True)
        self._check_numbers(("range_lr", "omega_lr"), none=True)
        self._check_numbers(("weight_penalty", "gate_penalty", "monotone"))

    def _check_numbers(self, names: Iterable[str], zero: bool = True, none: bool = False) -> None:
        for name in names:
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not ((number and (0 < value < math.inf or (zero and value == 0))) or (none and value is None)):
                allowed = f"a finite number {'>=' if zero else '>'} 0{', or None' if none else ''}"
                raise ValueError(f"train: {name} must be {allowed}, received {describe(value)}")

    def changed(self, settings: Iterable[str]) -> Config:
        """With ``key=value`` for fields, ``network.width=8`` and ``task.validation=0`` for options; values as in Python, else text.

        Raises:
            ValueError: for an unknown key, or a text without ``=``
        """
        changes: dict[str, Any] = {}
        options = {"network": dict(self.network_options), "task": dict(self.task_options)}
        known = {f.name for f in fields(self)} - {"name", "published", "note", "network_options", "task_options"}
        for setting in settings:
            key, equals, text = setting.partition("=")
            owner, dot, option = key.partition(".")
            if equals and dot and owner in options and option:
                options[owner][option] = _value(text)
            elif equals and key in known:
                changes[key] = _value(text)
            else:
                raise ValueError(
                    f"train: settings are key=value with a key of {', '.join(sorted(known))}, network.OPTION or task.OPTION, "
                    f"received {setting!r}"
                )
        changed = replace(self, network_options=options["network"], task_options=options["task"], **changes)
        return changed if changed == self else replace(changed, published=None)

    def make_task(self, root: Any = None) -> Task:
        """Its data, from files in a folder where they are needed."""
        return data.get(self.task, root, **self.task_options)

    def make_network(self, task: Task) -> nn.Module:
        """A network with initial weights of the global random state."""
        try:
            network = NETWORKS[self.network](task.image_shape[0], task.classes, **self.network_options)
        except TypeError as error:
            raise ValueError(
                f"train: network.OPTION must be arguments of {self.network}, received {self.network_options} ({error})"
            ) from error
        return network if self.augerino is None else models.Augerino(network, self.augerino, self.augerino_samples)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
