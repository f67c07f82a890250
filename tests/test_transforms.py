"""``torch.func``: every operator and layer under its transforms, against autograd and one call after the other, in float64."""

import pytest
import torch
from contract import INPUTS, LAYERS, draw, layer_inputs
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import pgconv
from pgconv.ops._define import FAMILIES

VARIANTS = [pytest.param(op, variant, id=f"{op}-{variant}") for op, table in INPUTS.items() for variant in table]
DIFFERENTIABLE = [
    pytest.param(op, variant, name, id=f"{op}-{variant}-{name}")
    for op, table in INPUTS.items()
    for variant, (tensors, _) in table.items()
    for name, x in zip([n.rstrip("?") for n in FAMILIES[op].tensors[: FAMILIES[op].differentiable]], tensors)
    if x is not None
]
MANY = 3


def operation(op, variant):
    """The public function of tensors and these, in double precision."""
    tensors, statics = INPUTS[op][variant]
    tensors = [x.double() if x is not None and x.is_floating_point() else x for x in tensors]

    def function(*tensors):
        return getattr(pgconv.ops, op)(*tensors, *statics, "auto:auto")

    return function, tensors


def index_of(op, name):
    return [n.rstrip("?") for n in FAMILIES[op].tensors].index(name)


def several(x, dim=0):
    """Values that differ, along a new axis."""
    return torch.stack([x + 0.1 * number * torch.cos(x + number) for number in range(MANY)], dim)


def close(found, want, tolerance=1e-9):
    torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance)


def every(x, number, dim):
    return x if dim is None or x is None else x.select(dim, number)


def one_by_one(function, tensors, dims):
    found = [function(*(every(x, i, d) for x, d in zip(tensors, dims))) for i in range(MANY)]
    return torch.utils._pytree.tree_map(lambda *x: torch.stack(x), *found)


def gradients(function):
    """Of a sum in which all results count differently, in all differentiable tensors that there are."""

    def of(*tensors):
        chosen = tuple(i for i, x in enumerate(tensors) if x is not None and x.is_floating_point())

        def value(*tensors):
            out = function(*tensors)
            return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape).cos()).sum()

        return grad(value, argnums=chosen)(*tensors)

    return of


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_gradients_are_those_of_autograd(op, variant):
    function, tensors = operation(op, variant)
    leaves = [x.clone().requires_grad_() if x is not None and x.is_floating_point() else x for x in tensors]
    out = function(*leaves)
    cotangent = draw(*out.shape)
    wanted = [x for x in leaves if x is not None and x.requires_grad]
    want = torch.autograd.grad(out, wanted, cotangent)
    chosen = [i for i, x in enumerate(leaves) if x is not None and x.requires_grad]

    def of_chosen(*values):
        operands = list(tensors)
        for i, x in zip(chosen, values):
            operands[i] = x
        return function(*operands)

    found_out, pull = vjp(of_chosen, *(tensors[i] for i in chosen))
    close(found_out, out.detach())
    close(pull(cotangent), want)


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize(("op", "variant", "name"), DIFFERENTIABLE)
def test_vmap_over_one_tensor(op, variant, name, dim):
    function, tensors = operation(op, variant)
    at = index_of(op, name)
    dims = [dim if i == at else None for i in range(len(tensors))]
    tensors[at] = several(tensors[at], dim)
    close(vmap(function, tuple(dims))(*tensors), one_by_one(function, tensors, dims))
    close(vmap(gradients(function), tuple(dims))(*tensors), one_by_one(gradients(function), tensors, dims))


@pytest.mark.parametrize("without", ["nothing", "first", "last"])
@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_vmap_over_all_tensors(op, variant, without):
    function, tensors = operation(op, variant)
    places = [i for i, x in enumerate(tensors) if x is not None and x.is_floating_point()]
    places = {"nothing": places, "first": places[1:], "last": places[:-1]}[without]
    dims = [i % 2 if i in places else None for i in range(len(tensors))]
    tensors = [x if d is None else several(x, d) for x, d in zip(tensors, dims)]
    close(vmap(function, tuple(dims))(*tensors), one_by_one(function, tensors, dims))
    close(vmap(gradients(function), tuple(dims))(*tensors), one_by_one(gradients(function), tensors, dims))


