"""``torch.func``: every operator and layer under its transforms, against autograd and one call after the other, in float64."""

import pytest
import torch
from contract import INPUTS, LAYERS, draw, layer_inputs
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import pgconv
from pgconv.models import _remade
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


def of_floating(op, variant):
    """An operator as a function of its floating tensors, these, and tangents."""
    function, tensors = operation(op, variant)
    places = [i for i, x in enumerate(tensors) if x is not None and x.is_floating_point()]

    def of_places(*values):
        operands = dict(zip(places, values))
        return function(*(operands.get(i, x) for i, x in enumerate(tensors)))

    primals = tuple(tensors[i] for i in places)
    return of_places, primals, tuple(draw(*x.shape).flip(-1) for x in primals)


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_forward_mode_in_all_tensors_at_once(op, variant):
    function, primals, tangents = of_floating(op, variant)
    moved = jvp(function, primals, tangents)[1]
    step = 1e-5
    ahead, behind = (function(*(x + s * t for x, t in zip(primals, tangents))) for s in (step, -step))
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


@pytest.mark.parametrize("k", [2, 3])
def test_forward_mode_of_max_pooling_is_the_adjoint_of_reverse_mode(k):
    """Of equal values, too; whether anything asks for reverse mode or not."""
    pool = pgconv.nn.GroupMaxPool2d(k)
    x = torch.randint(0, 3, (2, 2, 1, 7, 6), generator=torch.Generator().manual_seed(0)).double()
    tangents = several(draw(*x.shape))
    y, back = vjp(pool, x)
    cotangent = draw(*y.shape)
    want = (tangents * back(cotangent)[0]).sum((1, 2, 3, 4, 5))

    def along(tangent):
        return (jvp(pool, (x,), (tangent,))[1] * cotangent).sum()

    close(vmap(along)(tangents), want)
    for of_examples in (pool, vmap(lambda one: pool(one[None])[0])):
        out, moved = jvp(of_examples, (x,), (tangents[0],))
        close(out, y)
        close((moved * cotangent).sum(), want[0])
    close(jacfwd(pool)(x), jacrev(pool)(x))


@pytest.mark.parametrize("k", [2, 3])
def test_second_derivatives_through_max_pooling(k):
    pool, x = pgconv.nn.GroupMaxPool2d(k), draw(1, 1, 2, 6, 6)

    def value(x):
        return pool(x.sin()).pow(3).sum()

    leaf = x.clone().requires_grad_()
    first = torch.autograd.grad(value(leaf), leaf, create_graph=True)[0]
    want = torch.stack([torch.autograd.grad(g, leaf, retain_graph=True)[0].flatten() for g in first.flatten()])
    for found in (hessian(value), jacfwd(jacfwd(value)), jacrev(jacfwd(value)), jacrev(jacrev(value))):
        close(found(x).reshape(want.shape), want)


@pytest.mark.parametrize("reverse", [True, False], ids=["both-modes", "forward-mode"])
def test_forward_mode_of_norm_and_pooling_in_networks(reverse, monkeypatch):
    """Where they are one function, too."""
    monkeypatch.setattr(_remade, "SMALL", 0)
    torch.manual_seed(0)
    norm, pool = pgconv.nn.GroupBatchNorm2d(2).double().requires_grad_(reverse), pgconv.nn.GroupMaxPool2d(2)
    x, tangent = draw(2, 2, 2, 4, 4), draw(2, 2, 2, 4, 4).flip(-1)

    def of(x):
        with _remade.remade_relu(norm, x, None, pool) as maps:
            return maps.sin()

    with forward_ad.dual_level():
        out, moved = forward_ad.unpack_dual(of(forward_ad.make_dual(x, tangent)))
    step = 1e-6
    close(moved, (of(x + step * tangent) - of(x - step * tangent)) / (2 * step), 1e-6)
    close(out, of(x))


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


def dual(function, primals, tangents):
    """Results and their tangents by dual numbers outside ``torch.func``."""
    with forward_ad.dual_level():
        out = function(*(forward_ad.make_dual(x, t) for x, t in zip(primals, tangents)))
        return forward_ad.unpack_dual(out)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward-mode", "both-modes"])
@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_dual_numbers_have_the_tangents_of_jvp(op, variant, reverse):
    function, primals, tangents = of_floating(op, variant)
    out, moved = jvp(function, primals, tangents)
    leaves = [x.clone().requires_grad_(reverse) for x in primals]
    found, tangent = dual(function, leaves, tangents)
    close(found, out)
    close(tangent, moved)
    if not reverse:
        return
    cotangent = draw(*out.shape)
    want = vjp(lambda *x: jvp(function, x, tangents)[1], *primals)[1](cotangent)
    close(torch.autograd.grad(tangent, leaves, cotangent, materialize_grads=True), want)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward-mode", "both-modes"])
