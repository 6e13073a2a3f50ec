"""Layers that reach the machine's matmul speed inside a loop over clients.

A convolution with one kernel per client (`vmap`) becomes a grouped convolution, and
on XLA:CPU a convolution inside a loop is not the library one; both are several times
slower than a matmul. So `Conv` offers four lowerings of the same function:

* `patches`: gather the k*k shifted copies of the image and multiply by the kernel
  as a matrix. Under `vmap` it becomes a batched matmul.
* `blocked`: the same for a few images at a time, so that the patches stay in a CPU's
  cache.
* `winograd`: 3x3 kernels with fewer multiplications where that is faster (module
  `winograd`; on small or strided maps module `taps`), everything else as `blocked`.
* `native`: `lax.conv_general_dilated`.

Where a 2x2 max pooling follows at once, all but `native` compute one stride-2
convolution for each of the four positions of a window, so that pooling is an
elementwise maximum and no full-size map is written.

Which one is faster is measured per backend by `launch/bench.py`. Images are
[B, H, W, C]. All layers take PyTorch's conventions for padding, initialisation and
running statistics, because the published numbers were made with them.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from fedjax_sim.models import taps, winograd

Lowering = Literal["patches", "blocked", "winograd", "native"]

# Patches of one block; they and what the matmuls make of them stay in the L3 cache.
_BLOCK_BYTES = 4 * 2**20
_POOLED_BLOCK_BYTES = 8 * 2**20  # without a full-size map beside them


def torch_uniform(fan_in: int):
    """PyTorch's default for convolutions and linear layers, weight and bias.

    Uniform in [-1/sqrt(fan_in), 1/sqrt(fan_in)], where fan_in counts the inputs of
    one output unit.
    """
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def he_fan_out(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """He et al. 2015 normal initialisation with variance 2 / (k^2 out_channels)."""
    fan_out = shape[0] * shape[1] * shape[-1]
    return jax.random.normal(key, shape, dtype) * (2.0 / fan_out) ** 0.5


def _pad(x: Array, padding: int) -> Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def extract_patches(x: Array, size: int, stride: int, padding: int) -> Array:
    """Returns the receptive fields of a convolution.

    Args:
      x: f32 [B, H, W, C].
      size, stride, padding: of the square kernel.

    Returns:
      f32 [B, H', W', size*size*C], channels ordered (row, column, input channel).
    """
    batch, height, width, channels = x.shape
    x = _pad(x, padding)
    rows, cols = (taps.num_outputs(n, size, stride, padding) for n in (height, width))
    if size == x.shape[1] == x.shape[2]:
        return x.reshape(batch, 1, 1, -1)  # the whole image is the only field
    shifted = [
        lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + stride * (rows - 1) + 1, j + stride * (cols - 1) + 1, channels),
            (1, stride, stride, 1),
        )
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_by_patches(
    x: Array, kernel: Array, stride: int, padding: int, block_bytes: int | None = None
) -> Array:
    """Convolution as matmuls; x [B, H, W, C], kernel [k, k, C, O].

    The backward pass gathers the patches again (cheap) instead of keeping k*k times
    the activation. With `block_bytes` the images are taken in equal blocks whose
    patches are at most so large.
    """
    return _conv_forward(x, kernel, stride, padding, block_bytes)[0]


def _num_blocks(x: Array, kernel: Array, stride: int, block_bytes: int | None) -> int:
    if block_bytes is None:
        return 1
    batch, height, width, _ = x.shape
    per_image = 4 * height * width * kernel[..., 0].size // stride**2
    fitting = max(1, block_bytes // per_image)
    return next(n for n in range(-(-batch // fitting), batch + 1) if batch % n == 0)


def _split(x: Array, blocks: int) -> Array:
    return x.reshape(blocks, -1, *x.shape[1:])


def _by_blocks(function, x: Array, blocks: int) -> Array:
    """Applies a function of images [B, ...] to one block after the other."""
    if blocks == 1:
        return function(x)
    y = lax.map(function, _split(x, blocks))
    return y.reshape(-1, *y.shape[2:])


def _conv_forward(x, kernel, stride, padding, block_bytes):
    matrix = kernel.reshape(-1, kernel.shape[-1])

    def conv(x):
        return extract_patches(x, kernel.shape[0], stride, padding) @ matrix

    blocks = _num_blocks(x, kernel, stride, block_bytes)
    return _by_blocks(conv, x, blocks), (x, kernel)


def _conv_backward(stride, padding, block_bytes, saved, grad):
    x, kernel = saved
    size, out = kernel.shape[0], kernel.shape[-1]
    matrix = kernel.reshape(-1, out)
    gather = partial(extract_patches, size=size, stride=stride, padding=padding)

    def gradients(x, grad):
        patches = gather(x)
        fields = patches.shape[-1]
        flat_grad, flat_patches = grad.reshape(-1, out), patches.reshape(-1, fields)
        if fields >= 64:
            # A matmul that sums over the rows of its left side runs at half the speed
            # on XLA:CPU; below 64 columns the copy costs more than it saves.
            matrix_grad = lax.optimization_barrier(flat_patches.T) @ flat_grad
        else:
            matrix_grad = flat_patches.T @ flat_grad
        patch_grad = (flat_grad @ matrix.T).reshape(patches.shape)
        (x_grad,) = jax.linear_transpose(gather, x)(patch_grad)
        return matrix_grad, x_grad

    blocks = _num_blocks(x, kernel, stride, block_bytes)
    if blocks == 1:
        matrix_grad, x_grad = gradients(x, grad)
        return x_grad, matrix_grad.reshape(kernel.shape)

    def add_block(total, block):
        matrix_grad, x_grad = gradients(*block)
        return total + matrix_grad, x_grad

    parts = _split(x, blocks), _split(grad, blocks)
    matrix_grad, x_grad = lax.scan(add_block, jnp.zeros_like(matrix), parts)
    return x_grad.reshape(x.shape), matrix_grad.reshape(kernel.shape)


conv_by_patches.defvjp(_conv_forward, _conv_backward)


def fold_stride(
    x: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, Array]:
    """Turns a convolution whose stride divides its size into one of stride 1.

    The pixels of a square of the stride's side become channels of one pixel, so that
    (size / stride)^2 copies of the image make the patches instead of size^2.

    Args:
      x: f32 [B, H, W, C].
      kernel: f32 [k, k, C, O].
      stride: s, divides k.
      padding: rows and columns of zeros on each side.

    Returns:
      Image [B, H'', W'', s*s*C] and kernel [k/s, k/s, s*s*C, O], to be used without
      padding.
    """
    batch, height, width, channels = x.shape
    size, out = kernel.shape[0], kernel.shape[-1]
    rows, cols = (
        taps.num_outputs(n, size, stride, padding) - 1 + size // stride
        for n in (height, width)
    )
    # What lies beyond the last output is cut off.
    low, whole = padding, (0, 0, 0)
    below, beside = rows * stride - height - low, cols * stride - width - low
    x = lax.pad(x, 0.0, (whole, (low, below, 0), (low, beside, 0), whole))
    x = x.reshape(batch, rows, stride, cols, stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, cols, -1)
    parts = kernel.reshape(
        size // stride, stride, size // stride, stride, channels, out
    )
    parts = parts.transpose(0, 2, 1, 3, 4, 5)
    return x, parts.reshape(size // stride, size // stride, -1, out)


def window_patches(x: Array, size: int) -> Array:
    """Receptive fields of a convolution, apart by their place in a 2x2 window.

    Args:
      x: f32 [B, H, W, C], already padded.
      size: of the square kernel; its stride is 1.

    Returns:
      f32 [4*B, H', W', size*size*C], H' = (H - size + 1) // 2: the fields of the upper
      left output of all windows, then of the upper right, lower left and lower right.
      An odd last row or column of outputs has no window.
    """
    batch, height, width, channels = x.shape
    rows, cols = (height - size + 1) // 2, (width - size + 1) // 2
    shifted = {
        (i, j): lax.slice(
            x,
            (0, i, j, 0),
            (batch, i + 2 * rows - 1, j + 2 * cols - 1, channels),
            (1, 2, 2, 1),
        )
        for i in range(size + 1)
        for j in range(size + 1)
    }
    fields = [
        jnp.concatenate(
            [shifted[top + i, left + j] for i in range(size) for j in range(size)],
            axis=-1,
        )
        for top in (0, 1)
        for left in (0, 1)
    ]
    return jnp.concatenate(fields)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pooled_conv_by_patches(x: Array, kernel: Array, joint: bool = False) -> Array:
    """A convolution of stride 1 and the maximum of each 2x2 window of its outputs.

    Args:
      x: f32 [B, H, W, C], already padded.
      kernel: f32 [k, k, C, O].
      joint: the four outputs of a window share one field of (k + 1)^2 inputs. That
        multiplies by zeros too, but a matmul over k*k numbers of a single channel
        starves a CPU.

    Returns:
      f32 [B, (H - k + 1) // 2, (W - k + 1) // 2, O]; ties go to the first element.
    """
    return _pooled_conv_forward(x, kernel, joint)[0]


def _window_kernel(kernel: Array) -> Array:
    """[k, k, C, O] to [k+1, k+1, C, 4*O]: the four outputs of a window side by side."""
    low, high, whole = (0, 1), (1, 0), (0, 0)
    places = [
        jnp.pad(kernel, (rows, cols, whole, whole))
        for rows in (low, high)
        for cols in (low, high)
    ]
    return jnp.concatenate(places, axis=-1)


def _pooled_matmul(kernel, joint):
    """Returns (gather, matrix from kernel, axis): gather(x) @ matrix is all outputs.

    They lie one after the other along the axis: upper left, upper right, lower left,
    lower right of all windows.
    """
    size, out = kernel.shape[0], kernel.shape[-1]
    if joint:
        gather = partial(extract_patches, size=size + 1, stride=2, padding=0)
        return gather, lambda k: _window_kernel(k).reshape(-1, 4 * out), -1
    return partial(window_patches, size=size), lambda k: k.reshape(-1, out), 0


def _pooled_conv_forward(x, kernel, joint):
    gather, to_matrix, axis = _pooled_matmul(kernel, joint)
    outputs = gather(x) @ to_matrix(kernel)
    best, winner = _maximum(jnp.split(outputs, 4, axis))
    return best, (x, kernel, winner)


def _pooled_conv_backward(joint, saved, grad):
    x, kernel, winner = saved
    gather, to_matrix, axis = _pooled_matmul(kernel, joint)
    matrix, to_kernel = jax.vjp(to_matrix, kernel)
    patches = gather(x)
    flat_patches = patches.reshape(-1, matrix.shape[0])
    shares = jnp.concatenate(_shares(winner, grad, 4), axis)
    shares = shares.reshape(-1, matrix.shape[1])
    if matrix.shape[0] <= matrix.shape[1]:
        matrix_grad = flat_patches.T @ shares
    else:
        # Few rows, many columns, then turned: the other way round XLA:CPU is slower,
        # and it would go back to that without the barrier.
        matrix_grad = lax.optimization_barrier(shares.T @ flat_patches).T
    patch_grad = (shares @ matrix.T).reshape(patches.shape)
    (x_grad,) = jax.linear_transpose(gather, x)(patch_grad)
    return x_grad, *to_kernel(matrix_grad)


pooled_conv_by_patches.defvjp(_pooled_conv_forward, _pooled_conv_backward)


def conv_native(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """The same convolution by XLA's own operation."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Conv(nn.Module):
    """Square 2-D convolution, [B, H, W, C] -> [B, H', W', features].

    With `pool` (stride 1 only) the maximum of each 2x2 window of its outputs.
    """

    features: int
    size: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    pool: bool = False
    lowering: Lowering = "patches"
    kernel_init: nn.initializers.Initializer | None = None  # None: PyTorch's default
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        default = torch_uniform(self.size**2 * channels)
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape)
        if self.lowering == "native":
            x = conv_native(x, kernel, self.stride, self.padding)
            x = max_pool(x, 2, 2) if self.pool else x
        elif self.pool:
            x = _pad(x, self.padding)
            on_cpu = self.lowering != "patches"
            blocks = _num_blocks(x, kernel, 1, _POOLED_BLOCK_BYTES if on_cpu else None)
            conv = lambda x: pooled_conv_by_patches(x, kernel, on_cpu and channels == 1)
            x = _by_blocks(conv, x, blocks)
        else:
            x = self._convolve(x, kernel)
        if self.use_bias:
            x = x + self.param("bias", self.bias_init or default, (self.features,))
        return x

    def _convolve(self, x: Array, kernel: Array) -> Array:
        stride, padding = self.stride, self.padding
        fewer, more = sorted(kernel.shape[2:])
        # Measured for 32 to 512 channels.
        if self.lowering == "winograd" and self.size == 3 and fewer >= 32:
            inside = taps.share_inside(x.shape, 3, stride, padding)
            rows, cols = (-(-(n + 2 * padding - 2) // 2) for n in x.shape[1:3])
            # With fewer tiles than channels Winograd's transforms of the kernel cost
            # more than the matmuls save; on 2x2 maps (0.44 inside) taps need as few
            # multiplications without them, and up to 4x4 (0.69) fewer than patches.
            if stride == 1 and inside > 0.5 and len(x) * rows * cols >= more:
                return winograd.conv(x, kernel, padding)
            if stride > 1 or inside < 0.75:
                return taps.conv(x, kernel, stride, padding)
        if stride > 1 and self.size % stride == 0:
            x, kernel = fold_stride(x, kernel, stride, padding)
            stride, padding = 1, 0
        block = _BLOCK_BYTES if self.lowering != "patches" else None
        return conv_by_patches(x, kernel, stride, padding, block)


@jax.custom_vjp
def linear(x: Array, kernel: Array) -> Array:
    """x [..., F] times kernel [F, O]."""
    return x @ kernel


def _linear_backward(saved, grad):
    x, kernel = saved
    fields, out = kernel.shape
    grad = grad.reshape(-1, out)
    # With the large matrix on the left XLA:CPU need not pack it: 0.52 ms instead of
    # 0.73 for 32 rows and a kernel of 2304 x 512. The barrier keeps it there.
    x_grad = lax.optimization_barrier(kernel @ grad.T).T
    return x_grad.reshape(x.shape), x.reshape(-1, fields).T @ grad


linear.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _linear_backward)


class Dense(nn.Module):
    """Linear layer, [..., F] -> [..., features]."""

    features: int
    kernel_init: nn.initializers.Initializer | None = None  # None: PyTorch's default
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        default = torch_uniform(x.shape[-1])
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape)
        bias = self.param("bias", self.bias_init or default, (self.features,))
        return linear(x, kernel) + bias


