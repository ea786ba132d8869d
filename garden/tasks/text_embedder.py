"""Text embedding: one vector a text, close to those of texts that mean the same.

Learnt by contrast (SimCSE, Gao et al., 2021): a text's partner has to be the closest of all candidates in the global batch.
Partners are given, or are the same text under another dropout.
Shapes: E texts of a batch, R rows, Q texts in a row, D width, M = R x Q here, N candidates of all replicas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from garden.checkpoints.sentence_transformers import Modules, read_modules, write_modules
from garden.layers import first_positions, last_positions
from garden.layers.pooling import first_segments, mean_of_texts
from garden.tasks.batching import spread, unpack
from garden.tasks.examples import as_examples
from garden.tasks.task import Task

POOLINGS = ("mean", "first", "last")


class TextEmbedder(Task):
    """A backbone whose states become one vector a text.

        model = TextEmbedder.from_pretrained(directory)
        model.predict_text(["a text", "another"])          # a list of arrays [D]
        model.fit(texts)                                   # each text and itself under another dropout
        model.fit([("a question", "its answer"), ...])     # pairs that belong together

    Called with `{"token_ids": [B,T], ...}` it returns vectors [B,D] float32, of one text a row; with `text_positions` and
    `text_ends` [R,Q] (packed rows, see `batching.pack`) [R,Q,D].

    The loss is InfoNCE: cross-entropy of an anchor's partner among the candidates of all replicas, by similarity over
    `temperature`. Prepared batches are `(x, groups, weights)`, [R,Q] each: texts of one group, a number from 0, belong
    together, and -1 is no text; weight 1 makes a text an anchor, 0 a candidate. A candidate whose group has no anchor is a
    negative for all.

    Args:
        pooling: "mean" of a text's states, or the state of its "first" or "last" token. Default: as the checkpoint says
            (sentence-transformers' modules.json), or the family's usual one.
        normalize: whether vectors have length 1. Similarities in training are cosines in any case. Default: as the checkpoint
            says, or so.
        temperature: what similarities are divided by in training.
        others: see `Task`.
    """

    divisible = False
    name_in_configs = "text-embedding"
    label_field = None
    answers_pairs = False
    kept_options = ("sequence_length", "temperature")

    def __init__(
        self,
        backbone,
        tokenizer,
        head,
        *,
        pooling: str | None = None,
        normalize: bool = True,
        temperature: float = 0.05,
        **kwargs,
    ):
        pooling = pooling or head.pooling
        if pooling not in POOLINGS:
            raise ValueError(f'pooling: expected one of {", ".join(POOLINGS)}, got "{pooling}"')
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        super().__init__(backbone, tokenizer, head, **kwargs)
        self.pooling, self.normalize, self.temperature = pooling, normalize, temperature

    @classmethod
    def from_pretrained(cls, directory, **options: Any):
        """As `Task`'s; what sentence-transformers' files say of pooling, normalisation and length are the defaults."""
        modules = read_modules(directory)
        if modules is not None:
            said = {"pooling": modules.pooling, "normalize": modules.normalize}
            if modules.sequence_length:
                said["sequence_length"] = modules.sequence_length
            options = {**said, **options}
        return super().from_pretrained(directory, **options)

    @classmethod
    def build_on(cls, backbone, tokenizer, **options):
        head_class = backbone.family.heads[cls.name_in_configs]
        return cls(backbone, tokenizer, head_class(backbone, dtype=backbone.dtype_policy, name="head"), **options)

    def save_parts(self, directory) -> None:
        modules = Modules(pooling=self.pooling, normalize=self.normalize, sequence_length=self.sequence_length)
        write_modules(directory, modules, self.backbone.width)

    def compile(self, *args, accumulate: int = 1, **kwargs):
        """As `Task`'s."""
        if accumulate != 1:
            raise ValueError(
                f"accumulate: a batch of contrasts cannot be computed in {accumulate} parts; leave it at 1"
            )
        super().compile(*args, **kwargs)

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        if self.pooling == "mean":
            vectors = self._means(inputs, training)
        else:
            vectors = self.backbone(inputs, read_positions=self._places(inputs), training=training)["sequence"]
        vectors = tf.cast(vectors, tf.float32)
        vectors = tf.math.l2_normalize(vectors, axis=-1) if self.normalize else vectors
        return vectors if "text_positions" in inputs else vectors[:, 0]

    def _means(self, inputs: Mapping[str, tf.Tensor], training: bool) -> tf.Tensor:
        states = self.backbone(inputs, training=training)["sequence"]
        segment_ids = inputs.get("segment_ids")
        segment_ids = tf.ones(tf.shape(states)[:2], tf.int32) if segment_ids is None else tf.cast(segment_ids, tf.int32)
        places = inputs.get("text_positions")
        packed = places is not None
        texts = tf.gather(segment_ids, places, batch_dims=1) if packed else first_segments(segment_ids)[:, None]
        return mean_of_texts(states, segment_ids, texts)

    def _places(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns where the token stands that a text is read from, [R,Q] or [B,1]."""
        token_ids = inputs["token_ids"]
        segment_ids = inputs.get("segment_ids")
        segment_ids = tf.ones_like(token_ids) if segment_ids is None else tf.convert_to_tensor(segment_ids)
        first = self.pooling == "first"
        if "text_positions" in inputs:
            return inputs["text_positions" if first else "text_ends"]
        return (first_positions if first else last_positions)(segment_ids)[:, None]

    # Losses.

    def default_loss(self) -> keras.losses.Loss:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def default_metrics(self) -> list:
        return [keras.metrics.SparseCategoricalAccuracy(name="partner_accuracy")]

    def example_targets(self):
        return tf.zeros([1], tf.int32), tf.zeros([1, 1])

    def forward(self, x, y, sample_weight, *, training: bool) -> dict[str, tf.Tensor]:
        """Returns the anchors' `similarities` to all candidates over the temperature [A,N], `partners` and `weights` [A]."""
        vectors = tf.math.l2_normalize(self(x, training=training), axis=-1)
        vectors, groups = tf.reshape(vectors, [-1, vectors.shape[-1]]), tf.reshape(y, [-1])
        weights = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        anchors, candidates = (groups >= 0) & (weights > 0), (groups >= 0) & (weights == 0)
        others, groups_of_others = (
            of_all_replicas(tf.boolean_mask(values, candidates)) for values in (vectors, groups)
        )
        same = tf.boolean_mask(groups, anchors)[:, None] == groups_of_others
        # Where replicas number their groups by themselves the partner is the candidate of the anchor's own replica.
        replica = tf.fill(tf.shape(groups), tf.distribute.get_replica_context().replica_id_in_sync_group)
        here = tf.boolean_mask(replica, anchors)[:, None] == of_all_replicas(tf.boolean_mask(replica, candidates))
        score = tf.cast(same, tf.int32) + tf.cast(same & here, tf.int32)
        paired = tf.reduce_any(same, axis=1)
        return {
            "similarities": tf.matmul(tf.boolean_mask(vectors, anchors), others, transpose_b=True) / self.temperature,
            "partners": tf.argmax(score, axis=1, output_type=tf.int32),
            "weights": tf.boolean_mask(weights, anchors) * tf.cast(paired, tf.float32),
        }

    def flat(self, y, y_pred, sample_weight):
        """Returns the anchors' partners [A], similarities [A,N] and weights [A]."""
        return y_pred["partners"], y_pred["similarities"], y_pred["weights"]

    # Inputs.

    def label_values(self, labels):
        if labels is not None:
            raise ValueError("labels: text embedding has none; give texts, or pairs of texts that belong together")

    def labelled(self, batch, class_weight):
        if class_weight:
            raise ValueError("class_weight: text embedding has no classes; give sample_weight")
        return {"weight": tf.ones(tf.shape(batch["text"])), **batch}

    def inputs(self, batch, *, training, seed):
        encoded = self.tokenizer.encode(batch["text"], max_length=self.sequence_length)
        if "weight" not in batch:
            return (self.rows(encoded.token_ids, encoded.type_ids, training=training),)
        partners = encoded
        if "pair" in batch:
            partners = self.tokenizer.encode(batch["pair"], max_length=self.sequence_length)
        token_ids = tf.concat([encoded.token_ids, partners.token_ids], axis=0)
        x = self.rows(token_ids, tf.zeros_like(token_ids), training=training)
        count = tf.size(batch["text"])
        groups = tf.tile(tf.range(count), [2])
        weights = tf.pad(tf.cast(batch["weight"], tf.float32), [[0, count]])
        return x, spread(groups + 1, x["text_index"]) - 1, spread(weights, x["text_index"])

    # Answers.

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns `embedding` [E,D] float32 of texts [E], in the graph."""
        x = self.batched(texts)
        return {"embedding": unpack(self(x), x["text_index"], tf.size(texts))}

    def predict_text(self, texts, batch_size: int = 64) -> list[np.ndarray] | np.ndarray:
        """Returns an array [D] float32 for each text; for one text that is no list, its array."""
        examples = as_examples([texts] if isinstance(texts, str) else texts)
        if examples.pairs is not None:
            raise ValueError("texts: expected single ones, got pairs; a pair has two vectors")
        vectors: list[np.ndarray] = []
        for start in range(0, len(examples), batch_size):
            vectors += list(
                self._compiled_answer(tf.constant(examples.texts[start : start + batch_size]))["embedding"].numpy()
            )
        return vectors[0] if isinstance(texts, str) else vectors


def of_all_replicas(values: tf.Tensor) -> tf.Tensor:
    """Returns the values of all replicas in their order, [M,...] -> [N,...]; replicas may have different numbers.

    The gradient of a value is the sum of those that all replicas have for it: each replica's loss is its share of the
    global one, and another replica's may depend on this one's values.
    """
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return values
    count = tf.shape(values)[0]
    counts = replica.all_gather(count[None], axis=0)
    begin = tf.reduce_sum(tf.where(tf.range(tf.size(counts)) < replica.replica_id_in_sync_group, counts, 0))

    @tf.custom_gradient
    def gathered(local: tf.Tensor):
        def gradient(of_all: tf.Tensor) -> tf.Tensor:
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, of_all)[begin : begin + count]

        return replica.all_gather(local, axis=0), gradient

    return gathered(values)