def test_vmap_over_lists():
    function, tensors = operation("point_conv", "padded")
    lists = several(tensors[6].double()).long().clamp(-1, 4)
    dims = [None] * 6 + [0, None, None]
    tensors[6] = lists
    close(vmap(function, tuple(dims))(*tensors), one_by_one(function, tensors, dims))
    close(vmap(gradients(function), tuple(dims))(*tensors), one_by_one(gradients(function), tensors, dims))


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_vmap_in_vmap(op, variant):
    function, tensors = operation(op, variant)
    signal, others = tensors[0], tensors[1:]
    grid = torch.stack([several(signal), several(signal.sin())])
    found = vmap(vmap(lambda x: gradients(function)(x, *others)))(grid)
    want = [one_by_one(gradients(function), [row, *others], [0] + [None] * len(others)) for row in grid]
    close(found, tuple(torch.stack(x) for x in zip(*want)))


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_vmap_over_nothing(op, variant):
    function, tensors = operation(op, variant)
    places = [i for i, x in enumerate(tensors) if x is not None and x.is_floating_point()]
    dims = tuple(0 if i in places else None for i in range(len(tensors)))
    none = [x if d is None else several(x)[:0] for x, d in zip(tensors, dims)]
    assert vmap(function, dims)(*none).shape == (0, *function(*tensors).shape)
    for found, i in zip(vmap(gradients(function), dims)(*none), places, strict=True):
        assert found.shape == (0, *tensors[i].shape)


@pytest.mark.parametrize(("op", "variant", "name"), DIFFERENTIABLE)
def test_forward_mode_is_the_adjoint_of_reverse_mode(op, variant, name):
    function, tensors = operation(op, variant)
    at = index_of(op, name)

    def of_one(x):
        return function(*(x if i == at else y for i, y in enumerate(tensors)))

    tangent = draw(*tensors[at].shape).flip(0)
    out, moved = jvp(of_one, (tensors[at],), (tangent,))
    cotangent = draw(*out.shape)
    back = vjp(of_one, tensors[at])[1](cotangent)[0]
    assert moved.abs().max() > 1e-3
    close((moved * cotangent).sum(), (tangent * back).sum())
    close(out, of_one(tensors[at]))


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_forward_mode_in_all_tensors_at_once(op, variant):
    function, tensors = operation(op, variant)
    places = [i for i, x in enumerate(tensors) if x is not None and x.is_floating_point()]

    def of_places(*values):
        operands = dict(zip(places, values))
        return function(*(operands.get(i, x) for i, x in enumerate(tensors)))

    primals = tuple(tensors[i] for i in places)
    tangents = tuple(draw(*x.shape).flip(-1) for x in primals)
    moved = jvp(of_places, primals, tangents)[1]
    step = 1e-5
    ahead, behind = (of_places(*(x + s * t for x, t in zip(primals, tangents))) for s in (step, -step))
    close(moved, (ahead - behind) / (2 * step), 1e-6)


@pytest.mark.parametrize(("op", "variant", "name"), DIFFERENTIABLE)
def test_second_derivatives(op, variant, name):
    function, tensors = operation(op, variant)
    at = index_of(op, name)

    def value(few):
        x = torch.cat([few, tensors[at].flatten()[2:]]).reshape(tensors[at].shape)
        return function(*(x if i == at else y for i, y in enumerate(tensors))).sin().sum()

    few = tensors[at].flatten()[:2]
    leaf = few.clone().requires_grad_()
    first = torch.autograd.grad(value(leaf), leaf, create_graph=True)[0]
    want = torch.stack([torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in first])
    for found in (hessian(value)(few), jacrev(jacrev(value))(few), jacrev(jacfwd(value))(few)):
        close(found, want)


