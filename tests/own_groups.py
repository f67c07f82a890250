"""Groups a user might write, for tests of the subclassing contract."""

import torch

from pgconv.groups import Group, LinearGroup


class Heisenberg(Group):
    """Upper triangular 3x3 matrices with unit diagonal, acting on the plane z = 1 of R^3 by affine maps of (x, y)."""

    name, element_dim, coord_dim, spatial_dim = "Heisenberg", 3, 3, 2

    def identity(self, dtype=None, device=None):
        return torch.zeros(3, dtype=dtype, device=device)

    def product(self, a, b):
        (p, q, r), (x, y, z) = a.unbind(-1), b.unbind(-1)
        return torch.stack([p + x, q + y, r + z + p * y], -1)

    def inverse(self, a):
        p, q, r = a.unbind(-1)
        return torch.stack([-p, -q, p * q - r], -1)

    def act(self, g, x):
        (p, q, r), (x, y) = g.unbind(-1), x.unbind(-1)
        return torch.stack([x + p * y + r, y + q], -1)

    def coordinates(self, g, chart="product", part="all"):
        self.check_chart(chart, part)
        return g if part != "translation" else g[..., :0]

    def sample(self, n, generator=None, dtype=None, device=None):
        return torch.randn(n, 3, generator=generator, dtype=torch.float64).to(dtype or torch.get_default_dtype())


class Shear(LinearGroup):
    """(x, y) -> (x + s y, y): a linear group a user may hand to `SemidirectProduct`."""

    name, element_dim, coord_dim, spatial_dim, uniform_dim = "shear", 1, 1, 2, 1

    def identity(self, dtype=None, device=None):
        return torch.zeros(1, dtype=dtype, device=device)

    def product(self, a, b):
        return a + b

    def inverse(self, a):
        return -a

    def act(self, g, x):
        return torch.stack([x[..., 0] + g[..., 0] * x[..., 1], x[..., 1] + 0 * g[..., 0]], -1)

    def coordinates(self, g, chart="product", part="all"):
        self.check_chart(chart, part)
        return g if part != "translation" else g[..., :0]

    def log_norm(self, h):
        return h.abs().sum(-1)

    def from_uniform(self, u):
        return 2 * u - 1