def max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """Max pooling, [B, H, W, C] -> [B, H', W', C]; ties go to the first element."""
    return _max_pool(x, size, stride, padding)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, size, stride, padding):
    return _max_pool_forward(x, size, stride, padding)[0]


def _windows(x, size, stride, padding):
    """The size*size shifted views of x that a window covers, each [B, H', W', C]."""
    batch, height, width, channels = x.shape
    rows, cols = (taps.num_outputs(n, size, stride, padding) for n in (height, width))
    if size == stride and not padding:
        # No overlap: a reshape is cheaper than strided slices.
        x = x[:, : rows * size, : cols * size]
        x = x.reshape(batch, rows, size, cols, size, channels)
        return [x[:, :, i, :, j] for i in range(size) for j in range(size)]
    low = jnp.finfo(x.dtype).min
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = jnp.pad(x, pad, constant_values=low)
    return [
        x[:, i : i + stride * (rows - 1) + 1 : stride][
            :, :, j : j + stride * (cols - 1) + 1 : stride
        ]
        for i in range(size)
        for j in range(size)
    ]


def _maximum(candidates):
    """Elementwise maximum and the int8 index of the first candidate that reaches it."""
    best = candidates[0]
    for candidate in candidates[1:]:
        best = jnp.maximum(best, candidate)
    winner = jnp.full(best.shape, len(candidates) - 1, jnp.int8)
    for i in reversed(range(len(candidates) - 1)):
        winner = jnp.where(candidates[i] == best, jnp.int8(i), winner)
    return best, winner