@pytest.mark.parametrize(
    ("op", "variant"), [pytest.param("group_conv2d", "shared"), pytest.param("point_conv", "dense")]
)
def test_autocast(op, variant):
    function, tensors = operation(op, variant)
    tensors = [x.float() if x is not None and x.is_floating_point() else x for x in tensors]
    signals = several(tensors[0])

    def value(x, weight):
        operands = [x, *tensors[1:]]
        operands[index_of(op, "weight")] = weight
        out = function(*operands)
        assert out.dtype == torch.bfloat16
        return out.float().sin().sum()

    weight = tensors[index_of(op, "weight")]
    with torch.autocast("cpu", torch.bfloat16):
        found = vmap(grad(value, argnums=(0, 1)), (0, None))(signals, weight)
        for i, x in enumerate(signals):
            leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
            want = torch.autograd.grad(value(*leaves), leaves)
            for a, b in zip(found, want):
                assert a.dtype == torch.float32
                torch.testing.assert_close(a[i], b, rtol=2e-2, atol=2e-2 * b.abs().max().item())


def calls(layer):
    """The function of parameters and the first input, and both."""
    inputs = layer_inputs(layer)
    module = LAYERS[layer]().double().eval()
    samples = torch.utils._pytree.tree_map(lambda x: x.double(), inputs[1:])
    state = {name: x.detach() for name, x in module.named_parameters()}

    def value(state, x):
        results = torch.utils._pytree.tree_leaves(functional_call(module, state, (x, *samples)))
        return sum(result.square().sum() for result in results)

    return value, state, inputs[0].double()


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_for_each_example_of_layers(layer):
    torch.manual_seed(0)
    value, state, x = calls(layer)
    images = several(x)
    found = vmap(grad(value, argnums=(0, 1)), (None, 0), randomness="same")(state, images)
    for number, image in enumerate(images):
        leaves = {name: p.clone().requires_grad_() for name, p in state.items()}
        own = image.clone().requires_grad_()
        value(leaves, own).backward()
        close(found[1][number], own.grad, 1e-8)
        for name, p in leaves.items():
            want = torch.zeros_like(p) if p.grad is None else p.grad
            close(found[0][name][number], want, 1e-8)


@pytest.mark.parametrize("name", ["SE(2)", "E(2)"])
def test_gradients_of_a_partial_network_for_each_example(name):
    torch.manual_seed(0)
    network = pgconv.models.CKResNet(
        1, 3, group=name, num_samples=4, width=4, kernel_size=3, partial=True, norm="layer"
    )
    network = network.double().train()
    state = {key: p.detach() for key, p in network.named_parameters()}
    images, labels = draw(MANY, 1, 12, 12), torch.arange(MANY) % 3

    def loss(state, image, label):
        torch.manual_seed(1)
        logits = functional_call(network, state, (image[None],))
        return torch.nn.functional.cross_entropy(logits, label[None])

    found = vmap(grad(loss), (None, 0, 0), randomness="same")(state, images, labels)
    for number in range(MANY):
        leaves = {key: p.clone().requires_grad_() for key, p in state.items()}
        own = torch.autograd.grad(
            loss(leaves, images[number], labels[number]), list(leaves.values()), allow_unused=True
        )
        for x, want in zip(found.values(), own, strict=True):
            close(x[number], torch.zeros_like(x[number]) if want is None else want, 1e-8)


def test_an_ensemble_is_one_call():
    torch.manual_seed(0)
    several_models = [LAYERS["LiftingConv2d"]().eval() for _ in range(MANY)]
    state = stack_module_state(several_models)
    image = draw(2, 2, 6, 6).float()
    found = vmap(lambda p, b: functional_call(several_models[0], (p, b), (image,))[0])(*state)
    close(found, torch.stack([model(image)[0] for model in several_models]), 1e-6)


def test_elements_that_were_expanded_have_gradients_of_their_own():
    f, net = several(draw(2, 3, 2, 5, 5)), pgconv.kernel_nets.SIREN(3, hidden=4).double()
    v, weight = pgconv.groups.get("SE(2)").grid(2, dtype=torch.float64)[None], draw(2, 3, 4)

    def value(u):
        def of_one(f, u):
            return pgconv.functional.group_conv2d(f, v, u, net, weight, group="SE(2)", kernel_size=3)

        return vmap(of_one)(f, u).sin().sum()

    found = grad(value)(v.expand(MANY, 2, -1, -1))
    close(found, grad(value)(v.repeat(MANY, 2, 1, 1)))
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3
