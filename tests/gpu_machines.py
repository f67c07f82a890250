"""The machines that GPU kernels are tested on: the emulator, everywhere, and a GPU where there is one."""

import numpy as np
import torch

from pgconv import backends
from pgconv.backends import native_features


class Emulated:
    """Raw native functions by the emulator. ``seed`` decides the schedule of its threads; gradients of image convolutions take
    ``parts`` parts, so few that blocks have several tiles to walk over, or as many as on a GPU (0)."""

    def __init__(self, module, seed=0, capability=80, parts=3):
        self.module, self.seed, self.capability, self.parts = module, seed, capability, parts

    def _but(self, **changes):
        own = {"seed": self.seed, "capability": self.capability, "parts": self.parts}
        return Emulated(self.module, **(own | changes))

    def with_seed(self, seed):
        return self._but(seed=seed)

    def with_capability(self, capability):
        return self._but(capability=capability)

    def with_parts(self, parts):
        return self._but(parts=parts)

    def _call(self, name, *args):
        arrays = [np.ascontiguousarray(x.numpy()) if isinstance(x, torch.Tensor) else x for x in args]
        found = getattr(self.module, name)(self.seed, *arrays)
        return tuple(map(torch.from_numpy, found)) if isinstance(found, tuple) else torch.from_numpy(found)

    def relative_features(self, v, u, params, spec):
        return self._call("relative_features", v, u, params, *self._text(spec))

    def relative_features_backward(self, grad, v, u, params, spec):
        return self._call("relative_features_backward", grad, v, u, params, *self._text(spec))

    def kernel_net(self, coords, params, net):
        found = self._call("kernel_net", coords.reshape(coords.shape[:-1].numel(), coords.shape[-1]), params, net)
        return found.reshape(*coords.shape[:-1], found.shape[1])

    def kernel_net_backward(self, grad, coords, params, net):
        count = coords.shape[:-1].numel()
        flat = grad.reshape(count, grad.shape[-1]), coords.reshape(count, coords.shape[-1])
        grad_coords, grad_params = self._call("kernel_net_backward", *flat, params, net)
        return grad_coords.reshape(coords.shape), grad_params

    def point_moments(self, f, v, u, params, spec):
        bits = f.contiguous().view(torch.int16).numpy().view(np.uint16)
        call = bits, f.dtype == torch.float16, v, u, params
        return self._call("point_moments", *call, *self._text(spec))

    def point_list_moments(self, f, v, u, params, lists, spec):
        bits = f.contiguous().view(torch.int16).numpy().view(np.uint16)
        call = bits, f.dtype == torch.float16, v, u, params, *lists
        return self._call("point_list_moments", *call, *self._text(spec))

    def point_gradient(self, grad, f, factor, v, u, params, spec):
        bits = [x.contiguous().view(torch.int16).numpy().view(np.uint16) for x in (grad, f)]
        call = *bits, f.dtype == torch.float16, factor, v, u, params
        return self._call("point_gradient", *call, *self._text(spec), self.capability, self.parts)

    def _conv(self, name, *tensors, taps, geometry, sizes=(), before=(), more=()):
        bits = [x.contiguous().view(torch.int16).numpy().view(np.uint16) for x in tensors]
        half = tensors[0].dtype == torch.float16
        return getattr(self.module, name)(
            self.seed, *bits, half, *sizes, list(taps), list(geometry), *before, self.capability, *more
        )

    def conv_chain(self, out, f, phi, weight, taps, geometry, samples_last, factor):
        assert out.is_contiguous()
        more = samples_last, None if factor is None else factor.reshape(1).numpy()
        found = self._conv("conv_chain", f, phi, weight, taps=taps, geometry=geometry, before=more)
        out[:] = torch.from_numpy(found.view(np.int16)).view(f.dtype) if factor is None else torch.from_numpy(found)

    def group_last(self, f, factor):
        if factor is not None:
            found = self.module.scaled_group_last(self.seed, f.numpy(), factor.item())
            return torch.from_numpy(found.view(np.int16)).view(torch.float16)
        found = self.module.group_last(self.seed, f.contiguous().view(torch.int16).numpy().view(np.uint16))
        return torch.from_numpy(found.view(np.int16)).view(f.dtype)

    def conv_head_gradient(self, grad, f, phi, taps, geometry):
        call = {"taps": taps, "geometry": geometry, "more": (self.parts,)}
        return torch.from_numpy(self._conv("conv_head_gradient", grad, f, phi, **call))

    def conv_feature_gradient(self, grad, f, weight, sets, samples, taps, geometry):
        call = {"taps": taps, "geometry": geometry, "sizes": (sets, samples), "more": (self.parts,)}
        return torch.from_numpy(self._conv("conv_feature_gradient", grad, f, weight, **call))

    def conv_kernel_gradient(self, grad, f, taps, geometry):
        call = {"taps": taps, "geometry": geometry, "more": (self.parts,)}
        return torch.from_numpy(self._conv("conv_kernel_gradient", grad, f, **call))

    def why_not_chain(self, *sizes):
        return self._why_not("why_not_chain", *sizes)

    def why_not_head_gradient(self, *sizes):
        return self._why_not("why_not_head_gradient", *sizes)

    def why_not_feature_gradient(self, *sizes):
        return self._why_not("why_not_feature_gradient", *sizes)

    def why_not_kernel_gradient(self, *sizes):
        return self._why_not("why_not_kernel_gradient", *sizes)

    def _why_not(self, name, *sizes):
        return getattr(self.module, name)(*(list(x) if isinstance(x, tuple) else x for x in sizes))

    def why_not_moments(self, net):
        return self.module.why_not_moments(net)

    def why_not_gradient(self, group, net, columns, exact):
        return self.module.why_not_gradient(group, net, columns, exact, self.capability)

    @staticmethod
    def _text(spec):
        return spec.group, spec.chart, spec.part, spec.form == "correlation", spec.net


class Device:
    """The same on a GPU, whose schedules are its own affair."""

    def with_seed(self, seed):
        return self

    def with_parts(self, parts):
        return self

    def _point(self, name, *args):
        *tensors, spec = args
        text = spec.group, spec.chart, spec.part, spec.form, spec.net
        here = (None if x is None else x.contiguous().cuda() for x in tensors)
        return getattr(torch.ops.pgconv_C, name)(*here, *text)

    def point_moments(self, *args):
        return self._point("point_moments", *args).cpu()

    def point_list_moments(self, f, v, u, params, lists, spec):
        return self._point("point_list_moments", f, v, u, params, *lists, spec).cpu()

    def point_gradient(self, *args):
        return tuple(x.cpu() for x in self._point("point_gradient", *args))

    def why_not_moments(self, net):
        return torch.ops.pgconv_C.cuda_why_not_moments(net)

    def why_not_gradient(self, group, net, columns, exact):
        capability = torch.ops.pgconv_C.cuda_capability(torch.cuda.current_device())
        return torch.ops.pgconv_C.cuda_why_not_gradient(group, net, columns, exact, capability)

    def __getattr__(self, name):
        function = getattr(native_features, name)

        def call(*args):
            found = function(*(x.cuda() if isinstance(x, torch.Tensor) else x for x in args))
            return tuple(x.cpu() for x in found) if isinstance(found, tuple) else found.cpu()

        return call


def machines():
    """All there are, by name."""
    found = {}
    try:
        from pgconv._lib import _emulated

        found["emulated"] = Emulated(_emulated)
    except ImportError:
        pass
    if torch.cuda.is_available() and "cuda" in backends.available("cuda"):
        found["gpu"] = Device()
    return found
