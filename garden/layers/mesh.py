"""One network's weights spread over several devices: tensor parallelism and stages.

A sharded layer is several narrower layers of its own kind, one on each device, whose answers add up: attention of some of the
heads, a feed-forward network of some of the columns, a table of some of the rows (Shoeybi et al., 2019, "Megatron-LM"). Each
shard is a weight of its own, which optimisers, tapes and devices see as any other. A stage is a run of blocks on devices of its
own. Layers learn of the mesh while they are built, inside `Mesh.scope()`; outside of it nothing here takes part.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_mesh: ContextVar[Mesh | None] = ContextVar("garden_mesh", default=None)


@dataclass(frozen=True)
class Mesh:
    """The devices of a network: `devices[s][m]` is the name of the one that has shard m of the blocks of stage s."""

    devices: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, devices: Sequence[str], *, model: int = 1, stage: int = 1) -> Mesh:
        """Returns a mesh of the first `model * stage` devices: `model` shards in each of `stage` stages."""
        return cls(tuple(tuple(devices[row * model : (row + 1) * model]) for row in range(stage)))

    @property
    def stages(self) -> tuple[Mesh, ...]:
        """Each stage, a mesh by itself."""
        return tuple(Mesh((row,)) for row in self.devices)

    @property
    def shards(self) -> tuple[str, ...]:
        """The devices that a layer of the first stage is spread over."""
        return self.devices[0]

    @property
    def first(self) -> str:
        """The device of what is neither in shards nor in another stage."""
        return self.devices[0][0]

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Within it networks are built on this mesh."""
        return _scoped(self)


@contextlib.contextmanager
def _scoped(mesh: Mesh | None) -> Iterator[None]:
    token = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(token)


def current_mesh() -> Mesh | None:
    """Returns the mesh whose scope this is."""
    return _mesh.get()


# Stages: where blocks are built and computed.


