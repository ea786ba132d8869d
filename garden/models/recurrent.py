"""Recurrent networks over a token table: Elman's, LSTM and GRU, in one direction or both, with additive attention pooling.

Their checkpoints are Garden's own; tensors are called as torch.nn.RNN, LSTM and GRU call them, below `rnn`.
Shapes: B batch, T length, P wanted positions, D width of the states (of both directions together), E of the embeddings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from garden.checkpoints.weight_map import Rule, copy, transposed
from garden.checkpoints.weights import Weights
from garden.layers import (
    GRU,
    LSTM,
    AdditivePooling,
    Dense,
    Dropout,
    Elman,
    Embedding,
    RecurrentMemory,
    RecurrentStack,
)
from garden.layers.recurrent import Recurrent
from garden.models import heads
from garden.models.backbone import Backbone, Family, dense, initializer
from garden.models.config import Config


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(Config):
    """Sizes of a recurrent network; names are those of torch.nn.LSTM where it has one."""

    vocab_size: int
    embedding_size: int | None = None  # E; default: hidden_size
    hidden_size: int = 512  # of a direction's states
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    dropout: float = 0.1  # of the embeddings, and between layers
    classifier_dropout: float | None = None  # default: dropout
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    tie_word_embeddings: bool = True  # whether language-model heads multiply by the token table

    sizes = ("vocab_size", "hidden_size", "num_layers")
    heads = ()

    def __post_init__(self):
        super().__post_init__()
        if self.words_width < 1:
            raise ValueError(f"embedding_size: expected a positive number, got {self.embedding_size}")

    @property
    def words_width(self) -> int:
        """E."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def width(self) -> int:
        """D."""
        return self.hidden_size * (2 if self.bidirectional else 1)

    @property
    def initializer_range(self) -> float:
        """Standard deviation of new weights: products of states keep about their size."""
        return self.hidden_size**-0.5

    @property
    def head_dropout(self) -> float:
        return self.dropout if self.classifier_dropout is None else self.classifier_dropout


@dataclass(frozen=True, kw_only=True)
class ElmanConfig(RecurrentConfig):
    """Sizes of Elman's network, and its activation."""

    hidden_act: str = "tanh"  # sigma: "tanh", "sigmoid" or "relu"

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_act not in ("tanh", "sigmoid", "relu"):
            raise ValueError(f'hidden_act: expected "tanh", "sigmoid" or "relu", got "{self.hidden_act}"')


class RecurrentBackbone(Backbone):
    """Embeddings and recurrent layers.

    Inputs: `token_ids` [B,T]; optionally `segment_ids` [B,T] int32.
    Outputs: `sequence` [B,T,D]; `pooled`, where there is a pooler, a weighted mean of a text's states: [B,D], of each row's
    first text; with `read_positions` [B,P] of the texts that these places belong to, [B,P,D], and `sequence` is those places'.
    With `hidden_states=True` also `hidden_states`, a tuple: the embeddings [B,T,E] and each layer's output.
    With a `cache`, what one direction's layers remember, also the `cache` after T more tokens.
    """

    input_names = ("token_ids", "segment_ids")

    def __init__(self, config: RecurrentConfig, *, pooler: bool = True, **kwargs):
        super().__init__(config, **kwargs)
        made = {"dtype": self.dtype_policy, "initializer": initializer(config.initializer_range)}
        self.words = Embedding(config.vocab_size, config.words_width, name="words", **made)
        self.dropout = Dropout(config.dropout, dtype=self.dtype_policy, name="dropout")

        def layers(reverse: bool) -> list[Recurrent]:
            ending = "_reverse" if reverse else ""
            options = {**made, "bias": config.bias, "reverse": reverse}
            return [self.made_layer(name=f"layer_{index}{ending}", **options) for index in range(config.num_layers)]

        self.rnn = RecurrentStack(
            layers(False),
            layers(True) if config.bidirectional else (),
            dropout=config.dropout,
            dtype=self.dtype_policy,
            name="rnn",
        )
        self.pooler = AdditivePooling(name="pooler", **made) if pooler else None
        self.build()

    def made_layer(self, **options: Any) -> Recurrent:
        """Returns one layer of one direction."""
        raise NotImplementedError(f"{type(self).__name__} has to say what its layers are")

    @property
    def width(self) -> int:
        return self.config.width

    def build(self, input_shape=None):
        self.words.build()
        self.rnn.build((None, None, self.config.words_width))
        if self.pooler is not None:
            self.pooler.build((None, None, self.width))

    def call(
        self,
        inputs,
        *,
        read_positions=None,
        hidden_states: bool = False,
        cache: tuple[RecurrentMemory, ...] | None = None,
        training: bool = False,
    ):
        inputs = self.standardised(inputs)
        segment_ids = inputs["segment_ids"]
        x = self.dropout(self.words(inputs["token_ids"]), training=training)
        states = self.rnn(x, segment_ids, memory=cache, training=training)
        if cache is not None:
            states, cache = states
        outputs = {"sequence": states[-1]}
        texts = None
        if read_positions is not None:
            outputs["sequence"] = tf.gather(states[-1], read_positions, batch_dims=1)
            texts = tf.gather(segment_ids, read_positions, batch_dims=1)
        if self.pooler is not None:
            outputs["pooled"] = self.pooler(states[-1], segment_ids, texts)
        if hidden_states:
            outputs["hidden_states"] = (x, *states)
        return outputs | ({"cache": cache} if cache is not None else {})

    def empty_cache(self, batch: int | tf.Tensor, size: int | None = None) -> tuple[RecurrentMemory, ...]:
        """Returns what the layers remember before the first token; a state is as large after any number (`size`) of them."""
        return self.rnn.empty_memory(batch)

    def get_config(self) -> dict:
        return {**super().get_config(), "pooler": self.pooler is not None}

    @classmethod
    def parts_in(cls, weights: Weights, parts: Mapping[str, Any]) -> dict[str, Any]:
        return {"pooler": "pooler.score.weight" in weights, **parts}

    def rules(self) -> list[Rule]:
        layers = [*self.rnn.forward, *self.rnn.backward]
        rules = [copy("words/table", "embeddings.weight"), *recurrent_rules(layers, "rnn/", "rnn")]
        return rules + (pooling_rules() if self.pooler is not None else [])


