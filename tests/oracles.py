"""The formulas of group convolution as nested loops over float64 numbers, written from the definitions.

Nothing here uses pgconv: group elements become homogeneous matrices, so the group law is the matrix product, and kernel
nets are evaluated from the parameters of the module. ``evaluate(call)`` takes a ``cases.Call`` and returns numpy.
"""

import math

import numpy as np
from scipy.linalg import logm
from scipy.spatial.transform import Rotation

# Translation dimension, then what the rest of an element holds: (a)ngle, (m)irror, log (s)cale, (q)uaternion, and for the
# tests' own groups a shear (k) or the three numbers of an upper triangular matrix (h).
LAYOUT = {
    "T(1)": (1, ""),
    "T(2)": (2, ""),
    "T(3)": (3, ""),
    "M(2)": (2, "m"),
    "SO(2)": (0, "a"),
    "O(2)": (0, "am"),
    "SE(2)": (2, "a"),
    "E(2)": (2, "am"),
    "SO(3)": (0, "q"),
    "SE(3)": (3, "q"),
    "R+xSO(2)": (0, "as"),
    "Sim(2)": (2, "as"),
    "Shear(2)": (2, "k"),
    "Heisenberg": (0, "h"),
}


def homogeneous(group, element, unit=1.0):
    """Matrix of the affine map an element is; translations are divided by ``unit``."""
    d, rest = LAYOUT[group]
    if rest == "h":
        p, q, r = element
        return np.array([[1, p, r], [0, 1, q], [0, 0, 1.0]])
    numbers = element[d:]
    size = 3 if "q" in rest else max(d, 2) if rest else d
    out = np.eye(size + 1)
    linear = out[:size, :size]
    for code, value in zip(rest, [numbers] if rest == "q" else numbers):
        if code == "q":
            w, x, y, z = value
            linear[:] = Rotation.from_quat([x, y, z, w]).as_matrix()
        elif code == "a":
            linear[:] = [[math.cos(value), -math.sin(value)], [math.sin(value), math.cos(value)]]
        elif code == "m":
            linear[:] = linear @ np.diag([1, value])
        elif code == "s":
            linear[:] = linear * math.exp(value)
        elif code == "k":
            linear[:] = [[1, value], [0, 1]]
    out[:d, size] = np.asarray(element[:d]) / unit
    return out


def relative(a, b):
    """``a^-1 b`` of homogeneous matrices."""
    return np.linalg.solve(a, b)


def coordinates(group, matrix, chart, part="all"):
    """Numbers a kernel net reads at the group element with this matrix."""
    d, rest = LAYOUT[group]
    if rest == "h":
        return np.array([matrix[0, 1], matrix[1, 2], matrix[0, 2]])
    size = matrix.shape[0] - 1
    linear, t = matrix[:size, :size], matrix[:d, size]
    if chart == "release" and d:
        t = np.array([-t[1], t[0]])
    if chart == "lie" and part == "all" and d and rest:
        plain = matrix @ np.diag([1, np.linalg.det(linear), 1]) if "m" in rest else matrix
        t = np.real(logm(plain))[:d, size]
    pieces = [] if part == "stabilizer" else [t]
    if part != "translation":
        pieces += [_stabilizer_number(code, linear, rest, chart) for code in rest]
    return np.concatenate([np.atleast_1d(p) for p in pieces]) if pieces else np.zeros(0)


def _stabilizer_number(code, linear, rest, chart):
    if code == "m":
        return np.linalg.det(linear)
    if code == "s":
        return 0.5 * math.log(np.linalg.det(linear))
    if code == "k":
        return linear[0, 1]
    if code == "q":
        if chart == "embed":
            return linear.reshape(9)
        vector = Rotation.from_matrix(linear).as_rotvec()
        return vector / math.pi if chart == "product" else vector
    cos, sin = linear[:, 0] / math.hypot(*linear[:, 0])
    if chart == "embed":
        return np.array([cos, sin])
    if chart == "release":
        return _release_angle(linear)
    angle = math.atan2(sin, cos)
    angle = angle + 2 * math.pi if angle <= -math.pi + 1e-5 else angle
    return angle / math.pi if chart == "product" else angle


