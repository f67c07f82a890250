"""Studies: sets of runs that are compared with each other, each with several seeds."""

from __future__ import annotations

from dataclasses import dataclass

from pgconv.train.configs import MIRRORED, SHORT


@dataclass(frozen=True)
class Run:
    """A run of ``configs`` in a study; ``order``: one evaluation order for all its convolutions, None: planned."""

    name: str
    order: str | None = None

    @property
    def title(self) -> str:
        """With the order, where it is not planned."""
        return self.name if self.order is None else f"{self.name}-{self.order}"


@dataclass(frozen=True)
class Study:
    """Runs and seeds.

    Attributes:
        name, about: as the command lists them
        runs: all with all seeds
        seeds: of weights, orders and samples
        ranges, epochs, response: runs whose learned ranges, accuracies by epoch, and response to rotation are drawn, of the first
            seed
    """

    name: str
    about: str
    runs: tuple[Run, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    ranges: tuple[str, ...] = ()
    epochs: tuple[str, ...] = ()
    response: tuple[str, ...] = ()


def _digits_toy() -> Study:
    names = [
        f"digits6-{change}-{SHORT[group]}-{kind}"
        for group in SHORT
        for change in ("180", MIRRORED[group])
        for kind in ("full", "partial")
    ]
    return Study(
        "digits-toy",
        "a six of scikit-learn's digits told from the same six turned by a half turn, or mirrored: a full G-CNN is at chance where "
        "the change is in the group, a partial one is not",
        tuple(Run(name) for name in names),
        ranges=tuple(name for name in names if name.endswith("partial")),
        response=("digits6-180-se2-full", "digits6-180-se2-partial"),
    )


def _digits_gates() -> Study:
    names = tuple(f"digits6-{task}-variational" for task in ("180-se2", "flip-mirror", "180-e2", "M-e2"))
    return Study(
        "digits-gates",
        "the tasks of digits-toy whose change is in the group, with gates that depend on the input",
        tuple(Run(name) for name in names),
        ranges=names,
        response=names[:1],
    )


def _rotated_digits() -> Study:
    names = [f"rotated-digits-{kind}" for kind in ("t2", "augerino", "se2-full", "se2-partial", "se2-variational")]
    return Study(
        "rotated-digits",
        "scikit-learn's digits, each turned by any angle: translations alone, a learned augmentation, SE(2) full, partial, and "
        "with gates that depend on the input; and full SE(2) on the materialised convolution, for the time",
        (*(Run(name) for name in names), Run("rotated-digits-se2-full", "materialize")),
        ranges=("rotated-digits-se2-partial", "rotated-digits-se2-variational"),
        epochs=tuple(names),
    )


_STUDIES = {study.name: study for study in (_digits_toy(), _digits_gates(), _rotated_digits())}


def names() -> list[str]:
    """Of all studies."""
    return list(_STUDIES)


def get(name: str) -> Study:
    """The study of that name.

    Raises:
        ValueError: for an unknown name
    """
    if name not in _STUDIES:
        raise ValueError(f"study: unknown name {name!r}; choose one of {', '.join(_STUDIES)}")
    return _STUDIES[name]
