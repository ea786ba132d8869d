"""Recomputation: a block's activations are thrown away after the forward pass and made again in the backward pass.

A third more arithmetic for memory that grows with one block instead of all of them (Chen et al., 2016). It is a property of
the training step, not of a network: `recomputation()` opens it and `dropout.step_seed`, within which it works, sees to it
that the same masks are drawn twice.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import tensorflow as tf

from garden.layers.dropout import replayed_masks, step_masks

_active: ContextVar[bool] = ContextVar("garden_recomputation", default=False)


@contextlib.contextmanager
def recomputation(active: bool = True) -> Iterator[None]:
    """Within it, what `recomputable` decorates keeps its inputs alone while training, if `active`."""
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def recomputable(call: Callable) -> Callable:
    """Decorates the `call` of a layer that may be recomputed: the same outputs and gradients, to the last bit.

    A layer inside another one that is recomputed is not recomputed by itself.
    """

    @functools.wraps(call)
    def called(self, *args, training: bool = False, **kwargs):
        if not (training and _active.get() and step_masks()):
            return call(self, *args, training=training, **kwargs)

        def function(*args, **kwargs):
            with recomputation(False):
                return call(self, *args, training=True, **kwargs)

        return _recomputed(function, args, kwargs)

    return called


def _recomputed(function: Callable, args: tuple, kwargs: dict):
    """Returns function(*args, **kwargs), all of whose tensors are passed through `tf.custom_gradient`."""
    leaves = tf.nest.flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if tf.is_tensor(leaf)]
    masks = step_masks()

    def run(*tensors):
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        given, named = tf.nest.pack_sequence_as((args, kwargs), filled)
        return function(*given, **named)

    @tf.custom_gradient
    def forward(*tensors):
        def backward(*upstream, variables=()):
            # What comes from above is what the second computation waits for, else it would be done at once, or found to be
            # the same as the first, whose results would be kept.
            with tf.control_dependencies(upstream):
                again = [tf.identity(tensor) for tensor in tensors]
            wanted = [place for place, tensor in enumerate(again) if tensor.dtype.is_floating]
            with tf.GradientTape(watch_accessed_variables=False) as tape, replayed_masks(masks, after=upstream):
                tape.watch([*(again[place] for place in wanted), *variables])
                outputs = run(*again)
            sources = [again[place] for place in wanted]
            of_inputs, of_variables = tape.gradient(outputs, [sources, list(variables)], list(upstream))
            gradients = [None] * len(tensors)
            for place, gradient in zip(wanted, of_inputs, strict=True):
                gradients[place] = gradient
            return (gradients, of_variables) if variables else gradients

        return run(*tensors), backward

    return forward(*(leaves[place] for place in places))
