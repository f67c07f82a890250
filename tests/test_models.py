"""The published networks: parameter counts, shapes, what they are equivariant to, and what training adds."""

import math

import pytest
import torch
from torch import nn

import pgconv
from pgconv.models import GCNN13, Augerino, CKResNet, learned_ranges, monotone_loss, parameter_groups
from pgconv.sampling import LearnedInterval, LearnedProduct, Samples

PLANE = {"group": "SE(2)", "num_samples": 1, "sampling": "identity", "one_grid": True}
TOY = {"width": 10, "factors": (1, 1), "kernel_net": "magnet", "partial": True}


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("published", "make"),
    [
        (48_845, lambda: CKResNet(1, 2, **TOY)),
        (104_422, lambda: CKResNet(1, 2, width=20, factors=(1, 1), kernel_net="fourier", norm="layer")),
        (51_154, lambda: CKResNet(1, 2, group="E(2)", **TOY)),
        (17_063, lambda: CKResNet(1, 2, width=10, factors=(1,), partial=True)),
        (450_074, lambda: CKResNet(1, 10, **PLANE)),
        (467_791, lambda: CKResNet(1, 10, partial=True)),
        (467_988, lambda: CKResNet(1, 10, group="E(2)", partial=True)),
        (452_186, lambda: CKResNet(3, 10, **PLANE)),
        (469_903, lambda: CKResNet(3, 10, partial=True)),
        (475_753, lambda: CKResNet(3, 100, partial=True)),
        (3_992_114, lambda: GCNN13(1, 10, partial=True)),
        (3_994_418, lambda: GCNN13(3, 10, partial=True)),
    ],
)
def test_parameter_counts_are_those_published(published, make):
    assert count(make()) == published


@pytest.mark.parametrize("samples", [4, 16])
def test_counts_do_not_depend_on_samples(samples):
    assert count(CKResNet(1, 2, num_samples=samples, **TOY)) == 48_845


