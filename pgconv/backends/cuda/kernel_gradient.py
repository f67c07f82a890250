"""Gradients of features and head of the image convolution from that of the kernel they make, ``K[o,u,c,v,t] = sum_h W[o,c,h]
phi[u,v,t,h]``: one product over the pixels (csrc/cuda/conv_kernel_gradient.cuh), and two small ones behind it in float32."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pgconv.backends.cuda.layout import OCTET, feature_octets, whole_octets

MARGIN = 1.2
"""By which its products have to be fewer, since more is brought into shared memory for them."""
TERMS = 1 << 15
"""Pixels in a part, at most (csrc/cuda/conv_walk.cuh)."""


def flops(nu: int, nv: int, taps: int, inputs: int, outputs: int) -> float:
    """Of a pixel of an image, padded as the kernel pads."""
    return 2.0 * whole_octets(nu) * OCTET * inputs * _values(nv, taps, outputs)


def wanted(n: Mapping[str, int], gradients: int) -> bool:
    """Whether so many gradients, of features or head or both, are better taken through that of their kernel, for a call of these
    sizes."""
    return (
        gradients > 0
        and n["S"] == 1
        and pays(n["Nv"], n["T"], n["Hb"], n["O"], gradients)
        and fits(n["Nu"], n["Nv"], n["T"], n["C"], n["O"], n["B"] * n["Ho"] * n["Wo"])
    )


def pays(nv: int, taps: int, hidden: int, outputs: int, gradients: int) -> bool:
    """Whether the kernel's gradient takes less than those of features and head that are wanted, one or both, by their own kernels:
    these form the moments, or the outputs' gradients of every feature, and multiply them with the other. Not measured."""
    chain = feature_octets(hidden) * OCTET * (taps * whole_octets(nv) * OCTET + outputs)
    return MARGIN * _values(nv, taps, outputs) <= gradients * chain


def fits(nu: int, nv: int, taps: int, inputs: int, outputs: int, pixels: int) -> bool:
    """Whether the kernel's gradient, in the parts that it is summed in and as often as it is stored, is no larger than signal and
    result, with so many pixels in all images."""
    values = whole_octets(nu) * OCTET * inputs * whole_octets(nv) * OCTET * taps * outputs
    copies = 3 + -(-pixels // TERMS)
    return 2 * copies * values <= pixels * (inputs * nv + outputs * nu)


def of_factors(kernel: Tensor, phi: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> list[Tensor | None]:
    """Gradients of phi ``[1,Nu,Nv,T,H]`` and weight ``[O,C,H]`` (None where not needed) from the kernel's ``[octets of u, O, C, T *
    octets of v, 8, 8]``."""
    _, nu, nv, taps, hidden = phi.shape
    outputs, inputs, _ = weight.shape
    values = kernel.view(kernel.shape[0], outputs * inputs, taps, whole_octets(nv), OCTET, OCTET).permute(
        1, 0, 4, 3, 5, 2
    )
    values = values.reshape(outputs * inputs, whole_octets(nu) * OCTET, whole_octets(nv) * OCTET, taps)
    values = values[:, :nu, :nv].reshape(outputs * inputs, nu * nv * taps)
    of_phi = of_weight = None
    if needs[0]:
        of_phi = (values.t() @ weight.to(values.dtype).reshape(outputs * inputs, hidden)).view(phi.shape).to(phi.dtype)
    if needs[1]:
        of_weight = (values @ phi.to(values.dtype).reshape(nu * nv * taps, hidden)).view(weight.shape).to(weight.dtype)
    return [of_phi, of_weight]


def _values(nv: int, taps: int, outputs: int) -> int:
    return whole_octets(outputs) * OCTET * taps * whole_octets(nv) * OCTET
