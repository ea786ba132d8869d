"""Heads: what turns a backbone's outputs into a task's logits. Families subclass them to say what their tensors are called.

Shapes: B batch, P read places (all T of them where a task reads everything), D model width, C classes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy
from garden.checkpoints.weights import Weights
from garden.layers import Dense, Dropout, Embedding, LayerNorm, activation
from garden.layers.mesh import last_stage
from garden.models.backbone import Backbone, dense, initializer, norm
from garden.models.config import Config


class Head(keras.layers.Layer):
    """Base of the heads: a layer from the dictionary that a backbone returns to logits [B,P,...]."""

    reads: ClassVar[Literal["first", "last", "end"]] = "first"
    """Which token stands for a text, where a task wants one answer a text: a decoder has seen all of it at its last.
    "end" is the last of the config's `eos_token_id`, behind which some families write the language."""

    backbone_parts: ClassVar[Mapping[str, Any]] = {}
    """Options of the backbone that the head needs, such as BERT's `pooler`."""

    optional_parts: ClassVar[tuple[str, ...]] = ()
    """Parts of the backbone that checkpoints may lack: they are trained with the head then."""

    optional_tensors: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of the head's own tensors that checkpoints may lack, as new ones serve as well."""

    marker: ClassVar[str]
    """A tensor that checkpoints with a trained head have; a classifier's first dimension is its number of classes."""

    @classmethod
    def trained_in(cls, weights: Weights, config: Config) -> bool:
        """Returns whether a checkpoint has the head's weights."""
        return cls.marker in weights

    def rules(self) -> list[Rule]:
        """Returns how the head's variables are made of a checkpoint's tensors, called by their full names."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its weights are called")


class DenseHead(Head):
    """Dropout and a dense layer, perhaps with another dense layer and an activation before: [B,P,D] -> [B,P,C].

    Args:
        backbone: what it sits on; its config has the rate of dropout.
        classes: C.
    """

    source: ClassVar[str] = "sequence"  # which of the backbone's outputs it reads
    inner: ClassVar[str | None] = None  # name of the dense layer before the last, if there is one
    inner_activation: ClassVar[str | None] = "tanh"  # None: the config's `hidden_act`
    inner_dropout: ClassVar[bool] = True  # whether there is dropout before it too
    outer: ClassVar[str] = "classifier"  # name of the last dense layer
    bias: ClassVar[bool] = True  # whether that adds one
    dropout_field: ClassVar[str | None] = "head_dropout"  # what the config calls the rate; None: no dropout
    marker = "classifier.weight"

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.marker = f"{cls.outer}.weight"

    def __init__(self, backbone: Backbone, classes: int, **kwargs):
        super().__init__(**kwargs)
        config, self.width = backbone.config, backbone.width
        made = {"initializer": initializer(config.initializer_range), "dtype": self.dtype_policy}
        rate = getattr(config, self.dropout_field) if self.dropout_field else 0.0
        self.dropout = Dropout(rate, dtype=self.dtype_policy)
        self.activation = activation(self.inner_activation or config.hidden_act) if self.inner else None
        self.inner_layer = Dense(self.width, name="inner", **made) if self.inner else None
        self.outer_layer = Dense(classes, bias=self.bias, name="outer", **made)
        self.build()

    def build(self, input_shape=None):
        for layer in (self.inner_layer, self.outer_layer):
            if layer is not None:
                layer.build((None, self.width))

    def call(self, outputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        x = outputs[self.source]
        if self.inner_layer is not None:
            x = self.dropout(x, training=training) if self.inner_dropout else x
            x = self.activation(self.inner_layer(x))
        return self.outer_layer(self.dropout(x, training=training))

    def rules(self) -> list[Rule]:
        inner = dense("inner", self.inner) if self.inner else []
        return inner + dense("outer", self.outer, bias=self.bias)


class QuestionAnsweringHead(DenseHead):
    """A dense layer to a start and an end logit for each token: [B,T,D] -> [B,T,2]."""

    outer = "qa_outputs"
    dropout_field = None


class EmbeddingHead(Head):
    """No weights at all: a text's vector is the mean of its states, or the state of its first or last token."""

    pooling: ClassVar[Literal["mean", "first", "last"]] = "mean"
    """What the family's networks are read by, unless the task is told otherwise."""

    def __init__(self, backbone: Backbone, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    @classmethod
    def trained_in(cls, weights: Weights, config: Config) -> bool:
        return True

    def rules(self) -> list[Rule]:
        return []


class VocabularyHead(Head):
    """Base of heads that score the whole vocabulary: [B,P,D] -> [B,P,V], with the token table or one of their own.

    `tie_word_embeddings` of the config says which. The token table stays the backbone's: saved and counted once.
    """

    table: ClassVar[str] = "lm_head.weight"  # name of the head's own table, where it is not tied
    bias: ClassVar[str | None] = None  # name of the bias [V], if there is one

    def __init__(self, backbone: Backbone, **kwargs):
        super().__init__(**kwargs)
        self.config = backbone.config
        self.tied = self.config.tie_word_embeddings
        made = {"initializer": initializer(self.config.initializer_range), "dtype": self.dtype_policy}
        if self.tied:
            # In a function: Keras would count a layer in an attribute, list or tuple as the head's.
            self._words = lambda: backbone.words
        else:
            self.words = Embedding(self.config.vocab_size, self.own_width(backbone), name="words", **made)
            self._words = lambda: self.words
        self.make_parts(backbone, made)
        self.build()

    @staticmethod
    def own_width(backbone: Backbone) -> int:
        """Width of a table of its own."""
        return backbone.words.width

    def make_parts(self, backbone: Backbone, made: Mapping[str, Any]) -> None:
        """Makes the head's further layers; `made` has their initializer and dtype. A head that has some builds them."""

    def build(self, input_shape=None):
        if not self.tied:
            with last_stage():
                self.words.build()
        if self.bias:
            self.vocabulary_bias = self.add_weight(name="bias", shape=(self.config.vocab_size,), initializer="zeros")

    def call(self, outputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self._words().logits(self.transformed(outputs["sequence"]), self.vocabulary_bias if self.bias else None)

    def transformed(self, x: tf.Tensor) -> tf.Tensor:
        """What is multiplied by the table."""
        return x

    def rules(self) -> list[Rule]:
        rules = [] if self.tied else [copy("words/table", self.table)]
        return [*rules, copy("bias", self.bias)] if self.bias else rules


class MaskedLMHead(VocabularyHead):
    """Dense, activation and norm, then the token table and a bias (Devlin et al., 2019)."""

    transform: ClassVar[str]  # name of the dense layer
    transform_norm: ClassVar[str]
    transform_activation: ClassVar[str | None] = None  # default: the config's `hidden_act`
    untied_bias: ClassVar[str | None] = None  # what is added instead of `bias` where the table is not tied

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.marker = f"{cls.transform}.weight"

    def make_parts(self, backbone: Backbone, made: Mapping[str, Any]) -> None:
        self.transform_layer = Dense(backbone.words.width, name="transform", **made)
        self.norm = LayerNorm(self.config.layer_norm_eps, name="norm", dtype=self.dtype_policy)
        self.activation = activation(self.transform_activation or self.config.hidden_act)
        self.widths = (backbone.width, backbone.words.width)

    def build(self, input_shape=None):
        width, table_width = self.widths
        self.transform_layer.build((None, width))
        self.norm.build((None, table_width))
        super().build(input_shape)

    def transformed(self, x: tf.Tensor) -> tf.Tensor:
        return self.norm(self.activation(self.transform_layer(x)))

    def rules(self) -> list[Rule]:
        rules = [*dense("transform", self.transform), *norm("norm", self.transform_norm), *super().rules()]
        if self.tied or not self.untied_bias:
            return rules
        # transformers adds the decoder's own bias then, and leaves the other one unread in the checkpoint.
        biases = (self.untied_bias, self.bias)
        both = Rule("bias", biases, read=lambda decoder, unread: decoder, write=lambda bias: (bias, bias))
        return [both if rule.variable == "bias" else rule for rule in rules]


class LanguageModelHead(VocabularyHead):
    """A product with the token table, or with `lm_head.weight`: logits of the token that follows each place."""

    marker = "lm_head.weight"

    @classmethod
    def trained_in(cls, weights: Weights, config: Config) -> bool:
        # Tied, it has no tensors of its own.
        return config.tie_word_embeddings or cls.marker in weights
