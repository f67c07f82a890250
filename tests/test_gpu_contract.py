"""What a call promises whoever trains on a GPU: CUDA graphs, streams, the same bits, autocast, compilation, a host that does not
wait, memory, sizes past 2^31. What CPU tensors can promise as well is tested on them, too; the rest is skipped without a GPU."""

import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch
import torch._inductor.config
from feature_checks import make_net, operands
from torch.utils._python_dispatch import TorchDispatchMode

import pgconv
from pgconv import groups
from pgconv.backends.cuda import signals
from pgconv.spec import ConvGeometry, FeatureSpec

# Read once, at the first matrix product of the process, which has not been yet: results must not depend on the stream.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

GPU = torch.cuda.is_available() and "cuda" in pgconv.backends.available("cuda")
NEEDS_GPU = pytest.mark.skipif(not GPU, reason="no GPU")
HALVES = "float16", "bfloat16"


@dataclass
class Call:
    """An operator with its differentiable operands, on one device."""

    function: Callable[..., torch.Tensor]
    leaves: list[torch.Tensor]
    cotangent: torch.Tensor

    def forward(self):
        with torch.no_grad():
            return [self.function(*self.leaves)]

    def step(self, function=None):
        """Result and gradients of all operands."""
        out = (function or self.function)(*self.leaves)
        return [out.detach(), *torch.autograd.grad(out, self.leaves, self.cotangent)]

    def load(self, values):
        """Other numbers at the same addresses."""
        with torch.no_grad():
            for leaf, value in zip(self.leaves, values):
                leaf.copy_(value)


