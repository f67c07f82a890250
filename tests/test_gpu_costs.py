"""The planner's choice between the image orders on a GPU, on calls of which it is known by measurement which is faster."""

import pytest

from pgconv.ops import dispatch, gpu_costs, plan, rates
from pgconv.spec import ConvGeometry, Facts, Plan

PLANS = [Plan("cuda", "materialize"), Plan("cuda", "aggregate")]


def facts(batch, inputs, outputs, samples, kernel, features, size, sets=1, stride=1):
    geometry = ConvGeometry.make("test", kernel, stride, "same", 1, "disc")
    height, width = geometry.out_size(size, size)
    sizes = {"B": batch, "C": inputs, "Nv": samples, "H": size, "W": size, "S": sets, "Nu": samples}
    sizes |= {"T": len(geometry.taps()), "Hb": features, "O": outputs, "Ho": height, "Wo": width}
    return Facts("group_conv2d", "cuda", ("bfloat16",) * 3, tuple(sizes.items()), None, geometry)


@pytest.mark.parametrize(
    ("call", "forward", "backward"),
    [
        (facts(128, 128, 128, 8, 3, 8, 32), "aggregate", "aggregate"),
        (facts(128, 128, 128, 8, 3, 8, 32, sets=128), "aggregate", "aggregate"),
        (facts(128, 64, 64, 16, 3, 8, 32), "aggregate", "aggregate"),
        (facts(64, 64, 64, 8, 5, 16, 28), "aggregate", "aggregate"),
        # Forward. Backward, through the gradient of the kernel, it has not been timed.
        (facts(64, 32, 32, 8, 7, 32, 28), "aggregate", "aggregate"),
        (facts(128, 128, 128, 8, 3, 9, 32), "aggregate", "materialize"),
        (facts(128, 32, 32, 4, 3, 8, 16), "aggregate", "materialize"),
    ],
)
def test_the_faster_order_is_taken(call, forward, backward):
    for direction, order in zip(plan.DIRECTIONS, (forward, backward)):
        assert plan.cheapest(call, PLANS, rates.current("cuda"), direction).order == order


def test_the_kernels_gradient_is_counted_where_it_is_taken():
    """By the CUDA backend, once for all images, and where it has fewer products; other backends have chains alone."""
    for call, differs in [
        (facts(64, 32, 32, 8, 7, 32, 28), True),
        (facts(64, 32, 32, 8, 7, 32, 28, sets=64), False),
        (facts(128, 128, 128, 8, 3, 8, 32), False),
    ]:
        found = {name: plan.costs(call, "backward", name)["aggregate"] for name in ("cuda", "triton", "auto")}
        assert found["triton"] == found["auto"] and (found["cuda"].wasted < found["auto"].wasted) == differs
        assert differs or found["cuda"] == found["auto"]
        assert plan.costs(call, "forward", "cuda") == plan.costs(call, "forward")


def test_a_refused_kernels_gradient_is_not_counted(monkeypatch):
    call = facts(64, 32, 32, 8, 7, 32, 28)
    monkeypatch.setattr(gpu_costs.torch.cuda, "is_available", lambda: True)
    for reason in (None, "no"):
        monkeypatch.setattr(gpu_costs.cuda, "why_not_kernel_gradient", lambda *call, reason=reason: reason)
        found = plan.costs(call, "backward", "cuda")["aggregate"]
        assert (found == plan.costs(call, "backward")["aggregate"]) == (reason is not None)


def test_every_order_has_a_cost_on_a_gpu():
    call = facts(2, 3, 5, 4, 3, 8, 9)
    for direction in plan.DIRECTIONS:
        found = plan.costs(call, direction)
        assert all(cost.flops > 0 and cost.flops + cost.wasted > 0 and cost.bytes > 0 for cost in found.values())


@pytest.mark.parametrize(
    ("call", "apart"),
    [
        (facts(128, 128, 128, 8, 3, 8, 32), True),
        (facts(64, 64, 64, 8, 5, 16, 32), True),
        # Within an octet one more feature costs nothing; and what takes less than launching kernels is left as it is.
        (facts(128, 128, 128, 8, 3, 7, 32), False),
        (facts(2, 8, 8, 4, 3, 8, 8), False),
    ],
)
def test_a_bias_goes_where_it_takes_less(monkeypatch, call, apart):
    def resolve(call, asked, direction):
        return plan.cheapest(call, PLANS, rates.current("cuda"), direction)

    monkeypatch.setattr(dispatch, "resolve", resolve)
    assert dispatch.bias_apart.__wrapped__(call, Plan()) == apart


def test_a_call_that_cannot_run_says_so_itself():
    assert not dispatch.bias_apart.__wrapped__(facts(2, 3, 5, 4, 3, 8, 9), Plan("cuda", "aggregate"))


def test_the_signals_gradient_at_other_strides_is_counted_as_it_is_taken():
    """By our own kernels where they have few enough products; where not, and by other backends, as the vendor's."""
    for features, stride, differs in [(8, 2, True), (16, 2, False), (16, 1, False)]:
        call = facts(1, 64, 64, 8, 3, features, 16, stride=stride)
        own, others = (plan.costs(call, "backward", name)["aggregate"] for name in ("cuda", "triton"))
        assert (own.wasted < others.wasted) == differs and (own == others) != differs