SMALL = {"width": 4, "num_samples": 4, "kernel_size": 3}
NETWORKS = {
    "plane": lambda: CKResNet(2, 5, **{**SMALL, **PLANE}),
    "full": lambda: CKResNet(2, 5, pools=(0, 1), **SMALL),
    "one grid": lambda: CKResNet(2, 5, one_grid=True, factors=(1,), norm="layer", **SMALL),
    "partial": lambda: CKResNet(2, 5, partial=True, dropout=0.2, **SMALL),
    "partial E(2)": lambda: CKResNet(2, 5, group="E(2)", partial=True, **SMALL),
    "partial M(2)": lambda: CKResNet(2, 5, group="M(2)", partial=True, **{**SMALL, "num_samples": 2}),
    "per example": lambda: CKResNet(2, 5, partial=True, samples_per_example=True, **SMALL),
    "by example": lambda: CKResNet(2, 5, partial="input", **SMALL),
    "by example E(2), with samples": lambda: CKResNet(
        2, 5, group="E(2)", partial="input", samples_per_example=True, norm="layer", **SMALL
    ),
    "13 layers, by example": lambda: GCNN13(2, 5, partial="input", **SMALL),
    "learned pooling": lambda: CKResNet(2, 5, final_positions=16, **SMALL),
    "last in the plane": lambda: CKResNet(2, 5, group="E(2)", last_translations=True, **SMALL),
    "release": lambda: CKResNet(2, 5, partial=True, compat="release", **SMALL),
    "13 layers": lambda: GCNN13(2, 5, **SMALL),
    "13 layers, one grid": lambda: GCNN13(2, 5, one_grid=True, norm="layer", **SMALL),
    "13 layers, partial E(2)": lambda: GCNN13(2, 5, group="E(2)", partial=True, **SMALL),
    "Augerino": lambda: Augerino(CKResNet(2, 5, **{**SMALL, **PLANE}), num_samples=3),
    "Augerino E(2)": lambda: Augerino(
        CKResNet(2, 5, **{**SMALL, **PLANE}), "E(2)", num_samples=4, samples_per_example=True
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_and_predictions_repeat(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    x = torch.randn(3, 2, 16, 16).requires_grad_()
    logits, penalties = network(x, with_penalty=True)
    assert logits.shape == (3, 5) and all(penalty.shape == () for penalty in penalties)
    assert (penalties.gates > 0) == ("by example" in name)
    (logits.square().sum() + sum(penalties)).backward()
    assert x.grad.isfinite().all()
    for parameter, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = 0.0
    first, second = (network(x, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    network.eval()
    assert torch.equal(network(x), network(x))


def test_networks_that_share_one_grid_are_invariant_to_its_elements():
    torch.manual_seed(0)
    for network in (CKResNet(1, 3, one_grid=True, **SMALL), GCNN13(1, 3, one_grid=True, **SMALL)):
        error = pgconv.diagnostics.equivariance_error(
            network.double().eval(), torch.randn(2, 1, 16, 16).double(), "SE(2)"
        )
        assert (error < 1e-9).all(), error


def test_a_narrow_range_is_no_invariance():
    torch.manual_seed(0)
    network = CKResNet(1, 3, partial=True, **SMALL).double().eval()
    for sampler in network.modules():
        if isinstance(sampler, LearnedInterval):
            sampler.theta.data.fill_(0.2)
    error = pgconv.diagnostics.equivariance_error(network, torch.randn(2, 1, 16, 16).double(), "SE(2)")
    assert error[0] < 1e-9 and (error[1:] > 1e-3).all()


def test_the_release_of_the_last_convolution_sees_the_mean_over_samples():
    """At the identity of the group, mirror and all."""
    network = CKResNet(1, 3, group="E(2)", last_translations=True, **SMALL).eval()
    seen = []
    network.last.register_forward_hook(lambda module, args, out: seen.extend([args[0], args[1], out[1]]))
    network(torch.randn(2, 1, 16, 16))
    assert seen[0].shape[2] == 1
    for samples in seen[1:]:
        assert samples.elements.tolist() == [[[0, 0, 0, 1]]] and samples.weights.tolist() == [[1]]


def test_arguments_that_contradict_each_other():
    with pytest.raises(ValueError, match="partial=True leaves no fixed positions"):
        CKResNet(1, 3, partial=True, final_positions=4)
    with pytest.raises(ValueError, match="norm must be one of 'batch', 'layer'"):
        GCNN13(1, 3, norm="instance")
    with pytest.raises(ValueError, match="final_positions is 3, but the last map has 16"):
        CKResNet(1, 3, final_positions=3, **SMALL)(torch.randn(1, 1, 16, 16))
    with pytest.raises(ValueError, match=r"network must be a torch\.nn\.Module"):
        Augerino(len)


@pytest.mark.parametrize("kind", ["group", "lifting", "pointwise"])
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_norm_is_that_of_the_kernel(kind, sets, bias):
    """Built here by the definition, sample by sample and tap by tap."""
    torch.manual_seed(0)
    group, size = pgconv.groups.get("E(2)"), 5
    part = {"group": "all", "lifting": "translation", "pointwise": "stabilizer"}[kind]
    net = pgconv.kernel_nets.SIREN(group.coord_dim_of("product", part), hidden=6).double()
    weight, shift = torch.randn(4, 3, 6).double(), torch.randn(4, 3).double() if bias else None
    v, u = (
        torch.cat([torch.zeros(sets, n, 2), torch.rand(sets, n, 1), torch.ones(sets, n, 1)], -1).double()
        for n in (2, 3)
    )
    gates, weights = torch.tensor([[1.0, 0.0, 1.0]]).double(), torch.tensor([[1.0, 0.5]]).double()
    taps = (
        [(0.0, 0.0)]
        if kind == "pointwise"
        else [(i, j) for i in (-2, -1, 0, 1, 2) for j in (-2, -1, 0, 1, 2) if i * i + j * j <= 4]
    )
    total = 0.0
    for s in range(sets):
        for i in range(3):
            for j in range(1 if kind == "lifting" else 2):
                for row, column in taps:
                    at = torch.tensor([column, -row]).double() / 2
                    source = group.identity(dtype=torch.float64) if kind == "lifting" else v[s, j].clone()
                    source[:2] = at
                    one, two = (u[s, i], source) if kind == "lifting" else (source, u[s, i])
                    phi = net.features(group.coordinates(group.relative(one, two), "product", part))
                    value = weight @ phi + (0 if shift is None else shift)
                    total += gates[0, i] * (1 if kind == "lifting" else weights[0, j]) * value.square().sum()
    options = {"group": group, "kernel_size": None if kind == "pointwise" else size, "out_gate": gates}
    options |= {} if kind == "lifting" else {"sample_weight": weights}
    found = pgconv.functional.kernel_norm(None if kind == "lifting" else v, u, net, weight, shift, **options)
    torch.testing.assert_close(found, (total / sets).sqrt())


def test_the_norm_of_a_kernel_that_is_zero_has_a_gradient():
    conv = pgconv.nn.LiftingConv2d(1, 2, kernel_size=3, num_samples=2)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight_bias.zero_()
    norm = conv.kernel_norm(None, conv(torch.ones(1, 1, 4, 4))[1])
    norm.backward()
    assert norm == 0 and not conv.weight.grad.any()


def test_the_penalty_adds_up_every_convolution():
    torch.manual_seed(0)
    network = CKResNet(2, 5, partial=True, **SMALL).eval()
    seen = []
    for module in network.modules():
        if isinstance(module, pgconv.nn.LiftingConv2d):
            module.register_forward_hook(lambda conv, args, out: seen.append((conv, None, out[1])))
        elif isinstance(module, (pgconv.nn.GroupConv2d, pgconv.nn.PointwiseGroupConv2d)):
            module.register_forward_hook(lambda conv, args, out: seen.append((conv, args[1], out[1])))
    _, penalties = network(torch.randn(1, 2, 16, 16), with_penalty=True)
    assert len(seen) == 8
    want = sum(conv.kernel_norm(v, u) + (0 if conv.bias is None else conv.bias.norm()) for conv, v, u in seen)
    torch.testing.assert_close(penalties.weights, want)


def test_monotone_loss_counts_what_grows():
    network = CKResNet(1, 3, partial=True, factors=(1,), **SMALL)
    for theta, conv in zip((0.5, 0.9, 0.7), (network.blocks[0].conv1, network.blocks[0].conv2, network.last)):
        conv.sampler.theta.data.fill_(theta)
    loss = monotone_loss(network)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(0.4))
    assert network.blocks[0].conv1.sampler.theta.grad == -1 and network.last.sampler.theta.grad == 0
    product = CKResNet(1, 3, group="E(2)", partial=True, factors=(1,), **SMALL)
    product.last.sampler.alpha_mirror.data.fill_(3.0)
    torch.testing.assert_close(monotone_loss(product), torch.tensor(2.0))
    assert monotone_loss(CKResNet(1, 3, **SMALL)) == 0


def test_learned_ranges_by_layer():
    network = CKResNet(1, 3, group="E(2)", partial=True, factors=(1,), **SMALL)
    network.last.sampler.theta.data.fill_(0.25)
    network.last.sampler.alpha_mirror.data.fill_(0.0)
    found = learned_ranges(network)
    assert list(found) == ["blocks.0.conv1.sampler", "blocks.0.conv2.sampler", "last.sampler"]
    last = found["last.sampler"]
    assert last["theta"] == [0.25] and last["mirror"] == [0.5]
    assert last["range"] == pytest.approx([-math.pi / 4, math.pi / 4])


def test_parameter_groups_are_complete_and_in_order():
    network = CKResNet(1, 3, partial=True, kernel_net=lambda d: pgconv.kernel_nets.SIREN(d, learn_omega0=True), **SMALL)
    groups = parameter_groups(network, 1e-2, range_lr=1e-3, omega_lr=1e-4)
    assert [(g["name"], g["lr"]) for g in groups] == [("rest", 1e-2), ("ranges", 1e-3), ("frequencies", 1e-4)]
    assert [len(g["params"]) for g in groups[1:]] == [
        5,
        sum(1 for n, _ in network.named_parameters() if n.endswith("omega0")),
    ]
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in network.parameters()}
    assert [g["name"] for g in parameter_groups(nn.Linear(2, 2), 1.0)] == ["rest"]


class Corner(nn.Module):
    """Reads the top left pixel."""

    def forward(self, x, with_penalty=False):
        return x[:, 0, 0, :1]


def test_augerino_is_the_mean_over_moved_images():
    model = Augerino(Corner(), "E(2)", num_samples=4).eval()
    assert isinstance(model.sampler, LearnedProduct)
    model.sampler.forward = lambda *args, **kwargs: Samples(
        torch.tensor([[[0, 0, 0, 1], [0, 0, math.pi / 2, 1], [0, 0, math.pi, 1], [0, 0, 0, -1]]]),
        torch.tensor([[1.0, 1, 0, 1]]),
    )
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    # A quarter turn brings the top right to the top left, a mirror the bottom left; the half turn is switched off.
    torch.testing.assert_close(model(x), torch.tensor([[(1.0 + 2.0 + 3.0) / 3]]))


@pytest.mark.parametrize("group", ["SE(2)", "E(2)", "M(2)"])
def test_images_are_moved_exactly_by_quarter_turns_and_not_at_all_by_the_identity(group):
    g, x = pgconv.groups.get(group), torch.randn(2, 3, 6, 6)
    grid = g.embed_stabilizer(g.stabilizer.grid(2 if group == "M(2)" else 4 if group == "SE(2)" else 8))[None]
    for k, moved in enumerate(pgconv.functional.move_images(x, grid, g).unbind(1)):
        want = pgconv.diagnostics.equivariance._move_image(g, grid[0, k], x)
        torch.testing.assert_close(moved, want, atol=1e-5, rtol=0)
    odd = torch.randn(1, 1, 5, 8)
    torch.testing.assert_close(pgconv.functional.move_images(odd, g.identity()[None, None], g)[:, 0], odd)


def test_gradients_of_moved_images():
    x = torch.randn(2, 1, 5, 7, dtype=torch.float64).requires_grad_()
    elements = torch.tensor([[[0, 0, 0.3], [0, 0, -1.1]]], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, g: pgconv.functional.move_images(x, g, "SE(2)"), (x, elements))


def test_a_turned_image_stays_a_turned_image_where_it_is_not_square():
    """A disc off the centre goes where its centre goes."""
    rows, columns = torch.meshgrid(torch.arange(31.0), torch.arange(61.0), indexing="ij")
    spot = torch.exp(-((rows - 15) ** 2 + (columns - 42) ** 2) / 8).reshape(1, 1, 31, 61)
    moved = pgconv.functional.move_images(spot, torch.tensor([[[0, 0, math.pi / 6]]]), "SE(2)")[0, 0, 0]
    row, column = divmod(int(moved.argmax()), 61)
    assert (row, column) == (round(15 - 12 * 0.5), round(30 + 12 * math.cos(math.pi / 6)))


def points(count=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, count, 2, generator=generator, dtype=dtype), torch.rand(
        2, count, 3, generator=generator, dtype=dtype
    )


@pytest.mark.parametrize("neighborhood", [None, pgconv.neighbors.Nearest(5)], ids=["all", "nearest"])
def test_the_network_on_points_learns_everywhere_and_repeats(neighborhood):
    torch.manual_seed(0)
    network = pgconv.models.LieResNet(3, 4, num_samples=2, width=8, blocks=2, neighborhood=neighborhood).double()
    x, f = points()
    network(x, f).square().sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any()
        for name, p in network.named_parameters()
        if "bias" not in name
    )
    network.eval()
    assert torch.equal(network(x, f), network(x, f))


def test_the_network_on_points_is_invariant_to_motions_of_its_points():
    """With one grid of turns: exactly to these; and to translations, and the order of the points."""
    torch.manual_seed(0)
    options = {"neighborhood": pgconv.neighbors.Nearest(5), "turns": "aligned", "kernel_net": "siren"}
    network = pgconv.models.LieResNet(3, 4, num_samples=4, width=8, blocks=2, **options).double()
    for _ in range(30):  # statistics of the norms, beside which all points would look alike
        network(*points())
    network.eval()
    x, f = points()
    want = network(x, f)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    order = torch.randperm(x.shape[1])
    for moved in (x @ quarter.T, x + torch.tensor([3.0, -1.0])):
        torch.testing.assert_close(network(moved, f), want)
    torch.testing.assert_close(network(x[:, order], f[:, order]), want)
    # Of other points, by far more than the others may differ.
    assert (network(2 * x, f) - want).abs().max() > 1e-4


def test_points_that_are_not_there_change_nothing():
    torch.manual_seed(0)
    network = pgconv.models.LieResNet(
        3, 4, num_samples=2, width=8, blocks=2, neighborhood=pgconv.neighbors.Nearest(4), turns="aligned"
    )
    network = network.double()
    x, f = points()
    mask = torch.arange(12) < 9
    for mode in (network.train(), network.eval()):
        want = mode(x[:, :9], f[:, :9])
        found = mode(x, f, mask.expand(2, -1))
        torch.testing.assert_close(found, want)
    with pytest.raises(ValueError, match="width must be a multiple of bottleneck=4"):
        pgconv.models.LieResNet(1, 2, width=6)