@pytest.mark.parametrize(("op", "variant", "name"), DIFFERENTIABLE)
def test_dual_numbers_of_one_tensor(op, variant, name, reverse):
    function, tensors = operation(op, variant)
    at = index_of(op, name)
    tangent = draw(*tensors[at].shape).flip(0)
    operands = [x.clone().requires_grad_(reverse) if x is not None and x.is_floating_point() else x for x in tensors]

    def of_one(x):
        return function(*(x if i == at else y for i, y in enumerate(operands)))

    close(dual(of_one, (operands[at],), (tangent,)).tangent, jvp(of_one, (tensors[at],), (tangent,))[1])


@pytest.mark.parametrize("where", ["operands", "cotangent"])
@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_dual_numbers_over_gradients(op, variant, where):
    """Gradients of dual operands, and of plain ones with a dual gradient of the result; differentiated further, too."""
    function, primals, tangents = of_floating(op, variant)
    weights = draw(*function(*primals).shape)

    def moved(*operands):
        def gradients(weights, *operands):
            return vjp(function, *operands)[1](weights)

        if where == "cotangent":
            return gradients(weights.cos(), *operands)
        return jvp(lambda *x: gradients(weights, *x), operands, tangents)[1]

    def size(tensors):
        return sum(x.square().sum() for x in tensors)

    want = moved(*primals), grad(lambda x: size(moved(*x)))(primals)
    leaves = tuple(x.clone().requires_grad_() for x in primals)
    with forward_ad.dual_level():
        duals = leaves, forward_ad.make_dual(weights, weights.cos())
        if where == "operands":
            duals = [forward_ad.make_dual(x, t) for x, t in zip(leaves, tangents)], weights
        first = torch.autograd.grad(function(*duals[0]), leaves, duals[1], create_graph=True)
        found = tuple(forward_ad.unpack_dual(g).tangent for g in first)
    close(found, want[0])
    close(torch.autograd.grad(size(found), leaves, materialize_grads=True), want[1])


@pytest.mark.parametrize("op", INPUTS)
def test_functions_are_transformed_among_dual_numbers(op):
    function, primals, tangents = of_floating(op, next(iter(INPUTS[op])))

    def derivative(*x):
        return grad(lambda *x: function(*x).sin().sum())(*x)

    close(dual(derivative, primals, tangents).tangent, jvp(derivative, primals, tangents)[1])

    def mapped(x, *others):
        return vmap(lambda x: function(x, *others))(torch.stack([x, x.sin()]))

    close(dual(mapped, primals, tangents).tangent, jvp(mapped, primals, tangents)[1])


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_jacobians_in_forward_mode(op, variant):
    function, primals, _ = of_floating(op, variant)

    def of_one(x):
        return function(x, *primals[1:])

    jacobian = torch.autograd.functional.jacobian
    close(jacobian(of_one, primals[0], vectorize=True, strategy="forward-mode"), jacobian(of_one, primals[0]))


@pytest.mark.parametrize("op", INPUTS)
def test_operators_called_by_themselves_refuse_dual_numbers(op):
    family, (tensors, statics) = FAMILIES[op], INPUTS[op][next(iter(INPUTS[op]))]
    out = family.forward_op(*tensors, *statics, "auto:auto")
    needs = [x is not None for x in tensors[: family.differentiable]]
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(tensors[0], tensors[0].cos())
        with pytest.raises(NotImplementedError, match=f"pgconv.ops.{op}"):
            family.forward_op(moving, *tensors[1:], *statics, "auto:auto")
        with pytest.raises(NotImplementedError, match=f"pgconv.ops.{op}"):
            family.backward_op(forward_ad.make_dual(out, out), *tensors, *statics, "auto:auto", needs)


@pytest.mark.parametrize("trained", [False, True], ids=["constants", "parameters"])
@pytest.mark.parametrize("layer", LAYERS)
def test_dual_numbers_in_layers(layer, trained):
    torch.manual_seed(0)
    inputs = torch.utils._pytree.tree_map(lambda x: x.double(), layer_inputs(layer))
    module = LAYERS[layer]().double().eval().requires_grad_(trained)

    def value(x):
        return sum(out.sin().sum() for out in torch.utils._pytree.tree_leaves(module(x, *inputs[1:])))

    tangent = draw(*inputs[0].shape).flip(-1)
    close(dual(value, inputs[:1], (tangent,)).tangent, jvp(value, inputs[:1], (tangent,))[1])


