"""What stands between the matrix products of training, as few passes over memory: XLA compiles small pure functions.

On a CPU these passes take as long as the products. XLA makes one loop of many element-wise operations, but its own products
are slower than oneDNN's: so the step stays a plain graph, and only clusters of it are compiled, where `worthwhile` says
that it pays. Their backward passes compute again what a forward pass would have to write and read. Inference and exports
never see them; the plain layers, which do the same, are their twins.

Shapes: M rows (all leading axes folded), D their width.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

LEAST = 2**17
"""How many elements a tensor has for which compiled code saves more than its launch costs."""


def worthwhile(x: tf.Tensor, training: bool) -> bool:
    """Returns whether to take compiled clusters for `x`: in training, on CPUs, for large tensors of a static shape.

    Code is compiled for each shape anew: batches whose shapes change from step to step go without. Accelerators have fast
    passes of their own.
    """
    return training is True and x.shape.is_fully_defined() and x.shape.num_elements() >= LEAST and _only_cpus()


@functools.cache
def _only_cpus() -> bool:
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


def compiled(function: Callable) -> Callable:
    """Decorates a pure function of tensors that XLA compiles whole."""
    return tf.function(function, jit_compile=True, autograph=False)


def _row_mean(x_MD: tf.Tensor, weights_D: tf.Tensor | None = None) -> tf.Tensor:
    """Returns the mean over each row, perhaps weighted: [M,1]. As a product: XLA's sums along rows use no vectors on CPUs."""
    width = x_MD.shape[-1]
    weights = tf.ones([width, 1], x_MD.dtype) if weights_D is None else weights_D[:, None]
    return tf.matmul(x_MD, weights) * tf.constant(1 / width, x_MD.dtype)


def kept(shape: tf.TensorShape, seed: tf.Tensor, rate: float) -> tf.Tensor:
    """Returns what dropout multiplies by: 0 with probability `rate` (to within 1/2^32), else 1 / (1 - rate); float32.

    Each element's number is hashed with one half of the seed [2] int32, then with the other (multiplications and shifts:
    "lowbias32" of Wellons, 2018). In a loop that waits for memory that is nearly free, so the backward pass draws again, and
    no mask is ever written.
    """

    def hashed(x: tf.Tensor) -> tf.Tensor:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
            x *= tf.constant(factor, tf.uint32)
        return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16, tf.uint32)))

    first, second = tf.unstack(tf.bitcast(seed, tf.uint32))
    x = hashed(hashed(tf.cast(tf.range(shape.num_elements()), tf.uint32) + first) + second)
    # Signed numbers compare in one instruction.
    least = min(round(rate * 2**32), 2**32 - 1) - 2**31
    keep = tf.bitcast(x, tf.int32) >= tf.constant(least, tf.int32)
    return tf.reshape(tf.cast(keep, tf.float32) * (1 / (1 - rate)), shape)


@functools.cache
def elementwise(function: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns an element-wise function, computed in float32, with a gradient that keeps its input alone."""

    def plain(x: tf.Tensor) -> tf.Tensor:
        return tf.cast(function(tf.cast(x, tf.float32)), x.dtype)

    @compiled
    def backward(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = plain(x)
        return tape.gradient(y, x, upstream)

    forward = compiled(plain)

    @tf.custom_gradient
    def cluster(x: tf.Tensor):
        return forward(x), lambda upstream: backward(x, upstream)

    return cluster


def residual_norm(
    x: tf.Tensor,
    change: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    *,
    epsilon: float,
    seed: tf.Tensor | None = None,
    rate: float = 0.0,
) -> tf.Tensor:
    """Returns the layer norm of x + dropout(change), [...,D], in x's dtype; sums are in float32.

    Args:
        scale, bias: [D] float32, the norm's.
        seed, rate: dropout's, as `kept` takes them; without a seed there is none.
    """
    forward, backward = _residual_norm(rate, epsilon)

    @tf.custom_gradient
    def cluster(x, change, scale, bias):
        y, mean, deviation = forward(x, change, seed, scale, bias)
        return y, lambda upstream: backward(x, change, seed, scale, mean, deviation, upstream)

    return cluster(x, change, scale, bias)


@functools.cache
def _residual_norm(rate: float, epsilon: float) -> tuple[Callable, Callable]:
    def joined(x, change, seed):
        mask = 1.0 if seed is None else kept(x.shape, seed, rate)
        return tf.reshape(tf.cast(x, tf.float32) + tf.cast(change, tf.float32) * mask, [-1, x.shape[-1]]), mask

    @compiled
    def forward(x, change, seed, scale, bias):
        y, _ = joined(x, change, seed)
        mean = _row_mean(y)
        centred = y - mean
        deviation = tf.math.rsqrt(_row_mean(centred * centred) + epsilon)
        return tf.cast(tf.reshape(centred * deviation * scale + bias, x.shape), x.dtype), mean, deviation

    @compiled
    def backward(x, change, seed, scale, mean, deviation, upstream):
        y, mask = joined(x, change, seed)
        normal = (y - mean) * deviation
        upstream = tf.reshape(tf.cast(upstream, tf.float32), y.shape)
        product = upstream * normal
        of_x = upstream * scale - _row_mean(upstream, scale) - normal * _row_mean(product, scale)
        of_x = tf.reshape(of_x * deviation, x.shape)
        sums = tf.reduce_sum(product, axis=0), tf.reduce_sum(upstream, axis=0)
        return tf.cast(of_x, x.dtype), tf.cast(of_x * mask, change.dtype), *sums

    return forward, backward


def dropped_softmax(
    logits: tf.Tensor, bias: tf.Tensor, *, seed: tf.Tensor | None = None, rate: float = 0.0
) -> tf.Tensor:
    """Returns dropout(softmax(logits + bias)) over the last axis, in the logits' dtype; inside it is float32.

    The softmax itself is oneDNN's.

    Args:
        logits: [B,N,T,S].
        bias: float32, broadcast to the logits.
        seed, rate: as in `residual_norm`.
    """
    joined, forward, backward = _dropped_softmax(rate, logits.dtype)

    @tf.custom_gradient
    def cluster(logits, bias):
        chances = tf.nn.softmax(joined(logits, bias))

        def gradient(upstream):
            of_logits = backward(chances, seed, upstream)
            return of_logits, _summed_to(of_logits, bias)

        return forward(chances, seed), gradient

    return cluster(logits, bias)


def _summed_to(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Returns the gradient of what was broadcast."""
    axes = [axis for axis, size in enumerate(like.shape) if size == 1 and x.shape[axis] != 1]
    return tf.reduce_sum(tf.cast(x, like.dtype), axis=axes, keepdims=True)


@functools.cache
def _dropped_softmax(rate: float, dtype: tf.DType) -> tuple[Callable, Callable, Callable]:
    @compiled
    def joined(logits, bias):
        return tf.cast(logits, tf.float32) + bias

    @compiled
    def forward(chances, seed):
        return tf.cast(chances if seed is None else chances * kept(chances.shape, seed, rate), dtype)

    @compiled
    def backward(chances, seed, upstream):
        change = tf.cast(upstream, tf.float32)
        change = change if seed is None else change * kept(chances.shape, seed, rate)
        rows = tf.reshape(change * chances, [-1, chances.shape[-1]])
        sums = tf.matmul(rows, tf.ones([chances.shape[-1], 1]))
        return tf.cast(chances * (change - tf.reshape(sums, [*chances.shape[:-1], 1])), dtype)

    return joined, forward, backward
