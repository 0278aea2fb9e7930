"""SAGAN once more, in plain NumPy: slow, float64, and nothing shared with `sagan`.

Written from the official code (brain-research/self-attention-gan; `file:line` below
points there), not from this package, so that an error has to be made twice to pass.

Parameters, power-iteration vectors and moving averages are nested dicts with the names
of the Flax networks; which layers exist, and how wide they are, is read off the dict.

Derivatives come from complex steps: dL/dp = Im L(p + ih) / h, exact to rounding because
h = 1e-30 needs no subtraction. So every function here is analytic in its arguments: no
abs, no conjugate, and maxima pick by the real part. Source: Squire and Trapp 1998.
"""

import dataclasses

import numpy as np

STEP = 1e-30


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The numbers of one experiment; the defaults are the official ones."""

    halvings: int  # blocks of D that halve the resolution
    bn_group: int = 64  # train_imagenet.py:42: one tower's; 0: the whole batch
    bn_momentum: float = 0.999  # ops.py:305
    bn_momentum_out: float = 0.9999  # ops.py:362
    bn_eps: float = 1e-5
    sn_eps: float = 1e-12  # ops.py:120
    sn_detach: bool = False
    g_lr: float = 1e-4
    d_lr: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.999)
    adam_eps: float = 1e-8
    # what others do otherwise; recipe.md has the lines
    sn_clamp: bool = False  # torch.nn.functional.normalize
    rectified_shortcut: bool = False  # StudioGAN resnet.py:234-247
    bn_unbiased: bool = False  # torch.nn.BatchNorm2d
    apart: bool = False  # D(real), then D(fake), each of which moves u
    g_step_moves_d: bool = False
    d_step_moves_averages: bool = True  # StudioGAN worker.py:225: not
    parts: int = 1  # micro-batches, one after another; BigGAN-PyTorch


def leaves(tree, path=()):
    """Every (path, leaf) of a nested dict, by name."""
    for name in sorted(tree):
        if isinstance(tree[name], dict):
            yield from leaves(tree[name], (*path, name))
        else:
            yield (*path, name), tree[name]


def get(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def tree_map(function, *trees):
    return {
        name: tree_map(function, *(tree[name] for tree in trees))
        if isinstance(trees[0][name], dict)
        else function(*(tree[name] for tree in trees))
        for name in trees[0]
    }


def slope(loss, params, direction):
    """The derivative of loss(params) along `direction`."""
    moved = tree_map(lambda p, d: p + 1j * STEP * d, params, direction)
    return loss(moved).imag / STEP


def gradient(loss, params):
    """All partial derivatives of loss(params): one evaluation for each number."""
    grads = tree_map(lambda p: np.zeros(np.shape(p)), params)
    for path, grad in leaves(grads):
        moved = tree_map(np.asarray, params)  # new dicts, the same arrays
        leaf = np.array(get(params, path), np.complex128)
        get(moved, path[:-1])[path[-1]] = leaf
        for index in np.ndindex(grad.shape):
            leaf[index] += 1j * STEP
            grad[index] = loss(moved).imag / STEP
            leaf[index] = leaf[index].real
    return grads


def relu(x):
    return np.where(x.real > 0, x, 0)


def softmax(x):
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def conv(x, layer):
    """Cross-correlation, stride 1, zeros around: TF's SAME for odd kernels."""
    kernel = layer["kernel"]
    n, height, width, c = x.shape
    margin = kernel.shape[0] // 2
    padded = np.zeros((n, height + 2 * margin, width + 2 * margin, c), x.dtype)
    padded[:, margin : margin + height, margin : margin + width] = x
    y = layer.get("bias", 0)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            y = y + padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return y


