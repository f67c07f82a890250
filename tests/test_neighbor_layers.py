"""The point layer with a neighbourhood, with subsampling, and on ragged batches."""

from __future__ import annotations

import copy

import pytest
import torch
from own_groups import Heisenberg
from test_errors import assert_refused

import pgconv
from pgconv import groups
from pgconv.groups.base import FixedSequence
from pgconv.neighbors import Ball, Nearest, Within, farthest_points, nearest
from pgconv.nn import PointGroupConv, PointLift
from pgconv.sampling import Samples


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def signal(n=12, batch=2, group="SE(2)", channels=3):
    group = groups.get(group)
    elements = group.sample(batch * n, generator=generator(), dtype=torch.float64).view(batch, n, -1)
    weights = 0.5 + torch.rand(batch, n, generator=generator(1)).double()
    return torch.randn(batch, n, channels, generator=generator(2)).double(), Samples(elements, weights)


def layer(*arguments, **options):
    torch.manual_seed(0)
    return PointGroupConv(3, 4, *arguments, hidden=8, dtype=torch.float64, **options)


def by_dense_mask(conv, f, samples, out, index):
    """Every output as a convolution of its own that sees only its neighbours."""
    columns = []
    for i in range(out.elements.shape[1]):
        near = torch.zeros(samples.weights.shape, dtype=torch.bool)
        for b, row in enumerate(index[:, i].tolist()):
            near[b, [j for j in row if j >= 0]] = True
        y = pgconv.functional.point_conv(
            f,
            samples.elements,
            out.elements[:, i : i + 1],
            conv.net,
            conv.weight,
            conv.weight_bias,
            group=conv.group,
            sample_weight=samples.weights,
            mask=near,
        )
        columns.append(y + conv.bias)
    return torch.cat(columns, 1)


@pytest.mark.parametrize("group", ["SE(2)", "SE(3)", "SO(2)/1", Heisenberg()], ids=str)
@pytest.mark.parametrize("near", [Nearest(4, 0.3), Within(1.2, 0.3), Ball(1.5, 3, 0.3)], ids=lambda n: type(n).__name__)
def test_values_and_gradients_are_those_of_the_mask(group, near):
    f, samples = signal(group=group)
    conv = layer(group, neighborhood=near, downsample=0.4).eval()
    results = []
    for dense in (False, True):
        leaves = [t.detach().clone().requires_grad_() for t in (f, *samples)]
        f_, s_ = leaves[0], Samples(*leaves[1:])
        y, out = conv(f_, s_)
        if dense:
            lists = near(s_.elements, out.elements, conv.group, generator=FixedSequence())
            if isinstance(lists, tuple):  # as padded rows
                rows = torch.tensor_split(lists[1], lists[0][1:-1])
                lists = torch.nn.utils.rnn.pad_sequence(rows, True, -1).view(2, out.elements.shape[1], -1)
            y = by_dense_mask(conv, f_, s_, out, lists)
        assert out.elements.shape[1] == 5
        score = (y * torch.randn(y.shape, generator=generator(3)).double()).sum() + out.weights.sum()
        results.append([y.detach(), *torch.autograd.grad(score, [*leaves, *conv.parameters()])])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_explicit_lists_and_outputs_override():
    f, samples = signal()
    conv, plain = layer("SE(2)", neighborhood=Nearest(2), downsample=0.5).eval(), layer("SE(2)")
    index = nearest(samples.elements, samples.elements, "SE(2)", 5)
    y, out = conv(f, samples, out_samples=samples, neighbors=index)
    assert out is not None and torch.equal(out.elements, samples.elements)
    torch.testing.assert_close(y, plain(f, samples, neighbors=index)[0])
    own = layer("SE(2)", neighborhood=lambda v, u, group, mask=None, generator=None: index)
    torch.testing.assert_close(own(f, samples)[0], y)


@pytest.mark.parametrize("near", [None, Nearest(3), Within(2.0), Ball(2.0, 3)], ids=lambda n: type(n).__name__)
def test_elements_of_weight_zero_are_not_there(near):
    f, samples = signal()
    weights = samples.weights.clone()
    weights[0, [0, 3]] = 0.0
    weights[1, 2:] = 0.0  # two left, and six are kept
    conv = layer("SE(2)", neighborhood=near, downsample=0.5).eval()
    y, out = conv(f, Samples(samples.elements, weights))
    junk = torch.where(weights[..., None] > 0, samples.elements, samples.elements + 0.3)
    noise = torch.where(weights[..., None] > 0, f, f + 100.0)
    again, moved = conv(noise, Samples(junk, weights))
    assert (out.weights[0] > 0).all() and (out.weights[1] > 0).tolist() == [True, True] + [False] * 4
    assert torch.equal(out.weights, moved.weights)
    torch.testing.assert_close(again[out.weights > 0], y[out.weights > 0])