def _release_angle(linear):
    """The map on (row, col) = (-y, x) is diag(1, m) R(a), R(a) = [[cos a, sin a], [-sin a, cos a]]: a from its first row."""
    to_row_col = np.array([[0, -1], [1, 0]])
    matrix = to_row_col @ linear @ to_row_col.T
    angle = math.atan2(matrix[0, 1], matrix[0, 0])
    # Equal elements sit exactly on the jump; rounding of the matrix product must not choose the side.
    return (0.0 if abs(angle) < 1e-12 else angle % (2 * math.pi)) / math.pi - 1


_ACTIVATIONS = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "tanh": math.tanh,
}


def features(net, z):
    """phi(z) from the parameters of a kernel net module."""
    p = {name: value.detach().double().numpy() for name, value in net.state_dict().items()}
    if any(name.startswith("filters.") for name in p):
        return _multiplicative(p, z, net.layers)
    h = np.asarray(z, dtype=float)
    for i in range(net.layers - 1):
        h = p[f"weights.{i}"] @ h + p[f"biases.{i}"]
        h = np.sin(p["omega0"] * h) if "omega0" in p else np.array([_ACTIVATIONS[net.activation](x) for x in h])
    return h


def _multiplicative(p, z, layers):
    def filter_(i):
        value = np.sin(p[f"filters.{i}.weight"] @ z + p[f"filters.{i}.bias"])
        if f"filters.{i}.gamma" in p:
            window = p[f"filters.{i}.gamma"] * (z - p[f"filters.{i}.mu"])
            value = value * np.exp(-0.5 * (window**2).sum(1))
        return value

    out = filter_(0)
    for i in range(layers):
        out = filter_(i + 1) * (p[f"weights.{i}"] @ out + p[f"biases.{i}"])
    return out


def taps(size, support):
    c = (size - 1) / 2
    offsets = [(row - c, col - c) for row in range(size) for col in range(size)]
    return [(row, col) for row, col in offsets if support == "square" or row**2 + col**2 <= c**2]


def evaluate(call):
    """The call's output, [B, O, Nu, Ho, Wo] or [B, Nu, O]."""
    return _point_conv(call) if call.op == "point_conv" else _image_conv(call)


def _arrays(call):
    t = {name: value.detach().double().numpy() for name, value in call.tensors.items()}
    bias = t.get("weight_bias", np.zeros(t["weight"].shape[:-1]))
    return t, (lambda z: t["weight"] @ features(call.net, z) + bias)


def _row(values, b, default):
    """Entry b of an [S, N] array, S = 1 or B."""
    return default if values is None else values[b if values.shape[0] > 1 else 0]


def _shares(w, reduction):
    total = sum(w) if reduction == "mean" else 1.0
    return [x / total if total else 0.0 for x in w]


def _offset(v, u, form):
    return relative(v, u) if form == "convolution" else relative(u, v)


def _pair(value):
    return value if isinstance(value, tuple) else (value, value)