def draw(device, seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def image(device, dtype, order, seed=0, batch=3, size=(20, 16), per_example=False):
    geometry = ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    sets, taps = batch if per_example else 1, len(geometry.taps())
    shapes = (batch, 12, 8, *size), (sets, 8, 8, taps, 8), (20, 12, 8), (batch, 20, 8, *size)
    f, phi, weight, cotangent = (x.to(dtype) for x in draw(device, seed, *shapes))
    plan = f"{'cuda' if device == 'cuda' else 'cpp'}:{order}"

    def function(f, phi, weight):
        return pgconv.ops.group_conv2d(f, phi, weight, str(geometry), plan)

    return Call(function, [x.requires_grad_() for x in (f, phi.sin(), weight / 40)], cotangent)


def points(device, dtype, seed=0, batch=2, count=150, sets=2, listed=0):
    group, net = groups.get("SE(2)"), make_net("sin", 3, hidden=32)
    spec = FeatureSpec("SE(2)", "product", "all", "convolution", net.net_spec)
    elements = [x.to(device) for x in operands(group, net, sets, count, sets, count, torch.float32)]
    shapes = (batch, count, 12), (20, 12, 32), (20, 12), (batch, count, 20)
    f, weight, bias, cotangent = (x.to(dtype) for x in draw(device, seed, *shapes))
    weight, bias = weight / 40, bias / 40
    plan = f"{'cuda' if device == 'cuda' else 'cpp'}:aggregate"
    index = None
    if listed:
        generator = torch.Generator().manual_seed(5)
        index = torch.randint(-1, count, (batch, count, listed), generator=generator).to(device)

    def function(f, v, u, params, weight, bias):
        return pgconv.ops.point_conv(f, v, u, params, weight, bias, index, None, None, str(spec), False, plan)

    return Call(function, [x.requires_grad_() for x in (f, *elements, weight, bias)], cotangent)


def functional(device, dtype, seed=0, op="group_conv2d"):
    """A public function: features of the kernel net at the elements, and what belongs around the operator."""
    group = groups.get("SE(2)")
    net = make_net("sin", 3, hidden=8, layers=3).to(device)
    generator = torch.Generator().manual_seed(seed)
    v, u = (group.sample(8, generator=generator)[None].to(device).requires_grad_() for _ in range(2))
    middle, size, options = ((), (), {}) if op == "point_conv" else ((12,), (20, 16), {"kernel_size": 3})
    shapes = (2, *middle, 8, *(size or (12,))), (20, 12, 8), (20, 12)
    f, weight, bias = (x.to(dtype).requires_grad_() for x in draw(device, seed, *shapes))
    (cotangent,) = draw(device, seed + 1, (2, 20, 8, *size) if size else (2, 8, 20))

    def function(f, v, u, weight, bias, *params):
        call = getattr(pgconv.functional, op)
        return call(f, v, u, net, weight / 40, bias / 40, group=group, **options)

    return Call(function, [f, v, u, weight, bias, *net.parameters()], cotangent.to(dtype))


KINDS = {
    "materialize": lambda *call, **changes: image(*call, "materialize", **changes),
    "aggregate": lambda *call, **changes: image(*call, "aggregate", **changes),
    "aggregate-each": lambda *call, **changes: image(*call, "aggregate", per_example=True, **changes),
    "points": points,
    "lists": lambda *call, **changes: points(*call, listed=20, **changes),
    "images-functional": functional,
    "points-functional": lambda *call, **changes: functional(*call, op="point_conv", **changes),
}


def make(device, kind, dtype, **changes):
    return KINDS[kind](device, getattr(torch, dtype), **changes)


ON_CPU = [*((kind, "float32") for kind in KINDS), ("aggregate", "bfloat16")]
ON_GPU = [(kind, dtype) for kind in KINDS for dtype in ("float32", *HALVES)]


def rows(device, table):
    marks = (NEEDS_GPU,) if device == "cuda" else ()
    return [pytest.param((device, *row), id="-".join((device, *row)), marks=marks) for row in table]


EVERYWHERE = pytest.mark.parametrize("which", rows("cpu", ON_CPU) + rows("cuda", ON_GPU))
ON_A_GPU = pytest.mark.parametrize("which", rows("cuda", ON_GPU))


@pytest.fixture(autouse=True)
def same_bits():
    """Of the vendor's convolutions, too, which take part in gradients."""
    kept = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = kept


def finish(device):
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def stream(device):
    """Another stream than the current one, after which the current one waits for nothing."""
    with torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else nullcontext():
        yield


def assert_same(found, want):
    assert len(found) == len(want)
    for number, (x, y) in enumerate(zip(found, want)):
        assert x.dtype == y.dtype and torch.isfinite(x).all(), number
        assert torch.equal(x, y), f"{number}: off by {(x.double() - y.double()).abs().max().item():.1e}"


def assert_close(found, want, bound):
    for number, (x, y) in enumerate(zip(found, want)):
        assert (x.double() - y.double()).norm() <= bound * y.double().norm(), number


@EVERYWHERE
def test_twenty_runs_give_the_same_bits(which):
    call = make(*which)
    want = call.step()
    for _ in range(20):
        assert_same(call.step(), want)
    assert_same(call.forward(), want[:1])


@ON_A_GPU
@pytest.mark.parametrize("direction", ["forward", "step"])
def test_a_graph_replays_the_bits_of_a_call(which, direction):
    call, other = make(*which), make(*which, seed=1)
    run = getattr(call, direction)
    # As PyTorch asks for: some calls before, on a stream of their own.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for source in (other, make(*which)):
        call.load(source.leaves)
        want = [x.clone() for x in run()]
        for x in captured:
            x.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        assert_same(captured, want)


@ON_A_GPU
def test_graphed_callables_train(which):
    """As torch makes them, with a graph for each direction."""
    if "functional" in which[1]:
        pytest.skip("its net's parameters are no arguments")
    call = make(*which)
    want = call.step()
    sample = tuple(x.detach().clone().requires_grad_() for x in call.leaves)
    assert_same(call.step(torch.cuda.make_graphed_callables(call.function, sample)), want)


@EVERYWHERE
def test_two_streams_at_once(which):
    device = which[0]
    calls = [make(*which, seed=seed) for seed in range(2)]
    want = [call.step() for call in calls]
    finish(device)
    streams = [torch.cuda.Stream() for _ in calls] if device == "cuda" else [None, None]
    found = [[], []]
    for _ in range(5):
        for call, results, own in zip(calls, found, streams):
            with torch.cuda.stream(own) if device == "cuda" else nullcontext():
                results.append(call.step())
    finish(device)
    for results, right in zip(found, want):
        for result in results:
            assert_same(result, right)


@EVERYWHERE
def test_a_call_waits_for_its_own_stream(which):
    """Operands arrive late on a stream that is not the default one: what does not wait for them reads NaN."""
    device = which[0]
    call = make(*which)
    want, values = call.step(), [x.detach().clone() for x in call.leaves]
    call.load([torch.full_like(x, torch.nan) for x in values])
    finish(device)
    with stream(device):
        if device == "cuda":
            torch.cuda._sleep(100_000_000)
        call.load(values)
        found = call.step()
    finish(device)
    assert_same(found, want)


@EVERYWHERE
def test_deterministic_mode(which):
    """Which also fills memory that is not written with NaN."""
    call = make(*which)
    want = call.step()
    kept = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first = call.step()
        assert_same(call.step(), first)
    finally:
        torch.use_deterministic_algorithms(kept)
    assert_close(first, want, max(1e-5, 4 * torch.finfo(first[0].dtype).eps))


OPERATORS = [row for row in ON_GPU if row[1] in HALVES and "functional" not in row[0]]


@pytest.mark.parametrize("which", rows("cpu", [("aggregate", "bfloat16")]) + rows("cuda", OPERATORS))
def test_autocast_casts_signal_and_head(which):
    """To what they are in a call that has them in that type from the beginning; gradients come in the type of the operands."""
    device, kind, half = which
    low, wide = make(device, kind, half), make(device, kind, "float32")
    wide.load(low.leaves)
    want = low.step()
    with torch.autocast(device, getattr(torch, half)):
        out = wide.function(*wide.leaves)
    assert out.dtype == want[0].dtype and torch.equal(out, want[0])
    for x, y in zip(torch.autograd.grad(out, wide.leaves, low.cotangent), want[1:]):
        assert x.dtype == torch.float32 and torch.equal(x, y.float())


@EVERYWHERE
def test_compiled_in_one_graph(which):
    """With what stands around it: opposite numbers before, negative ones cut off after."""
    device, _, _ = which
    if device == "cuda" and not any(map(shutil.which, (os.environ.get("CC", "gcc"), "clang", "cc"))):
        pytest.skip("no C compiler")
    torch._dynamo.reset()
    call = make(*which)

    def function(f, *others):
        return torch.relu(call.function(-f, *others))

    # Compiling to native code for a CPU takes long, and what is traced is the same.
    compiled = torch.compile(function, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    # Other tests run beside this one.
    with torch._inductor.config.patch(compile_threads=1):
        found, want = call.step(compiled), call.step(function)
    torch._dynamo.reset()
    if "functional" in which[1]:
        # Compiled code rounds elsewhere than plain PyTorch, before convolutions that may cut to TF32, and places the head's bias
        # without looking at sizes.
        cut = 2.0**-10 if device == "cuda" else 1e-4
        return assert_close(found, want, max(cut, 16 * torch.finfo(found[0].dtype).eps))
    assert_same(found, want)


@ON_A_GPU
@pytest.mark.parametrize("direction", ["forward", "step"])
def test_the_host_does_not_wait(which, direction):
    call = make(*which)
    run = getattr(call, direction)
    want = run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(found, want)


class NumbersBroughtToTheDevice(TorchDispatchMode):
    """Counts tensors made from the host's numbers: on a GPU the host waits for each, and no graph can hold it."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.lift_fresh.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "op", ["group_conv2d", "group_conv2d with bias", "lifting_conv2d", "depthwise_lifting_conv2d", "point_conv"]
)
def test_no_number_is_brought_to_the_device(op, monkeypatch):
    """As far as it shows on a CPU: outside the operators."""
    options = {}
    if op == "group_conv2d with bias":
        op = "group_conv2d"
        monkeypatch.setattr(pgconv.ops, "bias_apart", lambda *_: True)
        options = {"weight_bias": torch.randn(5, 3), "sample_weight": torch.rand(1, 4), "out_gate": torch.rand(1, 4)}
    group, lifting = groups.get("E(2)"), "lifting" in op
    net = make_net("sin", 2 if lifting else group.coord_dim, hidden=8)
    v, u = (group.sample(4)[None] for _ in range(2))
    if lifting:
        v, u = (), torch.cat([torch.zeros(1, 4, 2), u[..., 2:]], -1)
    f, weight = torch.randn(2, 3, 4, 6, 6), torch.randn(5, 3, 8)
    arguments = {
        "group_conv2d": (f, v, u, net, weight),
        "lifting_conv2d": (f[:, :, 0], u, net, weight),
        "depthwise_lifting_conv2d": (f, u, net, weight[0]),
        "point_conv": (f[:, 0, :, :3, 0], v, u, net, weight),
    }[op]
    with NumbersBroughtToTheDevice() as seen:
        torch.tensor([1.0])
        before = seen.count
        out = getattr(pgconv.functional, op)(
            *arguments, group=group, **({} if op == "point_conv" else {"kernel_size": 3}), **options
        )
        out.sum().backward()
    assert before == seen.count == 1


def peak(run):
    """Bytes beyond what is there before, of a call that has run."""
    run()
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - base


@NEEDS_GPU
@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("direction", ["forward", "step"])
def test_memory_is_linear_in_the_points(direction, dtype):
    """Twice the points are four times the pairs."""
    small, large = (
        peak(getattr(make("cuda", "points", dtype, batch=1, count=count, sets=1), direction)) for count in (8192, 16384)
    )
    assert large < 2.5 * small


@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_memory_beside_results_does_not_grow_with_the_images(dtype):
    geometry = ConvGeometry.make("test", 3, 1, "same", 1, "disc")

    def beside(batch):
        shapes = (batch, 32, 8, 32, 32), (1, 8, 8, len(geometry.taps()), 8), (32, 32, 8)
        operands = [torch.zeros(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]
        cotangent = torch.zeros_like(operands[0])

        def out():
            return pgconv.ops.group_conv2d(*operands, str(geometry), "cuda:aggregate")

        result = cotangent.numel() * cotangent.element_size()
        return peak(out) - result, peak(lambda: torch.autograd.grad(out(), operands, cotangent)) - 2 * result

    # A copy forward and two backward, each of up to COPY; packed operands, partial sums, and what the allocator rounds up.
    for small, large, copies in zip(beside(128), beside(512), (1, 2)):
        assert large < copies * signals.COPY + (32 << 20) and large < small + (8 << 20)


@pytest.mark.parametrize(
    ("device", "dtype", "batch", "size"),
    [
        pytest.param("cpu", "float32", 3, (20, 16), id="cpu"),
        pytest.param("cuda", "bfloat16", 1366, (128, 128), id="cuda", marks=(NEEDS_GPU, pytest.mark.slow)),
    ],
)
def test_signals_past_two_to_the_31(device, dtype, batch, size):
    """Images at both ends have what they have alone, result and gradient of the signal."""
    dtype = getattr(torch, dtype)
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 40e9:
        pytest.skip("needs 40 GB of the GPU's memory")
    geometry = ConvGeometry.make("test", 3, 1, "same", 1, "disc")
    generator = torch.Generator(device).manual_seed(0)
    shapes = (batch, 12, 8, *size), (1, 8, 8, len(geometry.taps()), 8), (12, 12, 8)
    f, phi, weight = (torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes)
    assert device == "cpu" or f.numel() > 1 << 31
    plan = f"{'cuda' if device == 'cuda' else 'cpp'}:aggregate"
    weight = weight / 40
    if device == "cuda":
        # Other layouts are copied some images at a time.
        f = pgconv.group_last(f)

    def both(f, cotangent):
        f = f.detach().requires_grad_()
        out = pgconv.ops.group_conv2d(f, phi, weight, str(geometry), plan)
        return out.detach(), *torch.autograd.grad(out, f, cotangent)

    ends = torch.tensor([0, 1, batch // 2, batch - 1], device=device)
    found, some = [x[ends] for x in both(f, f)], f[ends]
    del f
    if device == "cuda":
        torch.cuda.empty_cache()
        return assert_same(found, both(some, some))
    # On a CPU the batch decides who sums what.
    for x, y in zip(found, both(some, some)):
        torch.testing.assert_close(x, y)
