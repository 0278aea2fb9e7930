import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sagan.conv import conv, conv_downsample, downsample, upsample, upsample_conv
from sagan.runtime import compilation

OPS = [conv, upsample_conv, conv_downsample]


def draw(size, kernel_size, dtype=jnp.float32, channels=3, features=2):
    numbers = np.random.default_rng(size + kernel_size)
    x = numbers.standard_normal((2, size, size + 2, channels))
    kernel = numbers.standard_normal((kernel_size, kernel_size, channels, features))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def assert_equal_to_plain(op, x, kernel, rounding, cpu=True):
    """Compares the outputs, and the gradients of a sum that weighs its terms."""

    @jax.jit
    def run(x, kernel):
        def one(fast):
            y, transpose = jax.vjp(functools.partial(op, fast=fast, cpu=cpu), x, kernel)
            dy = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
            return y, *transpose(dy.astype(y.dtype))

        return one(True), one(False)

    assert_close(*run(x, kernel), rounding)


def by_loops(x, kernel):
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    n, h, w, _ = x.shape
    y = np.zeros((n, h, w, kernel.shape[3]))
    pad = len(kernel) // 2
    for row, column, i, j in np.ndindex(h, w, *kernel.shape[:2]):
        below, right = row + i - pad, column + j - pad
        if 0 <= below < h and 0 <= right < w:
            y[:, row, column] += x[:, below, right] @ kernel[i, j]
    return y


def assert_close(fast, plain, rounding):
    for a, b in zip(fast, plain, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=rounding * np.abs(b).max())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("size", [3, 4, 5, 6, 7, 8, 12, 16, 24, 32])
def test_fast_form_is_equal_in_value_and_gradient(op, size):
    # more than four channels: fewer have a form of their own
    images = draw(size, 3, channels=6, features=5)
    assert_equal_to_plain(op, *images, rounding=3e-6)


@pytest.mark.parametrize("op", [conv, upsample_conv])
def test_fast_form_of_wide_kernels_is_equal_in_value_and_gradient(op):
    images = draw(2, 3, channels=1024, features=1024)
    assert_equal_to_plain(op, *images, rounding=1e-5)  # of sums of 9,216 products


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("size", [5, 12])
def test_fast_1x1_form_is_equal_in_value_and_gradient(op, size):
    assert_equal_to_plain(op, *draw(size, 1), rounding=3e-6)


@pytest.mark.parametrize("op", OPS)
def test_fast_form_of_rgb_is_equal_in_value_and_gradient(op):
    assert_equal_to_plain(op, *draw(12, 3, channels=3), rounding=3e-6)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("size", [7, 8, 9, 11, 16])
def test_fast_form_is_equal_on_accelerators(op, size):
    assert_equal_to_plain(op, *draw(size, 3), rounding=3e-6, cpu=False)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("cpu", [True, False])