def test_downsampling_keeps_a_share_rounded_up():
    for n, share, kept in ((12, 0.5, 6), (12, 0.51, 7), (30, 0.1, 3), (7, 0.01, 1), (1, 0.3, 1), (5, 1.0, 5)):
        f, samples = signal(n)
        y, out = layer("SE(2)", downsample=share)(f, samples)
        assert y.shape == (2, kept, 4) and out.weights.shape == (2, kept)
    f, samples = signal()
    _, out = layer("SE(2)", neighborhood=Nearest(3, 0.1), downsample=0.5).eval()(f, samples)
    index = farthest_points(samples.elements, "SE(2)", 6, stabilizer_weight=0.1)
    assert torch.equal(out.weights, samples.weights.gather(1, index))
    assert torch.equal(out.elements[1], samples.elements[1, index[1]])


def test_training_is_random_and_evaluation_is_not():
    f, samples = signal(40)
    conv = layer("SE(2)", neighborhood=Ball(2.0, 3), downsample=0.2)
    first, again, other = (conv(f, samples, generator=generator(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    default = conv(f, samples)
    torch.manual_seed(5)
    assert torch.equal(conv(f, samples)[0], default[0]) and not torch.equal(conv(f, samples)[0], default[0])
    conv.eval()
    y, out = conv(f, samples)
    assert torch.equal(y, conv(f, samples, generator=generator(7))[0])
    assert torch.equal(out.elements[:, 0], samples.elements[:, 0])
    full = layer("SE(2)", neighborhood=Ball(2.0, 3)).eval()
    state = torch.get_rng_state()
    full(f, samples)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("shared", [True, False])
def test_one_set_of_elements_for_the_batch(shared):
    f, samples = signal()
    one = Samples(samples.elements[:1], samples.weights[:1])
    conv = layer("SE(2)", neighborhood=Within(1.0), downsample=0.5).eval()
    y, out = conv(f, one if shared else Samples(*(t.expand(2, *t.shape[1:]) for t in one)))
    assert out.elements.shape[0] == (1 if shared else 2)
    torch.testing.assert_close(y[1:], conv(f[1:], one)[0])


@pytest.mark.parametrize("near", [None, Nearest(3), Within(1.0), Ball(2.0, 3)], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("shared", ["elements", "weights"])
def test_elements_or_weights_for_the_batch(shared, near):
    f, samples = signal()
    sets = [t[:1] if name == shared else t.clone() for name, t in zip(("elements", "weights"), samples)]
    sets[1][-1, [0, 3]] = 0.0
    conv = layer("SE(2)", neighborhood=near, downsample=0.5).eval()
    results = []
    for expanded in (False, True):
        leaves = [t.clone().requires_grad_() for t in (f, *sets)]
        y, out = conv(leaves[0], Samples(*(t.expand(2, *t.shape[1:]) if expanded else t for t in leaves[1:])))
        score = (y * torch.randn(y.shape, generator=generator(3)).double()).sum() + (
            out.weights * out.elements[..., 0]
        ).sum()
        results.append([y, *out, *torch.autograd.grad(score, leaves)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("down", [False, True])
def test_ragged_batches_are_a_loop_over_examples(down):
    f, samples = signal(batch=1)
    ends = torch.tensor([0, 5, 5, 12])
    conv = layer("SE(2)")
    if down:  # outputs of their own, with offsets of their own
        out, out_ends = Samples(samples.elements[:, ::2], samples.weights[:, ::2]), torch.tensor([0, 3, 3, 6])
        y, _ = conv(f, samples, out_samples=out, offsets=(ends, out_ends))
    else:
        out, out_ends = samples, ends
        y, _ = conv(f, samples, offsets=ends)
    for a, b, c, d in zip(ends, ends[1:], out_ends, out_ends[1:]):
        if a < b:
            part, of = (Samples(s.elements[:, i:j], s.weights[:, i:j]) for s, i, j in ((samples, a, b), (out, c, d)))
            torch.testing.assert_close(conv(f[:, a:b], part, out_samples=of)[0], y[:, c:d])


def test_a_network_is_invariant_when_the_points_move():
    """Lift, neighbourhoods and subsampling: the same neighbours, so the same result up to rounding."""
    torch.manual_seed(0)
    lift = PointLift("SE(2)", 4).eval()
    first = PointGroupConv(3, 8, "SE(2)", neighborhood=Nearest(9, 0.4), downsample=0.5).double().eval()
    second = PointGroupConv(8, 4, "SE(2)", neighborhood=Within(1.5, 0.4)).double().eval()

    def network(x, f, w=None):
        f, samples = lift(x, f)
        if w is not None:
            samples = Samples(lift.group.product(w, samples.elements), samples.weights)
        y, samples = first(f, samples)
        return second(torch.relu(y), samples)[0]

    x, f = (torch.randn(2, 20, n, generator=generator(n)).double() for n in (2, 3))
    for w in lift.group.sample(3, generator=generator(9), dtype=torch.float64):
        assert (network(x, f, w) - network(x, f)).abs().max() < 1e-12


def test_repr_copy_and_diagnostics():
    conv = PointGroupConv(3, 4, "SE(2)", neighborhood=Ball(2.0, 3, 0.5), downsample=0.25).eval()
    text = repr(conv)
    assert "neighborhood=Ball(radius=2.0, count=3, stabilizer_weight=0.5), downsample=0.25" in text
    assert "neighborhood" not in repr(PointGroupConv(3, 4, "SE(2)")) and "downsample" not in repr(layer("SE(2)"))
    f, samples = signal()
    f, samples = f.float(), Samples(*(t.float() for t in samples))
    assert torch.equal(copy.deepcopy(conv)(f, samples)[0], conv(f, samples)[0])
    report = pgconv.self_check(conv, f, samples)
    assert report.ok, str(report)


F, S = signal()
REFUSED = {
    "neighborhood-number": (lambda: layer("SE(2)", neighborhood=3), "neighborhood"),
    "neighborhood-class": (lambda: layer("SE(2)", neighborhood=Nearest), "neighborhood"),
    **{
        f"downsample-{share}": (lambda share=share: layer("SE(2)", downsample=share), "downsample")
        for share in (0, 0.0, -0.5, 1.5, float("nan"), "1", None, True)
    },
    "offsets-neighborhood": (
        lambda: layer("SE(2)", neighborhood=Nearest(2))(
            F[:1], Samples(*(t[:1] for t in S)), offsets=torch.tensor([0, 12])
        ),
        "offsets",
    ),
    "offsets-downsample": (
        lambda: layer("SE(2)", downsample=0.5)(F[:1], Samples(*(t[:1] for t in S)), offsets=torch.tensor([0, 12])),
        "offsets",
    ),
    "offsets-neighbors": (
        lambda: layer("SE(2)")(
            F[:1],
            Samples(*(t[:1] for t in S)),
            offsets=torch.tensor([0, 12]),
            neighbors=torch.zeros(1, 12, 1, dtype=torch.long),
        ),
        "offsets",
    ),
    "generator": (lambda: layer("SE(2)", downsample=0.5)(F, S, generator=3), "generator"),
    "elements-of-another-group": (lambda: layer("SE(3)", neighborhood=Nearest(2))(F, S), "v"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, word = REFUSED[case]
    assert_refused(call, word)


@pytest.mark.parametrize("near", [Nearest(3), Within(1.5), Ball(1.5, 3)], ids=lambda near: type(near).__name__)
def test_layers_with_neighbourhoods_compile_whole_in_evaluation(near):
    """A generator could not be made in compiled code."""
    x, f = torch.randn(2, 9, 2), torch.randn(2, 9, 2)
    conv = PointGroupConv(2, 3, group="SE(2)", neighborhood=near, downsample=0.5).eval()
    lift = pgconv.nn.PointLift("SE(2)", 2).eval()
    network = pgconv.models.LieResNet(2, 3, num_samples=2, width=8, blocks=1, neighborhood=near).eval()
    for module in (lambda x, f: conv(*lift(x, f))[0], lambda x, f: network(x, f)):
        with torch.no_grad():
            want = module(x, f)
            torch.compiler.reset()
            torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="aot_eager")(x, f), want)


def test_a_function_of_the_users_draws_with_a_generator_in_evaluation():
    seen = []

    def near(v, u, group, mask=None, generator=None):
        seen.append(torch.rand(3, generator=generator))
        return Nearest(3)(v, u, group, mask=mask)

    conv = PointGroupConv(2, 3, group="SE(2)", neighborhood=near).eval()
    samples = Samples(pgconv.groups.get("SE(2)").sample(9)[None], torch.ones(1, 9))
    for _ in range(2):
        conv(torch.randn(2, 9, 2), samples)
    assert torch.equal(*seen)
