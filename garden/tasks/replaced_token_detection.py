"""Replaced token detection: a small generator fills masks, and the network learns which tokens it wrote (Clark et al., 2020).

Shapes: E texts of a batch, B rows, T row length, P masked places a row, V vocabulary, L most tokens of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from garden.checkpoints import huggingface
from garden.layers.dropout import next_seed
from garden.models.backbone import family_of, load_weights, open_weights
from garden.tasks.batching import pad, tokens_of
from garden.tasks.examples import as_examples
from garden.tasks.inputs import is_prepared
from garden.tasks.masked_lm import MaskedLM
from garden.tasks.task import Task

GENERATOR = "generator"
"""Where `save_pretrained` puts the generator, below the discriminator's directory."""


class Generator(MaskedLM):
    """The generator: a masked language model that sees 85 % of its places masked, as the authors' code has it."""

    mask_shares = (0.85, 0.0)


class ReplacedTokenDetector(Task):
    """A discriminator, ELECTRA, and the generator that it is trained with.

        model = ReplacedTokenDetector.from_pretrained(directory)      # and directory/generator, where there is one
        model.fit(texts)
        model.predict_text("the chef ate the meal")    # {"tokens": ["the", "chef", ...], "scores": [0.01, 0.6, ...]}

    The generator's masked-LM loss and `discriminator_weight` times the discriminator's loss over all real tokens add up to the
    loss: `generator_loss` and `discriminator_loss`. Each chosen token is replaced by one that the generator draws; where that
    is the original, it counts as original. No gradient passes through the draw, which is a function of the seed, the step
    and the replica. The two share their embeddings where these are as wide.

    Called with `{"token_ids": [B,T], ...}` it returns logits [B,T], above zero where the token was replaced. Prepared batches
    are a masked LM's: `(x, mask_ids, mask_weights)`.

    Args:
        generator: the generator, a masked language model.
        discriminator_weight: factor of the discriminator's loss.
        temperature: of the draw.
        others: see `Task`. `row_length` is the rows' length while training.
    """

    name_in_configs = "replaced-token-detection"
    label_field = None
    loss_factors = {"generator_loss": 1.0, "discriminator_loss": 50.0}

    def __init__(
        self,
        backbone,
        tokenizer,
        head,
        *,
        generator: MaskedLM,
        discriminator_weight: float = 50.0,
        temperature: float = 1.0,
        row_length: int = 128,
        **kwargs,
    ):
        for name, value in (("discriminator_weight", discriminator_weight), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        super().__init__(backbone, tokenizer, head, row_length=row_length, **kwargs)
        self.generator, self.temperature = generator, temperature
        self.loss_factors = {"generator_loss": 1.0, "discriminator_loss": discriminator_weight}

    @classmethod
    def from_pretrained(cls, directory, *, generator: str | Path | Mapping[str, Any] | None = None, **options: Any):
        """As `Task`'s, and in addition:

        Args:
            generator: its directory, default `generator/` in this one; or sizes of a new one, called as in config.json.
            generator_size: width of a new one, as a share of the discriminator's; default: 0.25.
            mask_rate: share of each row's tokens that are chosen; default: 0.15.
        """
        inside = Path(directory) / GENERATOR
        if generator is None and (inside / huggingface.CONFIG_FILE).is_file():
            generator = inside
        return super().from_pretrained(directory, generator=generator, **options)

    @classmethod
    def build_on(
        cls,
        backbone,
        tokenizer,
        *,
        generator: str | Path | Mapping[str, Any] | None = None,
        generator_size: float = 0.25,
        mask_rate: float = 0.15,
        discriminator_weight: float = 50.0,
        temperature: float = 1.0,
        row_length: int = 128,
        **options,
    ):
        """Makes it with a new head on a discriminator's backbone; options as of `from_pretrained` and the class."""
        family = backbone.family
        if isinstance(generator, str | Path):
            values, where = huggingface.read_config(generator), Path(generator) / huggingface.CONFIG_FILE
            if family_of(values, where) is not family:
                raise ValueError(f'{where}: model_type: expected "{family.model_type}", got "{values["model_type"]}"')
            config = family.config.from_dict(values, where)
        else:
            config = backbone.config.generator(generator_size, **generator or {})
        tables = ("embedding_size", "vocab_size", "max_position_embeddings", "type_vocab_size")
        shared = all(getattr(config, name) == getattr(backbone.config, name) for name in tables)
        made = {"dtype": backbone.dtype_policy}
        network = family.backbone(config, embeddings=backbone if shared else None, name="generator", **made)
        head = family.heads["masked-lm"](network, name="generator_head", **made)
        if isinstance(generator, str | Path):
            with open_weights(generator, family) as weights:
                load_weights(network, {"head": head}, weights, strict=True)
        common = {"row_length": row_length, **options}
        head_of_ours = family.heads[cls.name_in_configs](backbone, dtype=backbone.dtype_policy, name="head")
        return cls(
            backbone,
            tokenizer,
            head_of_ours,
            generator=Generator(network, tokenizer, head, mask_rate=mask_rate, **common),
            discriminator_weight=discriminator_weight,
            temperature=temperature,
            **common,
        )

    def save_parts(self, directory: Path) -> None:
        self.generator.save_pretrained(directory / GENERATOR)

    # Network.

    def call(self, inputs, training: bool = False) -> tf.Tensor:
        return self.head(self.backbone(inputs, training=training), training=training)

    def forward(self, x, y, sample_weight, *, training: bool) -> dict[str, tf.Tensor]:
        """Returns the generator's logits [B,P,V], and the discriminator's [B,T] for what it reads, `replaced` [B,T] bool."""
        generated = tf.cast(self.generator(x, training=training), tf.float32)
        counted = tf.cast(tf.ones_like(y) if sample_weight is None else sample_weight > 0, tf.int32)
        places = x["mask_positions"]
        rows = tf.broadcast_to(tf.range(tf.shape(places)[0])[:, None], tf.shape(places))
        places = tf.stack([rows, tf.cast(places, tf.int32)], axis=-1)

        # Added, not written: places that do not count may name any token, and several times.
        def changed(token_ids: tf.Tensor, old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
            return tf.tensor_scatter_nd_add(token_ids, places, counted * (new - old))

        original = changed(x["token_ids"], tf.gather_nd(x["token_ids"], places), y)
        corrupted = changed(original, y, self.sampled(generated, x["token_ids"]))
        seen = {name: value for name, value in x.items() if name != "mask_positions"} | {"token_ids": corrupted}
        return {"masked": generated, "replaced": self(seen, training=training), "is_replaced": corrupted != original}

    def sampled(self, logits: tf.Tensor, token_ids: tf.Tensor) -> tf.Tensor:
        """Returns tokens [B,P] drawn from the generator's logits [B,P,V]; no gradient passes.

        Outside of training the seed is a function of the rows' tokens [B,T], so that an evaluation repeats.
        """
        seed = next_seed()
        if seed is None:
            seed = tf.random.experimental.stateless_fold_in(tf.constant([self.seed, 0]), tf.reduce_sum(token_ids))
        # A table may have rows that are no token's.
        logits = tf.stop_gradient(logits[..., : self.tokenizer.vocabulary_size]) / self.temperature
        flat = tf.reshape(logits, [-1, self.tokenizer.vocabulary_size])
        drawn = tf.random.stateless_categorical(flat, 1, seed, dtype=tf.int32)
        return tf.reshape(drawn, tf.shape(logits)[:2])

    # Losses.

    def default_loss(self) -> None:
        return None

    def default_metrics(self) -> dict[str, list]:
        metrics = keras.metrics
        return {
            "masked": [metrics.SparseCategoricalAccuracy(name="accuracy")],
            "replaced": [
                metrics.BinaryAccuracy(name="accuracy"),
                metrics.Precision(name="precision"),
                metrics.Recall(name="recall"),
            ],
        }

    def example_targets(self):
        labels = {"masked": tf.zeros([1], tf.int32), "replaced": tf.zeros([1])}
        return labels, {"masked": tf.zeros([1, self.backbone.config.vocab_size]), "replaced": tf.zeros([1])}

    def loss_terms(self, x, y, y_pred, sample_weight):
        labels, logits, weights = self._targets(x, y, y_pred, sample_weight)
        generator = tf.nn.sparse_softmax_cross_entropy_with_logits(labels["masked"], logits["masked"])
        discriminator = tf.nn.sigmoid_cross_entropy_with_logits(labels["replaced"], logits["replaced"])
        return {
            "generator_loss": (generator, weights["masked"]),
            "discriminator_loss": (discriminator, weights["replaced"]),
        }

    def metric_inputs(self, x, y, y_pred, sample_weight):
        labels, logits, weights = self._targets(x, y, y_pred, sample_weight)
        predictions = {"masked": logits["masked"], "replaced": tf.sigmoid(logits["replaced"])}
        return labels, predictions, {part: tf.cast(weight > 0, tf.float32) for part, weight in weights.items()}

    def _targets(self, x, y, y_pred, sample_weight) -> tuple[dict[str, tf.Tensor], ...]:
        """Returns labels, logits and weights of the two networks' places, each in one line."""
        labels, logits, weights = self.generator.flat(y, y_pred["masked"], sample_weight)
        real = tf.ones_like(x["token_ids"]) if x.get("segment_ids") is None else x["segment_ids"]
        found = (y_pred["is_replaced"], y_pred["replaced"], real > 0)
        found = tuple(tf.reshape(tf.cast(values, tf.float32), [-1]) for values in found)
        both = zip((labels, logits, weights), found, strict=True)
        return tuple({"masked": ours, "replaced": theirs} for ours, theirs in both)

    # Inputs.

    def label_values(self, labels):
        return self.generator.label_values(labels)

    def labelled(self, batch, class_weight):
        return self.generator.labelled(batch, class_weight)

    def inputs(self, batch, *, training, seed):
        return self.generator.inputs(batch, training=training, seed=seed)

    # Answers.

    def predict(self, x, batch_size: int | None = None, **kwargs):
        """Returns the logits of rows of ids (dictionaries with `token_ids`), as Keras's `predict`.

        Raises ValueError for texts: their rows differ in length, and `predict_text` answers them.
        """
        if not (isinstance(x, dict) or (isinstance(x, tf.data.Dataset) and is_prepared(x))):
            raise ValueError("predict: texts have rows of many lengths; use predict_text for answers")
        return super().predict(x, batch_size=batch_size, **kwargs)

    def answer(self, texts: tf.Tensor, pairs: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Returns each text's tokens, special ones left out, in the graph: `tokens` [E,L] string, `scores` [E,L] float32.

        A score is the chance that the token was replaced. Rows are padded with "" and 0.
        """
        encoded = self.tokenizer.encode(texts, pairs, max_length=self.sequence_length)
        token_ids = encoded.token_ids
        logits = self(tokens_of(pad(token_ids, encoded.type_ids, pad_id=self.tokenizer.pad_id or 0)))
        scores = tf.RaggedTensor.from_tensor(tf.sigmoid(tf.cast(logits, tf.float32)), lengths=token_ids.row_lengths())
        special = tf.constant(self.tokenizer.special_ids)
        words = token_ids.with_values(~tf.reduce_any(token_ids.values[:, None] == special, axis=-1))
        tokens = tf.ragged.map_flat_values(tf.gather, tf.constant(self.tokenizer.vocabulary), token_ids)
        return {
            "tokens": tf.ragged.boolean_mask(tokens, words).to_tensor(),
            "scores": tf.ragged.boolean_mask(scores, words).to_tensor(),
        }

    def predict_text(self, texts, batch_size: int = 32) -> list[dict[str, Any]] | dict[str, Any]:
        """Returns each text's tokens and their chances to have been replaced: `{"tokens": ["chef"], "scores": [0.9]}`.

        For one text that is no list, its answer.
        """
        examples = as_examples([texts] if isinstance(texts, str) else texts)
        answers = []
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            given = self._compiled_answer(*(tf.constant(side) for side in (part.texts, part.pairs) if side is not None))
            for tokens, scores in zip(given["tokens"].numpy(), given["scores"].numpy(), strict=True):
                kept = tokens != b""
                tokens = [token.decode() for token in tokens[kept]]
                answers.append({"tokens": tokens, "scores": [float(score) for score in scores[kept]]})
        return answers[0] if isinstance(texts, str) else answers
