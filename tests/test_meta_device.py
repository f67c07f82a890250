"""Modules built without storage and given it later, as FSDP does: tables of samplers are not in the state dict."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import pgconv
from pgconv import groups, sampling

CASES = [
    ("fixed", "SE(2)"),
    ("jittered", "E(2)"),
    ("jittered", "SE(3)"),
    ("haar", "SE(3)"),
    ("identity", "E(2)"),
    ("fixed", "T(2)"),
    ("learned", "SE(2)"),
    ("learned", "E(2)"),
    ("subset", "SE(2)"),
    ("subset", "SE(3)"),
]
SIZES = {"SE(3)": 12, "M(2)": 2, "T(2)": 1}


@pytest.fixture(autouse=True)
def poisoned():
    """Memory that nobody wrote is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def _make(name: str, group: str, **options) -> sampling.Sampler:
    count = 1 if name == "identity" else SIZES.get(group, 4)
    return sampling.get(name, groups.get(group), count, **options)


def _on_meta(build):
    with torch.device("meta"):
        return build()


def _gates() -> sampling.EncodedGates:
    return sampling.EncodedGates(groups.get("SE(2)"), 4, channels=2, base="fixed")


LAYERS = {
    "lifting": lambda: pgconv.nn.LiftingConv2d(1, 4, 5, num_samples=4),
    "fixed": lambda: pgconv.nn.LiftingConv2d(1, 4, 5, num_samples=4, sampling="fixed", dtype=torch.float64),
    "haar": lambda: pgconv.nn.GroupConv2d(1, 4, 3, num_samples=4, sampling="haar"),
    "learned": lambda: pgconv.nn.GroupConv2d(1, 4, 3, "E(2)", num_samples=4, partial=True),
    "input": lambda: pgconv.nn.GroupConv2d(1, 4, 3, num_samples=4, partial="input"),
    "pointwise": lambda: pgconv.nn.PointwiseGroupConv2d(1, 4, "M(2)", num_samples=2, partial=True),
    "separable": lambda: pgconv.nn.SeparableGroupConv2d(1, 4, 3, num_samples=4, sampling="jittered"),
    "release": lambda: pgconv.nn.LiftingConv2d(1, 4, 5, num_samples=4, compat="release"),
    "augerino": lambda: pgconv.models.Augerino(
        pgconv.models.CKResNet(1, 2, group="T(2)", num_samples=1, width=2, factors=(1,), kernel_size=3), "M(2)", 2
    ),
    "network": lambda: pgconv.models.CKResNet(1, 2, num_samples=4, width=2, factors=(1,), kernel_size=3, partial=True),
}


def _input(module, dtype=torch.float32):
    if isinstance(module, (pgconv.models.Augerino, pgconv.models.CKResNet, pgconv.nn.LiftingConv2d)):
        return (torch.randn(2, 1, 9, 9, dtype=dtype, generator=torch.Generator().manual_seed(0)),)
    count = module.over_group.sampler.n if isinstance(module, pgconv.nn.SeparableGroupConv2d) else module.sampler.n
    x = torch.randn(2, 1, count, 9, 9, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x, _make("fixed", "M(2)" if count == 2 else module.group.name, dtype=dtype)()


def _same(module, source) -> bool:
    dtype = next(source.parameters()).dtype
    module, source = module.eval(), source.eval()
    results = []
    for net in (module, source):
        y = net(*_input(net, dtype))
        results.append(y if isinstance(y, torch.Tensor) else y[0])
    return torch.equal(*results)


@pytest.mark.parametrize("start", ["meta", "cpu"])
@pytest.mark.parametrize(("name", "group"), CASES)
def test_tables_have_their_values_after_to_empty(name, group, start):
    source = _make(name, group)
    module = (_on_meta(lambda: _make(name, group)) if start == "meta" else _make(name, group)).to_empty(device="cpu")
    module.load_state_dict(source.state_dict())
    for eval_mode in (False, True):
        seeded = [m.train(not eval_mode)(generator=torch.Generator().manual_seed(1)) for m in (module, source)]
        assert all(torch.equal(a, b) for a, b in zip(*seeded, strict=True))
    for key, table in source.named_buffers():
        assert torch.equal(module.get_buffer(key), table) and module.get_buffer(key).dtype == table.dtype, key


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "half", "double", "twice"])
def test_what_happens_before_to_empty_keeps_the_values(way):
    source, module = _make("fixed", "SE(2)"), _on_meta(lambda: _make("fixed", "SE(2)"))
    if way == "deepcopy":
        module = copy.deepcopy(module)
    elif way == "pickle":
        stream = io.BytesIO()
        torch.save(module, stream)
        module = torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    elif way == "twice":
        module = module.to_empty(device="cpu").to("meta")
    else:
        module, source = getattr(module, way)(), getattr(source, way)()
    assert module().elements.device.type == "meta"
    module = module.to_empty(device="cpu")
    assert torch.equal(module._grid, source._grid) and module._grid.dtype == torch.float64
    assert torch.equal(module().elements, source().elements) and module().elements.dtype == source().elements.dtype