@pytest.mark.parametrize("trained", [False, True], ids=["constants", "parameters"])
def test_dual_numbers_where_features_come_from_pytorch(trained):
    """Which takes them piece by piece elsewhere."""
    torch.manual_seed(0)
    group = pgconv.groups.get("SE(2)")
    net = pgconv.kernel_nets.MAGNet(group.coord_dim, hidden=4).double().requires_grad_(trained)
    elements = group.sample(6, generator=torch.Generator().manual_seed(0)).double()[None]
    weight, f = draw(2, 3, 4), draw(2, 6, 3)

    def value(f, elements):
        return pgconv.functional.point_conv(f, elements, elements, net, weight, group=group)

    moving = (f, elements), (f.cos(), elements.cos())
    close(dual(value, *moving).tangent, jvp(value, *moving)[1])


def test_dual_numbers_under_autocast():
    function, tensors = operation("point_conv", "dense")
    tensors = [x.float() if x is not None and x.is_floating_point() else x for x in tensors]

    def of_signal(f):
        return function(f, *tensors[1:])

    with torch.autocast("cpu", torch.bfloat16):
        found, moved = dual(of_signal, tensors[:1], (tensors[0].cos(),))
        assert found.dtype == moved.dtype == torch.bfloat16
    want = of_signal(tensors[0].cos())
    torch.testing.assert_close(moved.float(), want, rtol=2e-2, atol=2e-2 * want.abs().max().item())


@pytest.mark.parametrize("way", ["jvp", "dual"])
@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_forward_mode_in_compiled_code(op, variant, way, fresh_compiler):
    function, primals, tangents = of_floating(op, variant)
    want = jvp(function, primals, tangents)

    def moved(primals, tangents):
        return jvp(function, primals, tangents) if way == "jvp" else tuple(dual(function, primals, tangents))

    # Runs are written out, as long as they are: the compiler leaves that to Python.
    close(torch.compile(moved, backend="aot_eager", fullgraph=variant != "runs")(primals, tangents), want)


def partial_layer(theta):
    """A layer with a learned range of that half-width, as a function of parameters, and these."""
    torch.manual_seed(0)
    layer = pgconv.nn.GroupConv2d(3, 4, 3, group="SE(2)", num_samples=4, hidden=4, partial=True).double().eval()
    layer.sampler.theta.data.fill_(theta)
    samples, x = pgconv.sampling.get("fixed", layer.group, 4, dtype=torch.float64)(), draw(2, 3, 4, 6, 6)
    state = {name: p.detach() for name, p in layer.named_parameters()}
    return lambda state: functional_call(layer, state, (x, samples))[0], state


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("theta", [0.6, 1.0, 1.25, -0.25])
def test_second_derivatives_by_a_learned_range(theta, sign):
    """Beyond the bounds those at the bound, where the gradient leads back; where it would lead further out, both are zero."""
    layer, state = partial_layer(theta)
    own, weights = state["sampler.theta"], draw(*layer(state).shape)

    def loss(theta):
        return sign * (layer(state | {"sampler.theta": theta}).sin() * weights).sum()

    inside = own.clamp(0, 1).requires_grad_()
    (first,) = torch.autograd.grad(loss(inside), inside, create_graph=True)
    want = torch.autograd.grad(first, inside)[0]
    if (own - inside) * first < 0:
        first, want = torch.zeros(2, 1, dtype=torch.float64)
    close(grad(loss)(own), first.detach())
    close(hessian(loss)(own)[0], want)
    leaf = own.clone().requires_grad_()
    with forward_ad.dual_level():
        value = loss(forward_ad.make_dual(leaf, torch.ones_like(leaf)))
        moved = forward_ad.unpack_dual(torch.autograd.grad(value, leaf, create_graph=True)[0]).tangent
    close(moved.detach(), want)


@pytest.mark.parametrize("theta", [0.6, 1.0])
def test_forward_mode_in_all_parameters_of_a_layer_with_a_learned_range(theta):
    layer, state = partial_layer(theta)
    tangents = {name: draw(*p.shape).flip(-1) for name, p in state.items()}
    out, moved = jvp(layer, (state,), (tangents,))
    cotangent = draw(*out.shape)
    (back,) = vjp(layer, state)[1](cotangent)
    assert all(x.abs().max() > 0 for x in back.values())
    close((moved * cotangent).sum(), sum((back[name] * t).sum() for name, t in tangents.items()))
    close(dual(lambda *x: layer(dict(zip(state, x))), state.values(), tangents.values()).tangent, moved)
    along = jacfwd(lambda theta: layer(state | {"sampler.theta": theta}))(state["sampler.theta"])
    close((along[..., 0] * cotangent).sum(), back["sampler.theta"][0])