def _shares(winner, grad, count):
    """What each of `count` candidates of a maximum gets of its gradient."""
    return [jnp.where(winner == jnp.int8(i), grad, 0.0) for i in range(count)]


def _max_pool_forward(x, size, stride, padding):
    best, winner = _maximum(_windows(x, size, stride, padding))
    # Keeping one byte per output instead of the input halves the backward traffic.
    return best, (winner, jnp.zeros((0, *x.shape[1:3]), jnp.int8))


def _max_pool_backward(size, stride, padding, saved, grad):
    winner, like = saved
    batch, rows, cols, channels = grad.shape
    height, width = like.shape[1:3]
    if size == stride and not padding:
        taps = jnp.arange(size * size, dtype=jnp.int8)
        taps = taps.reshape(1, 1, size, 1, size, 1)
        x_grad = jnp.where(
            winner[:, :, None, :, None] == taps, grad[:, :, None, :, None], 0.0
        ).reshape(batch, rows * size, cols * size, channels)
        crop = ((0, 0), (0, height - rows * size), (0, width - cols * size), (0, 0))
        return (jnp.pad(x_grad, crop),)

    # The transpose of a strided slice: spread the gradient, put it back in place.
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    x_grad = 0.0
    for tap, share in enumerate(_shares(winner, grad, size * size)):
        i, j = divmod(tap, size)
        spread = (
            (0, 0, 0),
            (i, padded_height - i - stride * (rows - 1) - 1, stride - 1),
            (j, padded_width - j - stride * (cols - 1) - 1, stride - 1),
            (0, 0, 0),
        )
        x_grad = x_grad + lax.pad(share, jnp.zeros((), grad.dtype), spread)
    return (x_grad[:, padding : padding + height, padding : padding + width],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def in_groups(
    function: Callable[[nn.Module, Array], Array], size: int
) -> Callable[[nn.Module, Array], Array]:
    """Applies layers to a few images at a time, so that their maps stay in the cache.

    Args:
      function: (module, images [n, ...]) -> [n, ...], of any n, image by image; its
        layers belong to the module and have parameters only. The backward pass
        computes it again.
      size: images at a time, at most: the largest number that divides the batch.

    Returns:
      The same function of all images [B, ...].
    """

    def run(module, x):
        batch = x.shape[0]
        group = max(n for n in range(1, min(size, batch) + 1) if batch % n == 0)
        of_groups = nn.scan(
            lambda module, _, x: (
                None,
                nn.remat(function, prevent_cse=False)(module, x),
            ),
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        _, y = of_groups(module, None, _split(x, batch // group))
        return y.reshape(batch, *y.shape[2:])

    return run


def avg_pool(x: Array, size: int) -> Array:
    """Average pooling with stride `size`, [B, H, W, C] -> [B, H//size, W//size, C]."""
    batch, height, width, channels = x.shape
    rows, cols = height // size, width // size
    x = x[:, : rows * size, : cols * size]
    return x.reshape(batch, rows, size, cols, size, channels).mean((2, 4))


def upsample(x: Array, factor: int) -> Array:
    """Nearest-neighbour upsampling of [B, H, W, C] by an integer factor."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics.

    Statistics are taken over all axes but the last, over the samples of `mask` only,
    so that a padded batch gives the result of the short one. Training normalises with
    the biased variance and moves the running variance by the unbiased one
    (factor n/(n-1)), with weight 0.1; evaluation uses the running statistics.
    """

    momentum: float = 0.1  # weight of the new value, as in PyTorch
    epsilon: float = 1e-5
    affine: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool, mask: Array | None = None) -> Array:
        """Normalises x [B, ..., C]; `mask` bool [B] marks real samples."""
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        scale, shift = 1.0, 0.0
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,))
            shift = self.param("bias", nn.initializers.zeros, (channels,))
        if not train:
            gain = scale * lax.rsqrt(var.value + self.epsilon)
            return (x - mean.value) * gain + shift
        axes = tuple(range(x.ndim - 1))
        positions = x[0, ..., 0].size
        if mask is None:
            weight = jnp.ones((), x.dtype)
            count = jnp.float32(x.shape[0] * positions)
        else:
            weight = mask.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            count = jnp.maximum(mask.sum(), 1) * jnp.float32(positions)
        batch_mean = (x * weight).sum(axes) / count
        centred = (x - batch_mean) * weight
        batch_var = (centred * centred).sum(axes) / count
        if not self.is_initializing():
            keep = 1.0 - self.momentum
            unbiased = batch_var * count / jnp.maximum(count - 1, 1)
            mean.value = keep * mean.value + self.momentum * batch_mean
            var.value = keep * var.value + self.momentum * unbiased
        gain = scale * lax.rsqrt(batch_var + self.epsilon)
        return (x - batch_mean) * gain + shift


@jax.custom_vjp
def standardise(x: Array) -> Array:
    """Zero mean and unit (biased) variance per sample and channel; x [B, H, W, C]."""
    return _standardise_forward(x)[0]


def _standardise_forward(x):
    mean = x.mean((1, 2), keepdims=True)
    var = jnp.square(x - mean).mean((1, 2), keepdims=True)
    rsigma = lax.rsqrt(var + 1e-5)
    return (x - mean) * rsigma, (x, mean, rsigma)


def _standardise_backward(saved, grad):
    x, mean, rsigma = saved
    normal = (x - mean) * rsigma
    along = (grad * normal).mean((1, 2), keepdims=True)
    return ((grad - grad.mean((1, 2), keepdims=True) - normal * along) * rsigma,)


standardise.defvjp(_standardise_forward, _standardise_backward)


class InstanceNorm(nn.Module):
    """Instance normalisation: per sample and channel, eps 1e-5, affine, stateless."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [B, H, W, C] over H and W."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        shift = self.param("bias", nn.initializers.zeros, (channels,))
        return standardise(x) * scale + shift
