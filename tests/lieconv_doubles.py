"""A stand-in for LieConv's layer, from its formulas, in plain PyTorch. Nothing of pgconv is used here."""

import math

import torch
from release_doubles import Swish
from torch import nn


class Pass(nn.Module):
    """The module on the values of (offsets, values, mask)."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, triple):
        offsets, values, mask = triple
        return offsets, self.module(values), mask


class MaskBatchNorm(nn.Module):
    """Statistics over valid pairs."""

    def __init__(self, width):
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        for tensor in (self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, triple):
        offsets, values, mask = triple
        out = values.clone()
        out[mask] = self.bn(values[mask])
        return offsets, out, mask


class Translations:
    def distance(self, pairs):
        return pairs.norm(dim=-1)


class PointConv(nn.Module):
    """The sum over neighbours, their kernel stored for every pair."""

    divides_bias = True

    def __init__(self, chin, chout, d, mean=False, bn=False, activation=Swish):
        super().__init__()
        self.chin, self.cmco_ci, self.xyz_dim, self.mean = chin, 16, d, mean
        modules = []
        for inner, outer in ((d, 32), (32, 32), (32, 16)):
            norm = MaskBatchNorm(outer) if bn else nn.Sequential()
            modules += [Pass(nn.Linear(inner, outer)), norm, Pass(activation())]
        self.weightnet = nn.Sequential(*modules)
        self.linear = nn.Linear(16 * chin, chout)

    def contract(self, offsets, values, mask):
        phi = self.weightnet((None, offsets, mask))[1]
        phi, values = (torch.where(mask[..., None], x, torch.zeros_like(x)) for x in (phi, values))
        moments = torch.einsum("bikc,bikh->bich", values, phi).flatten(2)
        count = mask.sum(-1, keepdim=True).clamp(min=1)
        if not self.mean:
            return self.linear(moments)
        if self.divides_bias:
            return self.linear(moments) / count
        return (self.linear(moments) - self.linear.bias) / count + self.linear.bias


class LieConv(PointConv):
    def __init__(self, chin, chout, d=2, mc_samples=5, knn=False, ds_frac=1.0, fill=1 / 3, **options):
        super().__init__(chin, chout, d, **options)
        self.group, self.mc_samples, self.knn, self.ds_frac = Translations(), mc_samples, knn, ds_frac
        self.fill_frac, self.coeff = fill, 0.5
        self.register_buffer("r", torch.tensor(1.5))

    def neighbours(self, pairs, values, mask, rows):
        near = pairs[:, rows]
        distance = self.group.distance(near).masked_fill(~mask[:, None], math.inf)
        if self.knn:
            index = distance.topk(self.mc_samples, dim=-1, largest=False).indices
            there = mask[:, None].expand(-1, len(rows), -1)
        else:
            there = distance < self.r
            index = (torch.rand(distance.shape) + there).topk(self.mc_samples, dim=-1).indices
            if self.training:
                self.r += self.coeff * (self.fill_frac - there.float().mean())
        batch = torch.arange(len(values))[:, None, None]
        return (
            near.gather(2, index[..., None].expand(-1, -1, -1, near.shape[-1])),
            values[batch, index],
            there.gather(2, index),
        )

    def forward(self, inputs):
        pairs, values, mask = inputs
        rows = torch.arange(math.ceil(pairs.shape[1] * self.ds_frac))
        out = self.contract(*self.neighbours(pairs, values, mask, rows))
        kept = mask[:, rows]
        out = torch.where(kept[..., None], out, torch.zeros_like(out))
        return pairs[:, rows][:, :, rows], out, kept


class OneFunction(LieConv):
    """The same without a method for the sum."""

    def forward(self, inputs):
        pairs, values, mask = inputs
        rows = torch.arange(pairs.shape[1])
        offsets, values, there = self.neighbours(pairs, values, mask, rows)
        return pairs, PointConv.contract(self, offsets, values, there), mask