def upsample(x):
    """Nearest neighbour, twice the size; generator.py:43-46."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def _windows(x):
    n, height, width, c = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // 2, width // 2, 4, c)


def average_pool(x):
    return _windows(x).mean(axis=3)


def max_pool(x):
    windows = _windows(x)
    largest = windows.real.argmax(axis=3)[:, :, :, None]
    return np.take_along_axis(windows, largest, axis=3)[:, :, :, 0]


def l2_normalize(x, eps, clamp=False):
    norm = np.sqrt((x * x).sum())
    if clamp:
        return x / (norm if norm.real > eps else eps)
    return x / (norm + eps)


def spectral_norm(kernel, u, recipe):
    """(kernel / sigma, {"u", "sigma"}) after one power iteration; ops.py:120-175.

    The derivative flows through u and v as functions of the kernel, as in the official
    code; with `sn_detach` they count as constants, as in most others.
    """
    w = kernel.reshape(-1, kernel.shape[-1])
    of = w.real if recipe.sn_detach else w
    v = l2_normalize(u @ of.T, recipe.sn_eps, recipe.sn_clamp)
    u = l2_normalize(v @ of, recipe.sn_eps, recipe.sn_clamp)
    sigma = (v @ w @ u.T)[0, 0]
    return kernel / sigma, {"u": u, "sigma": sigma}


def normalize(params, spectral, recipe):
    """Normalises every convolution, linear layer and embedding, and nothing else.

    The class tables of batch norm, biases and gamma stay as they are. The label
    embedding is transposed first, so its u is [1, classes]; ops.py:258-262.
    """
    weights, moved = {}, {}
    for name, leaf in params.items():
        weights[name] = leaf
        if isinstance(leaf, dict):
            weights[name], stats = normalize(leaf, spectral.get(name, {}), recipe)
            moved.update({name: stats} if stats else {})
        elif name in ("kernel", "embedding"):
            turn = np.transpose if name == "embedding" else np.asarray
            kernel, stats = spectral_norm(turn(leaf), spectral["u"], recipe)
            weights[name] = turn(kernel)
            moved.update(stats)
    return weights, moved


def batch_norm(x, layer, stats, labels, *, train, momentum, recipe):
    """(normalised x, moving averages); ops.py:304-376. 2-D tables: conditional.

    In training, each `bn_group` images in a row are normalised with their own mean and
    biased variance, and the averages see the mean of both over the groups.
    """
    n, height, width, c = x.shape
    if train:
        groups = x.reshape(-1, recipe.bn_group or n, height, width, c)
        mean = groups.mean(axis=(1, 2, 3))
        centred = groups - mean[:, None, None, None]
        var = (centred * centred).mean(axis=(1, 2, 3))
        normal = centred / np.sqrt(var + recipe.bn_eps)[:, None, None, None]
        normal = normal.reshape(x.shape)
        now = {"mean": mean.mean(axis=0), "var": var.mean(axis=0)}
        if recipe.bn_unbiased:
            numbers = groups[0].size // c
            now["var"] = now["var"] * numbers / (numbers - 1)
        stats = tree_map(lambda a, b: momentum * a + (1 - momentum) * b, stats, now)
    else:
        normal = (x - stats["mean"]) / np.sqrt(stats["var"] + recipe.bn_eps)
    scale, bias = layer["scale"], layer["bias"]
    if isinstance(scale, dict):  # StudioGAN's variant, utils/ops.py:21-28
        (scale,), (bias,) = scale.values(), bias.values()
        scale = 1 + scale
    if scale.ndim == 2:
        scale, bias = scale[labels][:, None, None], bias[labels][:, None, None]
    return normal * scale + bias, stats


def attention(x, layers):
    """gamma * v(sum_i beta_ji h_i) + x; non_local.py:48-81.

    In the paper's names: g queries, f keys, h values. Keys and values are max-pooled,
    there is no 1/sqrt(d), and beta sums to one over the keys.
    """
    n, height, width, _ = x.shape
    g = conv(x, layers["g"]).reshape(n, height * width, -1)
    f = max_pool(conv(x, layers["f"])).reshape(n, height * width // 4, -1)
    h = max_pool(conv(x, layers["h"])).reshape(n, height * width // 4, -1)
    beta = softmax(g @ f.transpose(0, 2, 1))
    o = (beta @ h).reshape(n, height, width, -1)
    return layers["gamma"] * conv(o, layers["v"]) + x


def generator(params, stats, z, labels, *, train, recipe):
    """(images, stats) of G; generator.py:78-92 and 179-219.

    `stats` holds `batch_stats` and `spectral`; u moves in evaluation too.
    """
    w, spectral = normalize(params, stats["spectral"], recipe)
    old, new = stats["batch_stats"], {}
    n, channels = len(z), w["block1"]["conv1"]["kernel"].shape[2]
    x = z @ w["stem"]["kernel"] + w["stem"]["bias"]
    base = round((x.shape[1] / channels) ** 0.5)
    x = x.reshape(n, base, base, channels)
    keep = {"train": train, "momentum": recipe.bn_momentum, "recipe": recipe}
    for i in range(1, sum(name.startswith("block") for name in w) + 1):
        layers, averages = w[f"block{i}"], old[f"block{i}"]
        y, bn1 = batch_norm(x, layers["bn1"], averages["bn1"], labels, **keep)
        y = conv(upsample(relu(y)), layers["conv1"])
        y, bn2 = batch_norm(y, layers["bn2"], averages["bn2"], labels, **keep)
        y = conv(relu(y), layers["conv2"])
        x = y + conv(upsample(x), layers["shortcut"])
        new[f"block{i}"] = {"bn1": bn1, "bn2": bn2}
        slot = f"attention{x.shape[1]}"
        x = attention(x, w[slot]) if slot in w else x
    keep["momentum"] = recipe.bn_momentum_out
    x, new["bn_out"] = batch_norm(x, w["bn_out"], old["bn_out"], labels, **keep)
    x = np.tanh(conv(relu(x), w["out"]))
    return x, {"batch_stats": new, "spectral": spectral}


def discriminator(params, stats, x, labels, *, recipe):
    """(logits, stats) of D; discriminator.py:46-93 and 170-206."""
    w, spectral = normalize(params, stats["spectral"], recipe)
    for i in range(1, sum(name.startswith("block") for name in w) + 1):
        layers, first, halve = w[f"block{i}"], i == 1, i <= recipe.halvings
        y = conv(x if first else relu(x), layers["conv1"])
        x = relu(x) if recipe.rectified_shortcut and not first else x
        y = conv(relu(y), layers["conv2"])
        y = average_pool(y) if halve else y
        if first:  # pools, then convolves; the others the other way round
            x = conv(average_pool(x), layers["shortcut"])
        elif halve or layers["conv1"]["kernel"].shape[2] != y.shape[3]:
            x = conv(x, layers["shortcut"])
            x = average_pool(x) if halve else x
        x = x + y
        slot = f"attention{x.shape[1]}"
        x = attention(x, w[slot]) if slot in w and halve else x
    h = relu(x).sum(axis=(1, 2))
    logits = (h @ w["logit"]["kernel"] + w["logit"]["bias"])[:, 0]
    if "embed" in w:
        logits = logits + (h * w["embed"]["embedding"][labels]).sum(axis=1)
    return logits, {"spectral": spectral}


def hinge_d(real, fake):
    return relu(1 - real).mean() + relu(1 + fake).mean()


def hinge_g(fake):
    return -fake.mean()


def adam(player, grads, lr, recipe):
    """The player after one bias-corrected step of Kingma and Ba 2015, algorithm 1."""
    b1, b2 = recipe.betas
    t = player["count"] + 1
    mu = tree_map(lambda m, g: b1 * m + (1 - b1) * g, player["mu"], grads)
    nu = tree_map(lambda v, g: b2 * v + (1 - b2) * g * g, player["nu"], grads)

    def move(p, m, v):
        m, v = m / (1 - b1**t), v / (1 - b2**t)
        return p - lr * m / (np.sqrt(v) + recipe.adam_eps)

    params = tree_map(move, player["params"], mu, nu)
    return {**player, "params": params, "mu": mu, "nu": nu, "count": t}


def d_step(g, d, x, y, z, fake_y, recipe):
    """(g, d, logits of x, of fakes): D's weights and u move once, G's stats once.

    Source: model.py:63-73 (hinge), 272-275 (u moves on the real pass alone).
    """
    g_stats, d_stats, found = g["stats"], d["stats"], []
    for part in np.split(np.arange(len(x)), recipe.parts):
        averages = g_stats["batch_stats"]
        fake, g_stats = generator(
            g["params"], g_stats, z[part], fake_y[part], train=True, recipe=recipe
        )
        if not recipe.d_step_moves_averages:
            g_stats = {**g_stats, "batch_stats": averages}

        def logits(params, part=part, fake=fake, start=d_stats):
            real, stats = discriminator(params, start, x[part], y[part], recipe=recipe)
            if not recipe.apart:  # both passes start at the stored u: the same sigma
                second = start
            else:
                second = {
                    "spectral": tree_map(
                        lambda leaf: leaf.real if recipe.sn_detach else leaf,
                        stats["spectral"],
                    )
                }
            of_fake, later = discriminator(
                params, second, fake, fake_y[part], recipe=recipe
            )
            return real, of_fake, later if recipe.apart else stats

        grads = gradient(lambda p, logits=logits: hinge_d(*logits(p)[:2]), d["params"])
        real, of_fake, d_stats = logits(d["params"])
        found.append((grads, real, of_fake))
    grads = tree_map(lambda *parts: np.mean(parts, axis=0), *(f[0] for f in found))
    d = {**adam(d, grads, recipe.d_lr, recipe), "stats": d_stats}
    both = (np.concatenate(logits) for logits in list(zip(*found, strict=True))[1:])
    return {**g, "stats": g_stats}, d, *both


def g_step(g, d, z, fake_y, recipe):
    """(g, d, logits of fakes): G's weights and stats move, of D at most u."""
    g_stats, d_stats, found = g["stats"], d["stats"], []
    for part in np.split(np.arange(len(z)), recipe.parts):

        def logits(params, part=part, g_start=g_stats, d_start=d_stats):
            fake, stats = generator(
                params, g_start, z[part], fake_y[part], train=True, recipe=recipe
            )
            fake_logits, moved = discriminator(
                d["params"], d_start, fake, fake_y[part], recipe=recipe
            )
            return fake_logits, stats, moved if recipe.g_step_moves_d else d_start

        grads = gradient(lambda p, logits=logits: hinge_g(logits(p)[0]), g["params"])
        fake_logits, g_stats, d_stats = logits(g["params"])
        found.append((grads, fake_logits))
    grads = tree_map(lambda *parts: np.mean(parts, axis=0), *(f[0] for f in found))
    g = {**adam(g, grads, recipe.g_lr, recipe), "stats": g_stats}
    return g, {**d, "stats": d_stats}, np.concatenate([f[1] for f in found])
