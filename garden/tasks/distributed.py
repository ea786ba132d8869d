"""A Keras model whose `fit`, `evaluate` and `predict` are right under every tf.distribute strategy.

Stock Keras 3 differs in four ways that matter here, each mended below:
- it averages scalar logs over replicas, which fails under MultiWorkerMirroredStrategy: steps return nothing, and
  results are read from the metrics' variables, which aggregate over all replicas;
- it builds the model on distributed values, which fails too: models here are built when they are made;
- it takes each replica's mean loss: here a step's loss is the weighted mean over the global batch, however unevenly its
  examples fall on replicas;
- it clips each replica's gradient: `optimization.clip_after_aggregation`.
"""

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers import LossScaleOptimizer

from garden.layers.dropout import step_seed
from garden.layers.mesh import homes
from garden.layers.recomputation import recomputation
from garden.tasks.averaging import Averages
from garden.tasks.optimization import Optimizer, clip_after_aggregation


class DistributedModel(keras.Model):
    """Base of tasks. A subclass says what one batch's losses are: `weighted_losses`, or `loss_terms` of several kinds."""

    loss_factors: Mapping[str, float] = {"loss": 1.0}
    """The means that add up to the loss: each one's name, which is a metric's too, and the factor that it is added with."""

    divisible: bool = True
    """Whether a batch's losses are its rows' own, so that a step may compute some rows at a time."""

    def __init__(self, *, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self._term_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_factors if name != "loss"}
        self._real_tokens = keras.metrics.Sum(name="real_tokens", dtype="float32")
        self._clock: tuple[float, float] | None = None
        self._rate = 0.0
        self.accumulate, self.recompute = 1, False
        self._skips = False
        self.averages: Averages | None = None

    def weighted_losses(self, x, y, y_pred, sample_weight) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns [M] losses and [M] weights; places that are only padding have weight 0."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its loss is")

    def loss_terms(self, x, y, y_pred, sample_weight) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Returns each of `loss_factors`' names with its losses and weights, as `weighted_losses` gives them."""
        return {"loss": self.weighted_losses(x, y, y_pred, sample_weight)}

    def forward(self, x, y, sample_weight, *, training: bool):
        """Returns the `y_pred` that losses and metrics are made of: `call`'s, unless they need more than a user gets."""
        return self(x, training=training)

    def metric_inputs(self, x, y, y_pred, sample_weight) -> tuple[Any, Any, Any]:
        """Returns what the compiled metrics see: labels [M,...], predictions [M,...] and weights [M] of 0 or 1.

        A task of several kinds of predictions returns three dictionaries, each with the same names.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say what its metrics measure")

    def example_targets(self) -> tuple[Any, Any]:
        """Returns labels and predictions of the kinds that `metric_inputs` gives, for metrics to be built on."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its metrics measure")

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        metrics=None,
        *,
        accumulate: int = 1,
        recompute: bool = False,
        ema: float | None = None,
        jit_compile: bool = False,
        **kwargs,
    ):
        """As Keras's, but everything is built at once, in the strategy's scope, and XLA is off unless asked for.

        Metrics count each example once, whatever its weight, and examples of weight 0 not at all. XLA makes a training
        step on CPUs slower.

        Args:
            accumulate: parts in which a step computes a batch (on each replica), one after another: the batch's gradient in
                the memory of a part.
            recompute: whether blocks are computed again in the backward pass, which frees the memory of their activations.
            ema: decay of an exponential moving average of the weights, `averages`; None: no average.
        """
        if accumulate < 1:
            raise ValueError(f"accumulate: expected a number of parts of at least 1, got {accumulate}")
        if accumulate > 1 and not self.divisible:
            raise ValueError(
                f"accumulate: a {type(self).__name__} tells each text from all others of its batch, which cannot be divided"
            )
        self.accumulate, self.recompute = accumulate, recompute
        with self.distribute_strategy.scope():
            optimizer = keras.optimizers.get(optimizer)
            # What Keras calls unweighted metrics would count padding: these are given weights of 0 and 1.
            super().compile(optimizer=optimizer, loss=loss, weighted_metrics=metrics, jit_compile=jit_compile, **kwargs)
            inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
            self._skips = isinstance(inner, Optimizer) and inner.skip_not_finite
            if not isinstance(inner, Optimizer):
                clip_after_aggregation(inner)
            self.optimizer.build(self.trainable_variables)
            self.averages = None if ema is None else Averages(self.trainable_variables, ema)
            if self._compile_metrics is not None:
                self._compile_metrics.build(*self.example_targets())

    # One step, on one replica.

    def train_step(self, data) -> None:
        loss, gradients = self._gradients(data) if self.accumulate == 1 else self._gradients_in_parts(data)
        # Counting steps and decaying weights need no data: without this they would be done once more when it ends.
        with tf.control_dependencies([loss]):
            self.optimizer.apply(self._agreed(gradients), self.trainable_variables)
            if self.averages is not None:
                self.averages.update(self.optimizer.iterations.value)

    def _agreed(self, gradients: list) -> list:
        """Returns gradients that overflow on all replicas, if they do on one.

        Keras's loss scaling skips such a step, and judges by one replica's gradients, before they are added up.
        """
        context = tf.distribute.get_replica_context()
        if not isinstance(self.optimizer, LossScaleOptimizer) or context.num_replicas_in_sync == 1:
            return gradients
        finite = [
            tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(each))) for each in gradients if each is not None
        ]
        overflows = tf.cast(~tf.reduce_all(tf.stack(finite)), tf.float32)
        overflows = context.all_reduce(tf.distribute.ReduceOp.SUM, overflows)
        spoilt = tf.where(overflows > 0, math.nan, 1.0)
        return [
            None if each is None else tf.convert_to_tensor(each) * tf.cast(spoilt, each.dtype) for each in gradients
        ]

    def _gradients(self, data, totals=None, part=None, parts=1) -> tuple[tf.Tensor, list]:
        """Returns this replica's share of the loss and of its gradient, and measures what is predicted on the way.

        Of a part of several, the part's share; `totals` are the global batch's weights then.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred, terms = self._predicted(x, y, sample_weight, part)
            loss = self._global_loss(terms, self._total_weights(terms) if totals is None else totals, parts)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self._measure(terms, x, y, y_pred, sample_weight)
        return loss, gradients

    def _predicted(self, x, y, sample_weight, part=None) -> tuple[Any, dict[str, tuple[tf.Tensor, tf.Tensor]]]:
        with step_seed(self.seed, self.optimizer.iterations.value, part), recomputation(self.recompute):
            y_pred = self.forward(x, y, sample_weight, training=True)
        return y_pred, self.loss_terms(x, y, y_pred, sample_weight)

    def _gradients_in_parts(self, data) -> tuple[tf.Tensor, list]:
        """Returns what `_gradients` does, computed with some of the rows at a time."""
        # Of this pass only the weights are used, so that the graph leaves out everything that they do not depend on.
        totals = self._total_weights(self._predicted(*keras.utils.unpack_x_y_sample_weight(data))[1])
        first = tf.nest.flatten(data)[0]
        rows, known = tf.shape(first)[0], first.shape[0]
        places = homes(self.trainable_variables)
        # Without a loop their number is fixed, and some have no row.
        parts = self.accumulate if places else tf.clip_by_value(rows, 1, self.accumulate)
        even = known and known % self.accumulate == 0
        without: list[int] = []

        def slice_of(values, part):
            if values is None:
                return None
            some = values[rows * part // parts : rows * (part + 1) // parts]
            # Known shapes make faster steps.
            return tf.ensure_shape(some, [known // self.accumulate, *values.shape[1:]]) if even else some

        if places:
            return self._gradients_in_a_row(
                lambda part: tf.nest.map_structure(lambda x: slice_of(x, part), data), totals, places
            )

        def add(part, loss, sums):
            rows_of_part = tf.nest.map_structure(lambda values: slice_of(values, part), data)
            more, gradients = self._gradients(rows_of_part, totals, part, parts)
            without[:] = [index for index, gradient in enumerate(gradients) if gradient is None]
            return part + 1, loss + more, [_added(*pair) for pair in zip(sums, gradients, strict=True)]

        begin = (tf.constant(0), tf.constant(0.0), [tf.zeros(each.shape) for each in self.trainable_variables])
        _, loss, sums = tf.while_loop(lambda part, *_: part < parts, add, begin, parallel_iterations=1)
        return loss, [None if index in without else gradient for index, gradient in enumerate(sums)]

    def _gradients_in_a_row(self, rows_of, totals, places) -> tuple[tf.Tensor, list]:
        """Returns what `_gradients_in_parts` does, without a loop: of a network on several devices.

        Each device goes on with the next part when it has passed one on, and gradients are added up beside their weights.
        """
        loss, sums = tf.constant(0.0), [None] * len(places)
        for part in range(self.accumulate):
            more, gradients = self._gradients(rows_of(part), totals, part, self.accumulate)
            loss += more
            for index, (gradient, place) in enumerate(zip(gradients, places, strict=True)):
                with place():
                    if gradient is not None:
                        before = tf.zeros(gradient.shape) if sums[index] is None else sums[index]
                        sums[index] = _added(before, gradient)
        return loss, sums

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within it the weights are their averages, of a model that was compiled with `ema`."""
        return self.averages.used() if self.averages else contextlib.nullcontext()

    def test_step(self, data) -> None:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.forward(x, y, sample_weight, training=False)
        self._measure(self.loss_terms(x, y, y_pred, sample_weight), x, y, y_pred, sample_weight)

    def _total_weights(self, terms) -> dict[str, tf.Tensor]:
        """Returns each term's weight in the global batch."""
        totals = {name: tf.reduce_sum(weights) for name, (_, weights) in terms.items()}
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, totals)

    def _global_loss(self, terms, totals, parts=1) -> tf.Tensor:
        """Returns this replica's share of the global batch's loss: the shares of all replicas and parts add up to it."""
        loss = tf.add_n(
            [
                self.loss_factors[name] * tf.math.divide_no_nan(tf.reduce_sum(losses * weights), totals[name])
                for name, (losses, weights) in terms.items()
            ]
        )
        if self.losses:
            shares = tf.distribute.get_replica_context().num_replicas_in_sync * tf.cast(parts, tf.float32)
            loss += tf.add_n([tf.cast(term, tf.float32) for term in self.losses]) / shares
        return loss

    def _measure(self, terms, x, y, y_pred, sample_weight) -> None:
        for name, (losses, weights) in terms.items():
            if self._skips:  # a step that is skipped has no part in the mean
                finite = tf.math.is_finite(losses)
                losses, weights = tf.where(finite, losses, 0), tf.where(finite, weights, 0)
            self._term_trackers.get(name, self._loss_tracker).update_state(losses, sample_weight=weights)
        if self._compile_metrics is not None:
            labels, predictions, counted = self.metric_inputs(x, y, y_pred, sample_weight)
            self._compile_metrics.update_state(labels, predictions, sample_weight=counted)
        self._real_tokens.update_state(tf.cast(real_tokens(x), tf.float32))

    # Many steps, on all replicas.

    def make_train_function(self, force: bool = False):
        if self.train_function is None or force:
            self.train_function = self._stepper(self.train_step)
        return self.train_function

    def make_test_function(self, force: bool = False):
        if self.test_function is None or force:
            self.test_function = self._stepper(self.test_step)
        return self.test_function

    def _stepper(self, step):
        strategy = self.distribute_strategy
        one = strategy.num_replicas_in_sync == 1
        if self.jit_compile and not self.run_eagerly:
            step = tf.function(step, jit_compile=True, autograph=False)

        def run(batches) -> None:
            for _ in range(self.steps_per_execution if one else 1):
                strategy.run(step, args=(next(batches) if one else batches,))

        if not self.run_eagerly:
            run = tf.function(run, reduce_retracing=True, autograph=False)

        def function(iterator) -> dict[str, Any]:
            if not isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
                # `train_on_batch` and `test_on_batch` give a generator of one batch.
                iterator = iter(tf.data.Dataset.from_tensors(next(iterator)))
            try:
                if one:
                    run(iterator)
                else:
                    # Fetched outside of the graph: inside of it one replica would begin a step while another finds no data.
                    for _ in range(self.steps_per_execution):
                        run(next(iterator))
            except tf.errors.OutOfRangeError:
                raise StopIteration from None
            return self.get_metrics_result()

        return function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None) -> None:
        """Nothing: the model, its optimiser and its loss are built by now."""

    def reset_metrics(self) -> None:
        super().reset_metrics()
        self._clock, self._rate = None, 0.0

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns each metric's value so far and `real_tokens_per_second` (padding not counted)."""
        results = {name: value for name, value in super().get_metrics_result().items() if name != "real_tokens"}
        if "loss" not in self.loss_factors:
            results["loss"] = sum(factor * results[name] for name, factor in self.loss_factors.items())
        now, tokens = time.perf_counter(), float(self._real_tokens.result())
        if self._clock is None:
            # The first step of an epoch may include tracing: the rate counts from its end.
            self._clock = (now, tokens)
        elif tokens > self._clock[1]:
            self._rate = (tokens - self._clock[1]) / (now - self._clock[0])
        return {**results, "real_tokens_per_second": self._rate}


def _added(total: tf.Tensor, gradient: tf.Tensor | tf.IndexedSlices | None) -> tf.Tensor:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.tensor_scatter_nd_add(total, gradient.indices[:, None], tf.cast(gradient.values, total.dtype))
    return total if gradient is None else total + tf.cast(gradient, total.dtype)


def real_tokens(x: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns how many places of a network's inputs are no padding, targets included: a scalar."""
    given = [x[name] for name in ("segment_ids", "target_segment_ids") if name in x]
    if "segment_ids" not in x:
        given.append(tf.ones_like(x["token_ids"]))
    return tf.add_n([tf.math.count_nonzero(ids > 0) for ids in given])