def test_fast_form_is_equal_in_bfloat16_to_its_rounding(op, kernel_size, cpu):
    # eight bits: each rounding of a sum is up to 2^-8 = 0.004 of it
    assert_equal_to_plain(
        op, *draw(16, kernel_size, jnp.bfloat16), rounding=0.06, cpu=cpu
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("cpu", [True, False])
def test_upsampling_is_one_transposed_convolution_but_on_the_cpu(dtype, cpu):
    form = functools.partial(upsample_conv, fast=True, cpu=cpu)
    program = str(jax.make_jaxpr(form)(*draw(16, 3, dtype)))
    # the CPU takes 30 times as long for a convolution of dilated images
    assert program.count("lhs_dilation=(2, 2)") == (not cpu)
    assert program.count("conv_general_dilated") == (4 if cpu else 1)


@pytest.mark.parametrize("fast", [False, True])
def test_output_has_the_dtype_of_the_images(fast):
    x, kernel = draw(16, 3, jnp.bfloat16)
    for op in OPS:
        assert (
            op(x, kernel.astype(jnp.float32), fast=fast, cpu=True).dtype == jnp.bfloat16
        )


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_convolution_by_hand(kernel_size):
    x, kernel = draw(4, kernel_size)
    y = by_loops(x, kernel)
    np.testing.assert_allclose(conv(x, kernel, fast=False, cpu=True), y, atol=1e-4)
    doubled = by_loops(np.asarray(x).repeat(2, 1).repeat(2, 2), kernel)
    fast = {"fast": True, "cpu": True}
    np.testing.assert_allclose(upsample_conv(x, kernel, **fast), doubled, atol=1e-4)
    halved = (y[:, ::2, ::2] + y[:, 1::2, ::2] + y[:, ::2, 1::2] + y[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(conv_downsample(x, kernel, **fast), halved, atol=1e-4)


def test_resampling_by_hand():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    rows = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(upsample(x)[0, :, :, 0], rows)
    for cpu in (False, True):
        np.testing.assert_array_equal(downsample(x, cpu=cpu), [[[[1.5]]]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_forms_of_mean_pooling_are_equal_in_value_and_gradient(dtype):
    x, _ = draw(7, 1, dtype)
    dy = jnp.cos(jnp.arange(2 * 3 * 4 * 3.0)).reshape(2, 3, 4, 3).astype(dtype)
    window, plain = (
        jax.vjp(functools.partial(downsample, cpu=cpu), x) for cpu in (False, True)
    )
    rounding = 1e-7 if dtype == jnp.float32 else 4e-3
    pairs = [(y, *transpose(dy)) for y, transpose in (window, plain)]
    assert_close(*pairs, rounding)


@pytest.mark.parametrize("op", [upsample_conv, conv_downsample])
@pytest.mark.parametrize("cpu", [False, True])
def test_fast_form_multiplies_less(op, cpu):
    x, kernel = jnp.ones((1, 32, 32, 64)), jnp.ones((3, 3, 64, 64))

    def flops(fast):
        jitted = jax.jit(functools.partial(op, fast=fast, cpu=cpu))
        compiled = jitted.lower(x, kernel).compile()
        analysis = compiled.cost_analysis()
        assert analysis is not None
        return analysis["flops"]

    assert flops(False) / flops(True) > 2  # 36 taps to 16, less the sums


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("cpu", [False, True])
def test_fast_form_has_second_derivatives(op, cpu):
    @jax.jit
    def both(x, kernel):
        def penalty(kernel, fast):  # a gradient penalty differentiates twice
            y = jax.grad(lambda x: jnp.sum(jnp.sin(op(x, kernel, fast=fast, cpu=cpu))))(
                x
            )
            return jnp.sum(y**2)

        return [[jax.grad(penalty)(kernel, fast)] for fast in (True, False)]

    assert_close(*both(*draw(8, 3)), rounding=1e-5)


@pytest.mark.parametrize(
    "unknown",
    [
        ("xla_cpu_no_such_option", True),
        ("xla_cpu_experimental_ynn_fusion_type", "no such kind"),
    ],
)
def test_unknown_compiler_option_is_left_out(unknown, monkeypatch):
    known = ("xla_cpu_experimental_onednn_custom_call", True)
    monkeypatch.setattr(compilation, "CANDIDATES", dict([unknown, known]))
    compilation.cpu_compiler_options.cache_clear()
    assert compilation.cpu_compiler_options() == dict([known])
    compilation.cpu_compiler_options.cache_clear()


def test_compiler_options_leave_the_flags_of_the_user_alone(monkeypatch):
    flags = " ".join(f"--{option}=0" for option in compilation.STEP_CANDIDATES)
    monkeypatch.setenv("XLA_FLAGS", flags)
    compilation.cpu_compiler_options.cache_clear()
    assert compilation.cpu_compiler_options(of_step=True) == {}
    compilation.cpu_compiler_options.cache_clear()


def test_compiler_options_are_the_cpus_alone(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compilation.cpu_compiler_options.cache_clear()
    assert compilation.cpu_compiler_options() == {}
    compilation.cpu_compiler_options.cache_clear()


def test_compiler_options_compile_a_convolution():
    x, kernel = draw(8, 3)
    lowered = jax.pmap(functools.partial(conv, fast=True, cpu=True)).lower(
        x[None], kernel[None]
    )
    compiled = lowered.compile(compiler_options=compilation.cpu_compiler_options())
    y = conv(x, kernel, fast=False, cpu=True)
    np.testing.assert_allclose(compiled(x[None], kernel[None])[0], y, atol=1e-4)


def test_the_tests_compile_steps_without_llvms_optimisations():
    assert jax.config.read("jax_disable_most_optimizations")
    options = compilation.cpu_compiler_options(of_step=True)
    assert "xla_backend_optimization_level" not in options
    jax.config.update("jax_disable_most_optimizations", False)
    compilation.cpu_compiler_options.cache_clear()
    try:
        options = compilation.cpu_compiler_options(of_step=True)
        assert options["xla_backend_optimization_level"] == "1"
        assert options.keys() > compilation.cpu_compiler_options().keys()
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
        compilation.cpu_compiler_options.cache_clear()
