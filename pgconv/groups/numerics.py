"""Scalar functions the group formulas share: angle wrapping, norms and power series that are safe to differentiate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Relative angles of a regular grid land exactly on pi up to rounding (fp32: about 1e-6 after a jitter); this margin,
# ten times larger, sends all of them to +pi instead of letting rounding choose between +pi and -pi.
ANGLE_TOL = 1e-5
# The same margin for a unit quaternion: w = cos(angle / 2), so |w| <= 5e-6 is an angle within 1e-5 of pi.
QUATERNION_TOL = 5e-6

_BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000)
# Below this |z|^2 the series are used: their first neglected terms are under 1e-17, and above it the closed forms
# and their derivatives lose no more than about 1/|z| ~ 3 roundings to cancellation.
_SERIES_BELOW = 0.1


def wrap(angle: Tensor) -> Tensor:
    """Reduce angles to (-pi + 1e-5, pi + 1e-5]:  ``a - 2 pi ceil((a - pi - 1e-5) / (2 pi))``, derivative 1.

    Any shape, radians.

    >>> wrap(torch.tensor([0.0, -torch.pi, 3 * torch.pi / 2], dtype=torch.float64)) / torch.pi
    tensor([ 0.0000,  1.0000, -0.5000], dtype=torch.float64)
    """
    turns = torch.ceil((angle.detach() - (math.pi + ANGLE_TOL)) / (2 * math.pi))
    return angle - (2 * math.pi) * turns


def norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last axis, ``[..., d] -> [...]``, with gradient 0 (not NaN) at 0."""
    square = (x * x).sum(-1)
    zero = square == 0
    return torch.where(zero, square, torch.sqrt(torch.where(zero, 1.0, square)))


def horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """``sum_n coefficients[n] x^n``, any shape."""
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def _complex_mul(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _complex_horner(coefficients: Sequence[float], z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    total = (torch.full_like(z[0], coefficients[-1]), torch.zeros_like(z[1]))
    for c in reversed(coefficients[:-1]):
        re, im = _complex_mul(total, z)
        total = (re + c, im)
    return total


def _split_small(re: Tensor, im: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Where z is small, z for the series (0 elsewhere) and z for the closed form (1 where small): no branch sees a
    value it is not meant for, so neither can put a NaN into the gradient of the other."""
    small = re * re + im * im < _SERIES_BELOW
    series = (torch.where(small, re, 0.0), torch.where(small, im, 0.0))
    closed = (torch.where(small, 1.0, re), torch.where(small, 0.0, im))
    return small, series, closed


def _expm1(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """``e^z - 1`` without cancellation: real part expm1(re) cos(im) - 2 sin(im / 2)^2."""
    half = torch.sin(0.5 * im)
    return torch.expm1(re) * torch.cos(im) - 2.0 * half * half, torch.exp(re) * torch.sin(im)


def mean_exponential(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """``(e^z - 1) / z = int_0^1 e^(tau z) dtau`` for z = re + i im; entire, value 1 at 0."""
    small, series, (c_re, c_im) = _split_small(re, im)
    s_re, s_im = _complex_horner([1 / math.factorial(n + 1) for n in range(14)], series)
    e_re, e_im = _expm1(c_re, c_im)
    scale = 1.0 / (c_re * c_re + c_im * c_im)
    q_re, q_im = _complex_mul((e_re, e_im), (c_re * scale, -c_im * scale))
    return torch.where(small, s_re, q_re), torch.where(small, s_im, q_im)


def inverse_mean_exponential(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """``z / (e^z - 1)`` for z = re + i im, |im| < 2 pi; value 1 at 0 (Bernoulli series there)."""
    small, series, (c_re, c_im) = _split_small(re, im)
    b_re, b_im = _complex_horner(_BERNOULLI, _complex_mul(series, series))
    b_re, b_im = _complex_mul((b_re, b_im), _complex_mul(series, series))
    s_re, s_im = 1.0 - 0.5 * series[0] + b_re, -0.5 * series[1] + b_im
    e_re, e_im = _expm1(c_re, c_im)
    scale = 1.0 / (e_re * e_re + e_im * e_im)
    q_re, q_im = _complex_mul((c_re, c_im), (e_re * scale, -e_im * scale))
    return torch.where(small, s_re, q_re), torch.where(small, s_im, q_im)


def rotation_factors(theta2: Tensor) -> tuple[Tensor, Tensor]:
    """``(1 - cos t) / t^2`` and ``(t - sin t) / t^3`` for theta2 = t^2; 1/2 and 1/6 at 0."""
    small = theta2 < 0.5
    x = torch.where(small, theta2, 0.0)
    a_series = horner([(-1) ** n / math.factorial(2 * n + 2) for n in range(9)], x)
    b_series = horner([(-1) ** n / math.factorial(2 * n + 3) for n in range(9)], x)
    square = torch.where(small, 1.0, theta2)
    t = torch.sqrt(square)
    half = torch.sin(0.5 * t)
    return (
        torch.where(small, a_series, 2.0 * half * half / square),
        torch.where(small, b_series, (t - torch.sin(t)) / (square * t)),
    )


def inverse_rotation_factor(theta2: Tensor) -> Tensor:
    """``(1 - (t/2) cot(t/2)) / t^2`` for theta2 = t^2, t < 2 pi; 1/12 at 0."""
    small = theta2 < _SERIES_BELOW
    series = horner([abs(b) for b in _BERNOULLI], torch.where(small, theta2, 0.0))
    square = torch.where(small, 1.0, theta2)
    half = 0.5 * torch.sqrt(square)
    return torch.where(small, series, (1.0 - half * torch.cos(half) / torch.sin(half)) / square)


def half_angle_factors(theta2: Tensor) -> tuple[Tensor, Tensor]:
    """``cos(t/2)`` and ``sin(t/2) / t`` for theta2 = t^2; 1 and 1/2 at 0."""
    small = theta2 < _SERIES_BELOW
    x = torch.where(small, 0.25 * theta2, 0.0)
    cos_series = horner([(-1) ** n / math.factorial(2 * n) for n in range(8)], x)
    sin_series = horner([0.5 * (-1) ** n / math.factorial(2 * n + 1) for n in range(8)], x)
    t = torch.sqrt(torch.where(small, 1.0, theta2))
    return torch.where(small, cos_series, torch.cos(0.5 * t)), torch.where(small, sin_series, torch.sin(0.5 * t) / t)
