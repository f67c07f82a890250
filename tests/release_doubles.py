"""Stand-ins for layers of other packages, from their formulas: the same names, shapes and calls, in plain PyTorch.

Kernels are stored whole and every sum is written out. Nothing of pgconv is used here.
"""

import enum
import math

import torch
import torch.nn.functional as F
from torch import nn

TURN = 2 * math.pi


class Method(enum.Enum):
    RANDOM = 1
    DETERMINISTIC = 2


class SE2(nn.Module):
    """Clockwise angles ``[S, N]``."""

    dimension, dimension_Rd, dimension_stabilizer = 3, 2, 1
    mirrored = False

    def __init__(self):
        super().__init__()
        self.register_buffer("gumbel_iter_counter", torch.zeros(1))
        self.steps = 100

    def parts(self, h):
        return h, torch.ones_like(h)

    def join(self, angle, mirror):
        return angle

    def offsets(self, u, taps):
        """``R(u)^-1 d`` for every u: ``[S, N], [T, 2] -> [S, N, T, 2]``, (row, col)."""
        angle, mirror = (x[..., None] for x in self.parts(u))
        back = torch.remainder(-mirror * angle, TURN)
        row, col = taps[:, 0], taps[:, 1]
        return torch.stack([back.cos() * row + back.sin() * col, mirror * (back.cos() * col - back.sin() * row)], -1)

    def relative(self, u, v):
        """Coordinates of ``u^-1 v`` for all pairs, ``[S, Nu, Nv, 1 or 2]``."""
        (a_u, m_u), (a_v, m_v) = self.parts(u), self.parts(v)
        angle = a_v[:, None] + m_v[:, None] * (-m_u * a_u)[:, :, None]
        angle = torch.remainder(angle, TURN) / math.pi - 1
        mirror = m_u[:, :, None] * m_v[:, None]
        return torch.stack([angle, mirror], -1) if self.mirrored else angle[..., None]

    def gates(self, logits):
        """Straight-through Bernoulli draws at this step's temperature."""
        if self.training:
            self.gumbel_iter_counter += 1
        tau = 0.5 - float(self.gumbel_iter_counter) / self.steps * (0.5 - 1e-4)
        noise = torch.rand(logits.shape, dtype=torch.float64)
        y = torch.sigmoid((logits.double() + noise.log() - (1 - noise).log()) / tau)
        z = (y > 0.5).double()
        return z + (y - y.detach())

    def whole(self, sets, n, method):
        """The whole group: a grid, turned by a random angle for each set."""
        turns = n // 2 if self.mirrored else n
        random = torch.rand(sets, 1, dtype=torch.float64) if method == Method.RANDOM else torch.zeros(1, 1).double()
        return self.cosets(TURN * (torch.arange(turns) + random) / turns)

    def cosets(self, angle, mirror=-1.0):
        return angle

    def part(self, sets, n, method, probs):
        """The learned part of the group."""
        probs = probs.double()
        if method == Method.RANDOM:
            return self.arc(sets, n, n, probs)
        return self.kept(probs, n, torch.sigmoid(2 * probs))

    def arc(self, sets, n, jitter, theta):
        value = float(theta[0].detach())
        count = max(1, min(n, math.ceil(n * abs(value))))
        eps = torch.rand(sets, 1, dtype=torch.float64)
        shift = TURN * theta[0] * eps / (count if jitter == n else jitter)
        return torch.remainder(-math.pi * theta[0] + TURN * value * torch.arange(count) / count + shift, TURN)

    def kept(self, alphas, n, logits):
        z = torch.cat([torch.ones(1).double(), self.gates(logits)])
        angle = TURN * torch.arange(n) / n * z
        return angle[z.detach() > 0.5][None]


