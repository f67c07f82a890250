"""Frozen descriptions of a call. Each has a short text form, so it can be an operator argument, a cache key, a log
line.

``FeatureSpec`` says which kernel-net features are wanted, ``ConvGeometry`` how a planar convolution walks the pixels,
``Plan`` which backend runs it in which evaluation order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from pgconv._shapes import check_choice, check_positive_int, describe

FORMS = ("convolution", "correlation")
CHARTS = ("product", "embed", "lie", "release")
PARTS = ("all", "translation", "stabilizer")
SUPPORTS = ("disc", "square")
REDUCTIONS = ("mean", "sum")
ORDERS = ("direct", "aggregate", "mix", "spectral", "spectral-aggregate", "materialize")


@dataclass(frozen=True)
class FeatureSpec:
    """Net at ``coordinates(v^-1 u)`` (form "convolution") or ``coordinates(u^-1 v)`` ("correlation")."""

    group: str
    chart: str
    part: str
    form: str
    net: str

    def __str__(self) -> str:
        return "|".join((self.group, self.chart, self.part, self.form, self.net))

    @property
    def adjoint(self) -> FeatureSpec:
        """The same features with v and u in each other's place."""
        return replace(self, form="convolution" if self.form == "correlation" else "correlation")

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(text: str) -> FeatureSpec:
        return FeatureSpec(*text.split("|"))


@dataclass(frozen=True)
class ConvGeometry:
    """How taps walk over pixels: output pixel ``p`` reads input pixel ``stride * p - padding + dilation * (d + c)``."""

    kernel_size: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    support: str

    @staticmethod
    def make(
        op: str, kernel_size: object, stride: object, padding: object, dilation: object, support: object
    ) -> ConvGeometry:
        """Checked geometry from what a user passes: ints or pairs, ``padding`` also ``"same"`` or ``"valid"``."""
        size = check_positive_int(op, "kernel_size", kernel_size)
        if size % 2 == 0:
            raise ValueError(
                f"{op}: kernel_size must be odd so that the kernel has a centre pixel, received {size}; "
                f"use {size - 1} or {size + 1}"
            )
        check_choice(op, "support", support, SUPPORTS)
        strides = _pair(op, "stride", stride, 1)
        dilations = _pair(op, "dilation", dilation, 1)
        if padding == "valid":
            pads = (0, 0)
        elif padding == "same":
            pads = (dilations[0] * (size // 2), dilations[1] * (size // 2))
        else:
            pads = _pair(op, "padding", padding, 0)
        return ConvGeometry(size, strides, pads, dilations, str(support))

    @property
    def radius(self) -> int:
        return self.kernel_size // 2

    def taps(self) -> tuple[tuple[int, int], ...]:
        """Integer offsets (drow, dcol) of the support, row by row.

        The disc is decided in integers, ``drow^2 + dcol^2 <= radius^2``: it is the same set for every rotation, where
        a test on rotated floats would lose boundary taps.
        """
        r = self.radius
        grid = [(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1)]
        return tuple(t for t in grid if self.support == "square" or t[0] ** 2 + t[1] ** 2 <= r * r)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Output height and width (may be <= 0 when the kernel does not fit)."""
        span = self.kernel_size - 1
        return (
            (height + 2 * self.padding[0] - self.dilation[0] * span - 1) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - self.dilation[1] * span - 1) // self.stride[1] + 1,
        )

    def period(self, height: int, width: int) -> tuple[int, int]:
        """Cyclic periods of the spectral order: long enough that a tap beside the image never meets it one period away."""
        out, size = self.out_size(height, width), (height, width)
        reach = [d * (self.kernel_size - 1) for d in self.dilation]
        y, x = (
            max(size[i] + self.padding[i], (out[i] - 1) * self.stride[i] + reach[i] - self.padding[i] + 1)
            for i in (0, 1)
        )
        return y, x

    def __str__(self) -> str:
        pairs = "|".join(f"{a},{b}" for a, b in (self.stride, self.padding, self.dilation))
        return f"{self.kernel_size}|{pairs}|{self.support}"

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(text: str) -> ConvGeometry:
        size, stride, padding, dilation, support = text.split("|")
        pairs = [tuple(int(x) for x in pair.split(",")) for pair in (stride, padding, dilation)]
        return ConvGeometry(int(size), *pairs, support)  # type: ignore[arg-type]


def _pair(op: str, name: str, value: object, minimum: int) -> tuple[int, int]:
    items = value if isinstance(value, (tuple, list)) else (value, value)
    if len(items) != 2:
        raise ValueError(f"{op}: {name} must be an integer or a pair of integers, received {describe(value)}")
    try:
        return tuple(check_positive_int(op, name, i, minimum) for i in items)  # type: ignore[return-value]
    except ValueError:
        words = ' or "same" or "valid"' if name == "padding" else ""
        raise ValueError(
            f"{op}: {name} must be an integer >= {minimum} or a pair of them{words}, received {describe(value)}"
        ) from None


@dataclass(frozen=True)
class Plan:
    """Backend and evaluation order; ``"auto"`` leaves the choice to the planner. Text form ``"cpp:materialize"``."""

    backend: str = "auto"
    order: str = "auto"

    def __str__(self) -> str:
        return f"{self.backend}:{self.order}"

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(text: str) -> Plan:
        backend, _, order = text.partition(":")
        return Plan(backend or "auto", order or "auto")


@dataclass(frozen=True)
class Facts:
    """All a planner or a backend's ``why_not`` may look at: operation, device, dtypes, sizes, specs, and whether convolutions may
    cut float32 operands to the 11 significant bits of TF32."""

    op: str
    device: str
    dtypes: tuple[str, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    features: FeatureSpec | None = None
    geometry: ConvGeometry | None = None
    tf32: bool = False

    def size(self, name: str) -> int:
        return dict(self.sizes)[name]
