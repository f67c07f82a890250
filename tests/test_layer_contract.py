"""What every layer promises PyTorch: checkpointing, hooks on what is kept, export, any size compiled once, the same bits again."""

import copy
import io

import pytest
import torch
import torch._dynamo.testing
from contract import LAYERS, draw, layer_inputs
from torch.utils.checkpoint import checkpoint

import pgconv
from pgconv.sampling import Samples

leaves = torch.utils._pytree.tree_leaves


def made(name):
    """The layer, in double precision, and its inputs."""
    torch.manual_seed(0)
    layer = LAYERS[name]().double()
    return layer, torch.utils._pytree.tree_map(lambda x: x.double(), layer_inputs(name))


def gradients(layer, inputs, call):
    """Outputs and gradients in parameters and the first input."""
    x = inputs[0].clone().requires_grad_()
    torch.manual_seed(1)
    outputs = [out for out in leaves(call(layer, x, *inputs[1:])) if out.is_floating_point()]
    loss = sum((out * draw(*out.shape)).sum() for out in outputs)
    loss.backward()
    return [out.detach() for out in outputs], [leaf.grad for leaf in (x, *layer.parameters()) if leaf.grad is not None]


def plainly(layer, *inputs):
    return layer(*inputs)


def on_cpu(layer, *inputs):
    with torch.autograd.graph.save_on_cpu():
        return layer(*inputs)


class Packed:
    """Hooks by which nothing is kept as it was."""

    def __init__(self):
        self.count = 0

    def __call__(self, layer, *inputs):
        def pack(x):
            self.count += 1
            return x.numpy(force=True).tobytes(), x.dtype, x.shape

        def unpack(kept):
            data, dtype, shape = kept
            return (
                torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
                if data
                else torch.empty(shape, dtype=dtype)
            )

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return layer(*inputs)


WAYS = {
    "checkpoint": lambda layer, *inputs: checkpoint(layer, *inputs, use_reentrant=False),
    "save-on-cpu": on_cpu,
    "packed": Packed(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_what_is_kept_for_the_backward_pass_is_the_callers_business(name, way):
    layer, inputs = made(name)
    want = gradients(copy.deepcopy(layer), inputs, plainly)
    found = gradients(layer, inputs, WAYS[way])
    for a, b in zip(leaves(found), leaves(want), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    if way == "packed":
        assert WAYS[way].count > 0


@pytest.mark.parametrize("name", LAYERS)
def test_deterministic_mode(name):
    layer, inputs = made(name)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (gradients(copy.deepcopy(layer), inputs, plainly) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(before)
    for a, b in zip(leaves(first), leaves(second), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("name", LAYERS)
def test_export(name, strict):
    layer, inputs = made(name)
    layer.eval()
    program = torch.export.export(layer, inputs, strict=strict)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    with torch.no_grad():
        for a, b in zip(leaves(again(*inputs)), leaves(layer(*inputs)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_export_of_a_network_for_any_batch_and_size():
    torch.manual_seed(0)
    network = pgconv.models.CKResNet(1, 3, num_samples=4, width=4, kernel_size=3, partial=True).eval()
    dims = {0: torch.export.Dim("batch", min=2), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(network, (draw(2, 1, 16, 20).float(),), dynamic_shapes=(dims,))
    for size in ((2, 1, 16, 20), (5, 1, 24, 16)):
        x = draw(*size).float()
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), network(x), rtol=1e-5, atol=1e-5)


def test_a_compiled_layer_takes_any_batch_and_size_without_compiling_again(fresh_compiler):
    torch.manual_seed(0)
    lift = pgconv.nn.LiftingConv2d(1, 3, kernel_size=3, num_samples=4).eval()
    conv = pgconv.nn.GroupConv2d(3, 2, kernel_size=3, num_samples=4, partial=True).eval()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(x):
        return conv(*lift(x))[0]

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for batch, height, width in ((2, 8, 9), (3, 11, 6), (7, 5, 5)):
        x = draw(batch, 1, height, width).float().requires_grad_()
        found, want = compiled(x), function(x)
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
        grads = [
            torch.autograd.grad(y.square().sum(), [x, *conv.parameters()], allow_unused=True) for y in (found, want)
        ]
        for a, b in zip(*grads):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_a_package_made_ahead_of_time_computes_the_same(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(_Lifted(), torch.nn.Linear(3, 2)).eval()
    x = draw(2, 1, 8, 8).float()
    program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "network.pt2"))
    package = torch._inductor.aoti_load_package(path)
    with torch.no_grad():
        for images in (x, draw(5, 1, 8, 8).float()):
            torch.testing.assert_close(package(images), network(images), rtol=1e-5, atol=1e-5)


class _Lifted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = pgconv.nn.LiftingConv2d(1, 3, kernel_size=3, num_samples=4)
        self.conv = pgconv.nn.GroupConv2d(3, 3, kernel_size=3, num_samples=4, partial=True)
        self.norm, self.pool = pgconv.nn.GroupBatchNorm2d(3), pgconv.nn.GlobalGroupPool()

    def forward(self, x):
        y, samples = self.lift(x)
        y, samples = self.conv(self.norm(y, samples).relu(), samples)
        return self.pool(y, samples)


def test_states_know_no_backend():
    """Checkpoints of one machine are those of every other."""
    layer, _ = made("GroupConv2d")
    with pgconv.use_backend("reference"):
        other, _ = made("GroupConv2d")
    assert layer.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(x, other.state_dict()[key]) for key, x in layer.state_dict().items())
    assert isinstance(layer_inputs("GroupConv2d")[1], Samples)