class E2(SE2):
    """(Angle, mirror) ``[S, N, 2]``: all rotations, then the same ones mirrored."""

    dimension, dimension_stabilizer = 4, 2
    mirrored = True

    def parts(self, h):
        return h[..., 0], h[..., 1]

    def join(self, angle, mirror):
        return torch.stack([angle, mirror], -1)

    def cosets(self, angle, mirror=-1.0):
        plus = torch.stack([angle, torch.ones_like(angle)], -1)
        if float(torch.as_tensor(mirror).detach()) == 0:
            return plus
        return torch.cat([plus, torch.stack([angle, mirror * torch.ones_like(angle)], -1)], 1)

    def part(self, sets, n, method, probs):
        probs = probs.double()
        if method == Method.RANDOM:
            angle = self.arc(sets, n // 2, n, probs[:1])
        else:
            angle = self.kept(probs[:-1], n // 2, 2 * probs[:-1])
        return self.cosets(angle, -self.gates(2 * probs[-1:])[0])


class Linear(nn.Module):
    """At every position, weight (out, in, 1, ..)."""

    def __init__(self, inner, outer, dim, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(outer, inner, *[1] * dim) / math.sqrt(max(inner, 1)))
        self.bias = nn.Parameter(torch.randn(outer) / 4)

    def forward(self, x):
        y = self.weight.flatten(1) @ x.flatten(2) + self.bias[:, None]
        return y.unflatten(-1, x.shape[2:])


class SineLinear(Linear):
    def __init__(self, inner, outer, dim, omega_0):
        super().__init__(inner, outer, dim, 0.3)
        self.register_buffer("omega_0", torch.tensor([omega_0]))

    def forward(self, x):
        return self.omega_0 * super().forward(x)


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class SIREN(nn.Module):
    def __init__(self, d, hidden, out, dim, omegas=(3.0, 5.0)):
        super().__init__()
        first, second = SineLinear(d, hidden, dim, omegas[0]), SineLinear(hidden, hidden, dim, omegas[1])
        self.kernel_net = nn.Sequential(first, Sine(), second, Sine(), Linear(hidden, out, dim))

    def forward(self, x):
        return self.kernel_net(x)


class MLP(nn.Module):
    def __init__(self, d, hidden, out, dim, activation=Swish):
        super().__init__()

        def norm():
            norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dim - 1](hidden)
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            return norm

        first, second = Linear(d, hidden, dim), Linear(hidden, hidden, dim)
        self.kernel_net = nn.Sequential(
            first, norm(), activation(), second, norm(), activation(), Linear(hidden, out, dim)
        )

    def forward(self, x):
        return self.kernel_net(x)


class Filter(nn.Module):
    def __init__(self, d, hidden, dim, gammas):
        super().__init__()
        self.linear = Linear(d, hidden, dim, 2.0)
        if gammas:
            self.mu = nn.Parameter(torch.rand(hidden, d))
            self.gamma = nn.Parameter(torch.rand(hidden, gammas) + 0.5)

    def forward(self, x):
        wave = torch.sin(self.linear(x))
        if not hasattr(self, "mu"):
            return wave
        away = self.gamma[..., None] * (x.flatten(2)[:, None] - self.mu[..., None])
        return wave * torch.exp(-0.5 * away.square().sum(2)).unflatten(-1, x.shape[2:])


class Multiplicative(nn.Module):
    def __init__(self, d, hidden, out, dim, gammas=None):
        super().__init__()
        self.filters = nn.ModuleList(Filter(d, hidden, dim, gammas and gammas(d)) for _ in range(4))
        self.linear = nn.ModuleList(Linear(hidden, hidden, dim) for _ in range(3))
        self.output_linear = Linear(hidden, out, dim)

    def forward(self, x):
        z = self.filters[0](x)
        for filter_, linear in zip(self.filters[1:], self.linear):
            z = filter_(x) * linear(z)
        return self.output_linear(z)


NETS = {
    "siren": SIREN,
    "mlp": MLP,
    "mlp-relu": lambda *sizes: MLP(*sizes, activation=nn.ReLU),
    "mlp-leaky": lambda *sizes: MLP(*sizes, activation=lambda: nn.LeakyReLU(0.2)),
    "fourier": Multiplicative,
    "gabor": lambda *sizes: Multiplicative(*sizes, gammas=lambda d: 1),
    "magnet": lambda *sizes: Multiplicative(*sizes, gammas=lambda d: d),
}


class _Conv(nn.Module):
    def __init__(
        self, group, net, in_channels, out_channels, kernel_size="5", padding="same", no_samples=4, partial=False,
        method=Method.RANDOM, per_layer=True, per_batch_element=False, bias=True, hidden=6,
    ):  # fmt: skip
        super().__init__()
        self.group = group
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding = kernel_size, padding
        self.partial_equiv, self.group_no_samples, self.group_sampling_method = partial, no_samples, method
        self.group_sample_per_batch_element, self.group_sample_per_layer = per_batch_element, per_layer
        self.dim_input_space = 2
        self.kernelnet = NETS[net](self.coords(), hidden, in_channels * out_channels, self.dim_linear)
        self.bias = nn.Parameter(torch.randn(1, out_channels)) if bias else None

    def coords(self):
        return 2

    def sets(self, x):
        return x.shape[0] if self.group_sample_per_batch_element else 1

    def side(self, x):
        if self.kernel_size == "same":
            return x.shape[-1]
        return 2 * x.shape[-1] - 1 if self.kernel_size == "full" else int(self.kernel_size)

    def taps(self, side):
        place = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        d = torch.cartesian_prod(place, place).reshape(-1, 2)
        inside = d.square().sum(-1) <= ((side - 1) / 2) ** 2 + 1e-9
        return d / max((side - 1) / 2, 1), inside.reshape(side, side)

    def convolve(self, x, kernel):
        """``x [B, C, Nv, H, W]`` with ``kernel [S, Nu, O, C, Nv, k, k]``, one set after the other."""
        self.kernel = kernel
        side, out = kernel.shape[-1], []
        padding = side // 2 if self.padding == "same" else 0
        for example in range(x.shape[0]):
            own = kernel[example if kernel.shape[0] > 1 else 0]
            y = F.conv2d(x[example : example + 1].flatten(1, 2), own.flatten(0, 1).flatten(1, 2), padding=padding)
            out.append(y.unflatten(1, own.shape[:2]).transpose(1, 2))
        y = torch.cat(out)
        return y if self.bias is None else y + self.bias[..., None, None, None]


class LiftingConv(_Conv):
    dim_linear = 2

    def forward(self, x):
        u = self.group.whole(self.sets(x), self.group_no_samples, self.group_sampling_method)
        taps, inside = self.taps(self.side(x))
        z = self.group.offsets(u, taps).flatten(0, 1).mT.unflatten(-1, inside.shape).to(x.dtype)
        kernel = self.kernelnet(z) * inside
        kernel = kernel.reshape(*u.shape[:2], self.out_channels, self.in_channels, *inside.shape).unsqueeze(4)
        return self.convolve(x.unsqueeze(2), kernel), u


class GroupConv(_Conv):
    dim_linear = 3

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        n, mirrored = self.group_no_samples, self.group.mirrored
        if self.group_sampling_method == Method.RANDOM:
            count = 2 if mirrored else 1
        else:
            count = n // 2 if mirrored else n - 1
        probs = torch.ones(count)
        if self.partial_equiv:
            self.probs = nn.Parameter(probs)
        else:
            self.register_buffer("probs", probs)

    def coords(self):
        return self.group.dimension

    def draw(self, x, v):
        n, method = self.group_no_samples, self.group_sampling_method
        if self.partial_equiv:
            return self.group.part(self.sets(x), n, method, self.probs)
        return self.group.whole(self.sets(x), n, method) if self.group_sample_per_layer else v

    def forward(self, pair):
        x, v = pair
        u = self.draw(x, v)
        taps, inside = self.taps(self.side(x))
        place, turn = self.group.offsets(u, taps), self.group.relative(u, v)
        sets, nu, nv = turn.shape[:3]
        place = place[:, :, None].expand(sets, nu, nv, -1, 2)
        turn = turn[:, :, :, None].expand(-1, -1, -1, place.shape[3], -1)
        z = torch.cat([place, turn], -1).flatten(0, 1).permute(0, 3, 1, 2).unflatten(-1, inside.shape).to(x.dtype)
        kernel = self.kernelnet(z) * inside
        kernel = kernel.reshape(sets, nu, self.out_channels, self.in_channels, nv, *inside.shape)
        return self.convolve(x, kernel), u


class PointwiseGroupConv(_Conv):
    dim_linear = 1

    def coords(self):
        return self.group.dimension_stabilizer

    def forward(self, x, in_elems, out_elems):
        turn = self.group.relative(out_elems, in_elems)
        kernel = self.kernelnet(turn.flatten(0, 1).mT.to(x.dtype))
        kernel = kernel.reshape(*turn.shape[:2], self.out_channels, self.in_channels, turn.shape[2], 1, 1)
        return self.convolve(x, kernel), out_elems


class ResNet(nn.Module):
    """A lifting, a block with a shortcut, and the mean."""

    def __init__(self, group=SE2, net="siren", width=4, **options):
        super().__init__()
        self.lift = LiftingConv(group(), net, 1, width, **{**options, "partial": False})
        self.norm = nn.BatchNorm3d(width)
        self.conv = GroupConv(group(), net, width, width, **options)
        self.shortcut = PointwiseGroupConv(group(), net, width, width, bias=False, **options)
        self.classify = nn.Linear(width, 3)

    def forward(self, x):
        y, v = self.lift(x)
        y = torch.relu(self.norm(y))
        z, u = self.conv((y, v))
        z = z + self.shortcut(y, v, u)[0]
        return self.classify(z.mean((2, 3, 4)))