def recurrent_rules(layers: Sequence[Recurrent], path: str, tensor: str) -> list[Rule]:
    """Returns the rules of layers below `path` that PyTorch calls `tensor`; their names end in their numbers, 0 without."""
    rules = []
    for layer in layers:
        number = layer.name.partition("_")[2] or "0"
        variable = f"{path}{layer.name}"
        rules += [
            transposed(f"{variable}/kernel", f"{tensor}.weight_ih_l{number}"),
            transposed(f"{variable}/recurrent_kernel", f"{tensor}.weight_hh_l{number}"),
        ]
        if layer.has_bias:
            rules += [
                copy(f"{variable}/bias", f"{tensor}.bias_ih_l{number}"),
                copy(f"{variable}/recurrent_bias", f"{tensor}.bias_hh_l{number}"),
            ]
    return rules


def pooling_rules() -> list[Rule]:
    """Returns the pooler's rules."""
    return [*dense("pooler/inner", "pooler.dense"), *dense("pooler/score", "pooler.score", bias=False)]


@keras.saving.register_keras_serializable("garden")
class ElmanBackbone(RecurrentBackbone):
    """Elman's network (Elman, 1990): h_t = sigma(W_hh h_{t-1} + W_xh x_t + b_h)."""

    def made_layer(self, **options):
        return Elman(self.config.hidden_size, activation=self.config.hidden_act, **options)


@keras.saving.register_keras_serializable("garden")
class LSTMBackbone(RecurrentBackbone):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997)."""

    def made_layer(self, **options):
        return LSTM(self.config.hidden_size, **options)


@keras.saving.register_keras_serializable("garden")
class GRUBackbone(RecurrentBackbone):
    """Gated recurrent units (Cho et al., 2014)."""

    def made_layer(self, **options):
        return GRU(self.config.hidden_size, **options)


class RecurrentTextHead(heads.DenseHead):
    """Over the pooled text."""

    source = "pooled"
    backbone_parts = {"pooler": True}
    optional_parts = ("pooler",)


class RecurrentTokenHead(heads.DenseHead):
    """Over every token."""

    backbone_parts = {"pooler": False}


class RecurrentEmbeddingHead(heads.EmbeddingHead):
    """Over all tokens."""

    backbone_parts = {"pooler": False}


class RecurrentAnswerHead(heads.QuestionAnsweringHead):
    """Start and end of an answer."""

    backbone_parts = {"pooler": False}


class RecurrentLanguageHead(heads.LanguageModelHead):
    """The vocabulary's logits: of a table of its own, or of the token table, after a dense layer where that is narrower."""

    backbone_parts = {"pooler": False}
    bias = "lm_head.bias"
    marker = "lm_head.bias"

    @staticmethod
    def own_width(backbone):
        return backbone.width

    def make_parts(self, backbone, made):
        self.widths = (backbone.width, backbone.words.width)
        fits = not self.tied or self.widths[0] == self.widths[1]
        self.projection = None if fits else Dense(self.widths[1], name="projection", **made)

    def build(self, input_shape=None):
        if self.projection is not None:
            self.projection.build((None, self.widths[0]))
        super().build(input_shape)

    def transformed(self, x):
        return x if self.projection is None else self.projection(x)

    @classmethod
    def trained_in(cls, weights, config):
        return cls.marker in weights

    def rules(self):
        return [*super().rules(), *(dense("projection", "lm_projection") if self.projection is not None else [])]


class RecurrentCausalHead(RecurrentLanguageHead):
    """Logits of the token that follows; for networks that read in one direction."""

    def __init__(self, backbone, **kwargs):
        if backbone.config.bidirectional:
            raise ValueError(
                "bidirectional: true: a causal LM predicts tokens that a bidirectional network has read; set it to false"
            )
        super().__init__(backbone, **kwargs)


def _family(model_type: str, published: str, config: type[Config], backbone: type[Backbone]) -> Family:
    return Family(
        model_type=model_type,
        published=published,
        config=config,
        backbone=backbone,
        prefix=f"{model_type}.",
        heads={
            "masked-lm": RecurrentLanguageHead,
            "causal-lm": RecurrentCausalHead,
            "text-classification": RecurrentTextHead,
            "text-embedding": RecurrentEmbeddingHead,
            "token-classification": RecurrentTokenHead,
            "question-answering": RecurrentAnswerHead,
        },
        foreign=(r"lm_head\..*", r"lm_projection\..*", r"classifier\..*", r"qa_outputs\..*", r"pooler\..*"),
    )


FAMILIES = (
    _family("elman", "Elman", ElmanConfig, ElmanBackbone),
    _family("gru", "GRU", RecurrentConfig, GRUBackbone),
    _family("lstm", "LSTM", RecurrentConfig, LSTMBackbone),
)