def test_the_share_of_training_survives_a_move_but_starts_at_zero_without_storage():
    sampler = _make("subset", "SE(2)")
    sampler.anneal(0.5)
    assert sampler.double().half().anneal_fraction == 0.5
    assert _on_meta(lambda: _make("subset", "SE(2)")).to_empty(device="cpu").anneal_fraction == 0
    annealed = _make("subset", "SE(2)")
    annealed.anneal(0.5)
    assert annealed.to("meta").to_empty(device="cpu").anneal_fraction == 0


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("assign", [False, True], ids=["to_empty", "assign"])
def test_a_loaded_layer_computes_what_its_source_does(name, assign):
    torch.manual_seed(0)
    source, module = LAYERS[name](), _on_meta(LAYERS[name])
    if not assign:
        module.to_empty(device="cpu")
    module.load_state_dict(source.state_dict(), assign=assign)
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert tensor.device.type == "cpu", key
    assert _same(module, source)
    assert _same(copy.deepcopy(module).to("cpu"), source)


def test_gates_alone_follow_what_is_assigned():
    source, module = _gates(), _on_meta(_gates)
    module.load_state_dict(source.state_dict(), assign=True)
    assert {b.device.type for b in module.buffers()} == {"cpu"}
    assert torch.equal(module.base().elements, source.base().elements)


def test_loading_into_a_module_without_storage_leaves_it_without():
    module = _on_meta(LAYERS["learned"])
    with pytest.warns(UserWarning, match="no-op"):
        module.load_state_dict(LAYERS["learned"]().state_dict())
    assert {t.device.type for t in [*module.parameters(), *module.buffers()]} == {"meta"}


def test_a_materialised_layer_compiles():
    source, module = LAYERS["fixed"](), _on_meta(LAYERS["fixed"])
    module.load_state_dict(source.state_dict(), assign=True)
    torch._dynamo.reset()
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    y, _ = torch.compile(module.eval(), fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, source.eval()(x)[0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: pgconv.nn.GroupConv2d(2, 4, 3, "E(2)", num_samples=4, partial=True, kernel_net="mlp"),
        lambda: pgconv.nn.PointGroupConv(2, 4, "SE(3)"),
        lambda: pgconv.nn.GroupInstanceNorm2d(4, affine=True),
        lambda: pgconv.models.CKResNet(1, 3, group="SE(2)", num_samples=4, width=4, kernel_size=3, partial=True),
    ],
)
def test_every_parameter_can_be_made_anew(build):
    """As FSDP does without weights to load: every module fills its own, layers before their parts."""
    module = _on_meta(build).to_empty(device="cpu")
    for inner in module.modules():
        if hasattr(inner, "reset_parameters"):
            inner.reset_parameters()
    assert all(p.isfinite().all() for p in module.parameters())
    fresh = dict(build().named_parameters())
    for name, p in module.named_parameters():
        if name.rpartition(".")[2] in ("theta", "alpha", "alpha_mirror"):
            assert torch.equal(p, fresh[name])