def in_stages(blocks: Sequence[keras.layers.Layer]) -> None:
    """Divides a network's blocks, in the order of their work, among the stages of the mesh whose scope this is.

    Raises ValueError for fewer blocks than stages.
    """
    mesh = current_mesh()
    if mesh is None or len(mesh.stages) == 1:
        return
    if len(blocks) < len(mesh.stages):
        raise ValueError(f"mesh: {len(mesh.stages)} stages for a network of {len(blocks)} blocks; take fewer")
    for index, block in enumerate(blocks):
        block.stage = mesh.stages[index * len(mesh.stages) // len(blocks)]


@contextlib.contextmanager
def built_on(stage: Mesh | None) -> Iterator[None]:
    """Within it weights are made on a stage's devices; None: where they would be anyway."""
    if stage is None:
        yield
        return
    with stage.scope(), tf.device(stage.first):
        yield


def last_stage() -> contextlib.AbstractContextManager[None]:
    """Within it weights are made on the last stage's devices."""
    mesh = current_mesh()
    return built_on(mesh.stages[-1] if mesh and len(mesh.stages) > 1 else None)


def staged(call: Callable) -> Callable:
    """Decorates the `call` of a layer that may have a `stage`, on whose first device it is computed then."""

    @functools.wraps(call)
    def called(self, *args, **kwargs):
        return call(self, *args, **kwargs) if self.stage is None else on(self.stage.first, call, self, *args, **kwargs)

    return called


def on(device: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Returns function(*args, **kwargs), whose tensors and gradient are computed on a device.

    Under `tf.device` alone only the forward pass would be: a tape's own operations know no device, and all land on the first.
    """
    leaves = tf.nest.flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if tf.is_tensor(leaf)]
    structure: list[Any] = []

    def run(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        given, named = tf.nest.pack_sequence_as((args, kwargs), filled)
        structure[:] = [function(*given, **named)]
        return tf.nest.flatten(structure[0])

    @tf.custom_gradient
    def forward(*tensors):
        wanted = [place for place, tensor in enumerate(tensors) if tensor.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch([tensors[place] for place in wanted])
            outputs = run(tensors)

        def backward(*upstream, variables=()):
            pairs = [pair for pair in zip(outputs, upstream, strict=True) if pair[0].dtype.is_floating]
            sources = [[tensors[place] for place in wanted], list(variables)]
            with tf.device(device):
                of_inputs, of_variables = tape.gradient([y for y, _ in pairs], sources, [change for _, change in pairs])
                of_variables = [None if each is None else tf.convert_to_tensor(each) for each in of_variables]
            gradients = [None] * len(tensors)
            for place, gradient in zip(wanted, of_inputs, strict=True):
                gradients[place] = gradient
            return (gradients, of_variables) if variables else gradients

        return outputs, backward

    with tf.device(device):
        outputs = forward(*(leaves[place] for place in places))
    return tf.nest.pack_sequence_as(structure[0], outputs)


# Shards: layers in pieces.


@dataclass(frozen=True)
class Cut:
    """How a weight is divided: along an axis, on which matrices of these widths lie side by side, each into as many pieces.

    The pieces of a kernel of queries, keys and values have some heads of each. Widths that the pieces do not divide make
    pieces that differ by one.
    """

    axis: int
    widths: tuple[int, ...]

    def piece(self, whole: np.ndarray, index: int, pieces: int) -> np.ndarray:
        """Returns piece `index` of a whole array."""
        matrices = np.split(whole, np.cumsum(self.widths)[:-1], self.axis)
        bounds = [piece_bounds(width, pieces) for width in self.widths]
        taken = [
            np.take(matrix, range(bound[index], bound[index + 1]), self.axis)
            for matrix, bound in zip(matrices, bounds, strict=True)
        ]
        return np.concatenate(taken, self.axis)

    def joined(self, pieces: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the whole array of all its pieces."""
        bounds = [piece_bounds(width, len(pieces)) for width in self.widths]
        matrices: list[list[np.ndarray]] = []
        for index, piece in enumerate(pieces):
            ends = np.cumsum([bound[index + 1] - bound[index] for bound in bounds])
            matrices.append(np.split(piece, ends[:-1], self.axis))
        return np.concatenate([part for parts in zip(*matrices, strict=True) for part in parts], self.axis)


def piece_bounds(width: int, pieces: int) -> list[int]:
    """Returns where each of the pieces of a width begins, and the end."""
    return [width * piece // pieces for piece in range(pieces + 1)]


@dataclass(frozen=True)
class Shard:
    """What a weight of a sharded layer is a piece of; the attribute `shard` of such weights and of their optimiser's."""

    path: str  # of the whole weight, as it is in a network without a mesh
    cut: Cut | None  # None: it is whole, and shared by all shards


def shard_count() -> int:
    """Returns how many shards a layer is to have that is built now; 1: it is to be whole."""
    mesh = current_mesh()
    return 1 if mesh is None else len(mesh.shards)


def divided(layer: keras.layers.Layer, name: str, count: int) -> int:
    """Returns how many of a layer's heads or columns a shard gets on the mesh in scope; ValueError if not a whole number."""
    shards = shard_count()
    if count % shards:
        raise ValueError(f"mesh: model: {shards} devices do not divide the {count} {name} of {layer.name}")
    return count // shards


def sharded(
    layer: keras.layers.Layer,
    shard: Callable[[list[keras.layers.Layer]], keras.layers.Layer],
    cuts: Mapping[str, Cut],
    input_shape: tuple | None = None,
) -> list[keras.layers.Layer]:
    """Returns the built shards of a layer on the mesh whose scope this is: call it in the layer's `build`.

    The weights together are those that the layer would have begun with. What no cut names is the first shard's alone.

    Args:
        layer: what is in shards; its own parts stay without weights.
        shard: makes the next shard, a narrower layer, of the list of those before it.
        cuts: how kernels, and biases as wide, are divided, by the attribute that layer and shards have the part in that
            has them and an `initializer`; "" for the layer itself.
    """
    devices = current_mesh().shards
    drawn = {name: _Drawn(_part(layer, name).initializer, cut, len(devices)) for name, cut in cuts.items()}
    shards: list[keras.layers.Layer] = []
    for device in devices:
        with _undrawn():
            made = shard(shards)
        with _scoped(None), tf.device(device):
            made.device = device
            for name, initializer in drawn.items():
                part = _part(made, name)
                part.initializer = initializer
                if shards and cuts[name].axis == 0 and hasattr(part, "has_bias"):
                    part.has_bias = False  # once is enough in a sum
            made.build(input_shape)
        owners = {id(weight): cut for name, cut in cuts.items() for weight in _part(made, name).weights}
        for weight in made.weights:
            if not hasattr(weight, "shard"):
                cut = owners.get(id(weight))
                whole = cut is None or (cut.axis == 0 and len(weight.shape) == 1)
                path = "/".join(part for part in weight.path.split("/") if part != made.name)
                weight.shard = Shard(path, None if whole else cut)
        shards.append(made)
    return shards


def shard_config(layer: keras.layers.Layer, before: Sequence, **changes: Any) -> dict[str, Any]:
    """Returns the config of a layer's next shard, with some changes; `before` are those it has."""
    return {**layer.get_config(), **changes, "name": f"shard_{len(before)}", "initializer": "zeros"}


def _part(layer: keras.layers.Layer, name: str) -> keras.layers.Layer:
    return getattr(layer, name) if name else layer


class _Drawn:
    """An initialiser that draws a whole weight once and hands out its pieces, one a call."""

    def __init__(self, draw: Callable, cut: Cut, pieces: int):
        self.draw, self.cut, self.pieces = draw, cut, pieces
        self._whole: np.ndarray | None = None
        self._given = 0

    def __call__(self, shape, dtype=None):
        if getattr(self.draw, "unwritten", False):
            return self.draw(shape, dtype)
        if self._whole is None:
            whole = list(shape)
            whole[self.cut.axis] = sum(self.cut.widths)
            self._whole = np.asarray(self.draw(tuple(whole), dtype))
        piece = self.cut.piece(self._whole, self._given, self.pieces)
        self._given += 1
        if self._given == self.pieces:
            self._whole = None
        return tf.convert_to_tensor(piece)


@contextlib.contextmanager
def _undrawn() -> Iterator[None]:
    """Within it Keras draws seeds for layers from Python's random numbers without using them up."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


# Wholes: what is outside of a mesh sees of the weights in it.


class Whole:
    """A weight in pieces, or its optimiser's, with what a `keras.Variable` has that checkpoints need."""

    def __init__(self, path: str, cut: Cut | None, pieces: Sequence[keras.Variable | tf.Variable]):
        self.path, self._cut, self._pieces = path, cut, list(pieces)
        self.name, self.dtype = self.path.rpartition("/")[2], pieces[0].dtype
        shape = list(pieces[0].shape)
        if self._cut is not None:
            shape[self._cut.axis] = sum(self._cut.widths)
        self.shape = tuple(shape)

    @property
    def value(self) -> Whole:
        """Itself: an array for numpy and a tensor for TensorFlow, gathered when it is read."""
        return self

    def numpy(self) -> np.ndarray:
        """Returns the whole array."""
        pieces = [np.asarray(tf.convert_to_tensor(_value(piece))) for piece in self._pieces]
        return pieces[0] if self._cut is None else self._cut.joined(pieces)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.numpy().astype(dtype) if dtype is not None else self.numpy()

    def assign(self, array) -> None:
        """Gives each device its piece of a whole array; ValueError for another shape."""
        array = np.asarray(array)
        if array.shape != self.shape:
            raise ValueError(f"{self.path}: expected an array of shape {list(self.shape)}, got {list(array.shape)}")
        for index, piece in enumerate(self._pieces):
            part = array if self._cut is None else self._cut.piece(array, index, len(self._pieces))
            piece.assign(part)


def whole(variables: Iterable[Any], like: Sequence[keras.Variable] | None = None) -> list[Any]:
    """Returns variables with a `Whole` for each weight in shards; the others as they are.

    The result has the number, order, shapes and paths of the same network's without a mesh. Each has `path`, `shape`,
    `numpy()` and `assign(array)`.

    Args:
        variables: a model's weights, or its optimiser's variables.
        like: weights that the variables belong to, one each, where these say nothing of shards: of averages.
    """
    variables = list(variables)
    shards = [getattr(each, "shard", None) for each in (variables if like is None else like)]
    pieces: dict[str, list[Any]] = {}
    for variable, shard in zip(variables, shards, strict=True):
        if shard is not None:
            pieces.setdefault(shard.path, []).append(variable)
    found: dict[Any, Any] = {}
    for variable, shard in zip(variables, shards, strict=True):
        if shard is None:
            found[id(variable)] = variable
        elif shard.path not in found:
            path = shard.path if like is None else variable.name
            found[shard.path] = Whole(path, shard.cut, pieces[shard.path])
    return list(found.values())


def slot_of(weight: keras.Variable, slot: keras.Variable) -> keras.Variable:
    """Returns an optimiser's variable, having noted that it is divided as the weight is that it belongs to."""
    shard = getattr(weight, "shard", None)
    if shard is not None:
        path = slot.path.replace(weight.path.replace("/", "_"), shard.path.replace("/", "_"))
        slot.shard = replace(shard, path=path)
    return slot


def homes(weights: Sequence[Any]) -> list[Callable[[], contextlib.AbstractContextManager[None]]] | None:
    """Returns, for each of some weights, what opens a scope of its device; None where all are on the same one.

    What is computed of gradients stays on their weights' devices so; else it would all pass through the first.
    """
    devices = [_value(weight).device for weight in weights]
    return [functools.partial(tf.device, device) for device in devices] if len(set(devices)) > 1 else None


def _value(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