def _image_conv(call):
    t, psi = _arrays(call)
    o = dict(kernel_size=1, stride=1, padding="same", dilation=1, support="disc", form="convolution", chart="product")
    o |= {"reduction": "mean"} | call.options
    f, group, size = t["f"], o["group"], o["kernel_size"]
    lifting, pointwise = "lifting" in call.op, call.op == "pointwise_group_conv"
    depthwise = call.op.startswith("depthwise")
    f = f[:, :, None] if call.op == "lifting_conv2d" else f
    batch, nu = f.shape[0], t["u"].shape[1]
    sources = range(1 if lifting else f.shape[2])
    stride, dilation = _pair(o["stride"]), _pair(o["dilation"])
    padding = {"valid": (0, 0), "same": tuple(d * (size // 2) for d in dilation)}.get(o["padding"]) or _pair(
        o["padding"]
    )
    extent = [(n + 2 * p - d * (size - 1) - 1) // s + 1 for n, p, d, s in zip(f.shape[3:], padding, dilation, stride)]
    out = np.zeros((batch, t["weight"].shape[0], nu, *extent))
    c = max((size - 1) / 2, 1)
    known = {}

    def kernel(b, i, j, row, col):
        sets = [b if x is not None and x.shape[0] > 1 else 0 for x in (t["u"], t.get("v"))]
        key = (*sets, i, j, row, col)
        if key not in known:
            u = t["u"][sets[0], i]
            v = np.zeros(2) if lifting else t["v"][sets[1], j].copy()
            v[:2] += (col, -row)
            if lifting:
                offset = relative(homogeneous(group, u, c), homogeneous("T(2)", v, c))
            else:
                offset = _offset(homogeneous(group, v, c), homogeneous(group, u, c), o["form"])
            part = "translation" if lifting else "stabilizer" if pointwise else "all"
            known[key] = psi(coordinates(group, offset, o["chart"], part))
        return known[key]

    for b in range(batch):
        shares = [1.0] if lifting else _shares(_row(t.get("sample_weight"), b, np.ones(len(sources))), o["reduction"])
        gates = _row(t.get("out_gate"), b, np.ones(nu))
        for i in range(nu):
            for j in sources:
                for row, col in taps(size, o["support"]):
                    value = gates[i] * shares[j] * kernel(b, i, j, row, col)
                    for y in range(extent[0]):
                        for x in range(extent[1]):
                            at = stride[0] * y - padding[0] + dilation[0] * int(row + size // 2)
                            left = stride[1] * x - padding[1] + dilation[1] * int(col + size // 2)
                            if 0 <= at < f.shape[3] and 0 <= left < f.shape[4]:
                                signal = f[b, :, i if depthwise else j, at, left]
                                out[b, :, i, y, x] += value * signal if depthwise else value @ signal
    return out


def neighbor_list(neighbors, offsets, b, i, nu, nv):
    """Inputs that output i of example b sums over."""
    if offsets is not None:
        inputs, outputs = (x.tolist() for x in offsets)
        example = max(e for e, begin in enumerate(outputs[:-1]) if begin <= i)
        return range(inputs[example], inputs[example + 1])
    if neighbors is None:
        return range(nv)
    if isinstance(neighbors, tuple):
        rowptr, index = (x.tolist() for x in neighbors)
        row = i if len(rowptr) == nu + 1 else b * nu + i
        return index[rowptr[row] : rowptr[row + 1]]
    return [j for j in neighbors[b if neighbors.shape[0] > 1 else 0, i].tolist() if j >= 0]


def _point_conv(call):
    t, psi = _arrays(call)
    o = dict(
        form="convolution", chart="product", reduction="mean", depthwise=False, neighbors=None, offsets=None, mask=None
    )
    o |= call.options
    f, nu = t["f"], t["u"].shape[1]
    group, _, labels = o["group"].partition("/")
    orbits = -int(labels) if labels else None
    out = np.zeros((f.shape[0], nu, t["weight"].shape[0]))
    for b in range(f.shape[0]):
        v, u = (
            [(homogeneous(group, g[:orbits]), g[orbits:] if labels else []) for g in _row(t[k], b, None)] for k in "vu"
        )
        w = np.array(_row(t.get("sample_weight"), b, np.ones(f.shape[1])))
        gates = _row(t.get("out_gate"), b, np.ones(nu))
        if o["mask"] is not None:
            w = np.where(o["mask"][b].numpy(), w, 0.0)
        for i in range(nu):
            listed = list(neighbor_list(o["neighbors"], o["offsets"], b, i, nu, f.shape[1]))
            for j, share in zip(listed, _shares([w[j] for j in listed], o["reduction"])):
                if o["mask"] is None or o["mask"][b, j]:
                    (first, p), (second, q) = (v[j], u[i]) if o["form"] == "convolution" else (u[i], v[j])
                    offset = _offset(first, second, "convolution")
                    value = psi(np.concatenate([coordinates(group, offset, o["chart"]), p, q]))
                    out[b, i] += gates[i] * share * (value * f[b, j] if o["depthwise"] else value @ f[b, j])
    return out
