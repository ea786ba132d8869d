"""What every tokenizer shares: calling, encoding, detokenizing, its vocabulary and special tokens, files.

Letters: B batch, T tokens.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from garden.tokenizers.added_tokens import AddedToken
from garden.tokenizers.decoders import clean_up_spaces
from garden.tokenizers.template import TRUNCATIONS, Encoding, Pieces, Template, apply_template, assert_that
from garden.tokenizers.vocabulary import Vocabulary

_NO_LIMIT = 2**31 - 1
_FIT_ERROR = re.compile(r"truncation \w+: the text to cut .* or longest_first")


class _Graphs:
    """The traced functions of one tokenizer, made when first called: whatever graph calls them, they are traced once.

    A plain object, so that a model which holds a tokenizer exports those that its own graph calls, and no others.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._made: dict[tuple, tf.types.experimental.PolymorphicFunction] = {}

    def run(self, texts, pairs, max_length: int | tf.Tensor, spans: bool, truncation: str, special: bool) -> Encoding:
        """`Tokenizer._graph`, traced once for each choice of the last three and of pairs or none."""
        key = (pairs is not None, spans, truncation, special)
        if key not in self._made:
            batches = [tf.TensorSpec([None], tf.string)] * (1 + key[0])

            def traced(max_length, texts, pairs=None):
                return self._tokenizer._graph(texts, pairs, max_length, spans, truncation, special)

            signature = [tf.TensorSpec([], tf.int64), *batches]
            self._made[key] = tf.function(traced, input_signature=signature, autograph=False)
        arguments = (texts,) if pairs is None else (texts, pairs)
        try:
            return self._made[key](tf.cast(max_length, tf.int64), *arguments)
        except tf.errors.InvalidArgumentError as error:
            found = _FIT_ERROR.search(str(error))
            if found is None:
                raise
            raise ValueError(found.group()) from None  # an assertion of apply_template

    def detokenize(self, ids: tf.RaggedTensor, skip_special_tokens: bool, clean_up: bool) -> tf.Tensor:
        """`Tokenizer._detokenize_graph`."""
        key = ("detokenize", skip_special_tokens, clean_up)
        if key not in self._made:
            signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.int64)]
            traced = lambda values, splits: self._tokenizer._detokenize_graph(values, splits, *key[1:])
            self._made[key] = tf.function(traced, input_signature=signature, autograph=False)
        return self._made[key](ids.values, ids.row_splits)


class Tokenizer(tf.Module):
    """Text to ids and back, as graphs of core TensorFlow operations.

    Usable eagerly, inside tf.function and tf.data.Dataset.map, and in a SavedModel that holds it; all its tables are
    constants, so an export has no assets or lookup tables to initialise. Bytes that are not valid UTF-8 are read as
    U+FFFD. Load one with `Tokenizer.from_pretrained(directory)`.

    A subclass defines `_tokenize`, `_to_files`, and `_decoded` or `_decode_graph`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        template: Template | None,
        model_max_length: int | None,
        split_special_tokens: bool,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self._vocabulary = vocabulary
        if template is None:
            template = Template()
            if self.cls_id is not None and self.sep_id is not None:
                named = self._vocabulary.roles
                template = Template.bert((named["cls"], self.cls_id), (named["sep"], self.sep_id))
        self.template = template
        self.model_max_length = model_max_length
        self.split_special_tokens = split_special_tokens
        self._graphs = _Graphs(self)
        self._decoded_constants: tuple[tf.Tensor, tf.Tensor] | None = None  # most tokenizers never detokenize

    def __setattr__(self, name, value):
        # All tables are constants, which need no tracking; TensorFlow would wrap every list and dictionary.
        object.__setattr__(self, name, value)

    # ---- Calling -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        texts: Sequence[str] | tf.Tensor,
        pairs: Sequence[str] | tf.Tensor | None = None,
        max_length: int | tf.Tensor | None = None,
        truncation: str = "longest_first",
    ) -> tf.RaggedTensor:
        """Token ids of a batch of texts, special tokens included: RaggedTensor [B,(T)] int32.

        texts: list of str or bytes, or string tensor [B]; pairs: as many second texts. max_length counts special tokens
        (None: no limit; whatever tokenizer.json says of truncation and padding is not applied). truncation:
        "longest_first", "only_first" or "only_second". Raises ValueError or, inside a graph, InvalidArgumentError when
        max_length is too small; TypeError when texts is not a batch, such as a single string.
        """
        return self._run(texts, pairs, max_length, truncation, True, spans=False).token_ids

    def encode(
        self,
        texts: Sequence[str] | tf.Tensor,
        pairs: Sequence[str] | tf.Tensor | None = None,
        max_length: int | tf.Tensor | None = None,
        truncation: str = "longest_first",
        add_special_tokens: bool = True,
    ) -> Encoding:
        """Token ids with type ids, character spans in the source texts, and which are the template's own.

        Arguments and errors as when called. Every field of the Encoding is a RaggedTensor [B,(T)].
        """
        return self._run(texts, pairs, max_length, truncation, add_special_tokens, spans=True)

    def _run(self, texts, pairs, max_length, truncation, add_special_tokens, spans) -> Encoding:
        if truncation not in TRUNCATIONS:
            raise ValueError(f"truncation: expected one of {', '.join(TRUNCATIONS)}, got {truncation!r}")
        if truncation == "only_second" and pairs is None:
            raise ValueError('truncation: "only_second" needs pairs')
        texts = _as_batch(texts, "texts")
        if pairs is not None:
            pairs = _as_batch(pairs, "pairs")
            pairs = _as_many(pairs, texts)
        least = sum(len(part.ids) for part in self.template.parts(pairs is not None, add_special_tokens))
        max_length = _as_length(max_length, least)
        return self._graphs.run(texts, pairs, max_length, spans, truncation, add_special_tokens)

    @tf.autograph.experimental.do_not_convert  # nothing here is Python that a graph must be made of
    def _graph(self, texts, pairs, max_length, spans, truncation, add_special_tokens) -> Encoding:
        with tf.device("CPU:0"):  # strings live there, and small steps are not worth sending elsewhere
            parts = self.template.parts(pairs is not None, add_special_tokens)
            pieces = self._tokenize(texts if pairs is None else tf.concat([texts, pairs], axis=0), spans)
            return apply_template(parts, pieces, pairs is not None, max_length, truncation)

    def _tokenize(self, texts: tf.Tensor, spans: bool) -> Pieces:
        """The tokens of each text, [B] string, without special tokens, in the graph."""
        raise NotImplementedError

    def with_template(self, template: Template) -> Tokenizer:
        """Returns a tokenizer of the same tables that puts other special tokens around texts."""
        twin = copy.copy(self)
        twin.template, twin._graphs = template, _Graphs(twin)
        return twin

    # ---- Back to text --------------------------------------------------------------------------------------------

    def detokenize(self, ids, skip_special_tokens: bool = True, clean_up: bool = False) -> tf.Tensor:
        """Texts of token ids: [B] string, UTF-8.

        ids: RaggedTensor [B,(T)], tensor [B,T] or list of lists, of integers. Ids that the vocabulary does not have
        are left out; so are special tokens unless told otherwise. clean_up: no space before punctuation and English
        contractions. Follows `tokenizers.Tokenizer.decode`, and with clean_up, transformers' `decode` with
        clean_up_tokenization_spaces, whatever tokenizer_config.json says of that.
        """
        if not isinstance(ids, tf.RaggedTensor):
            if not tf.is_tensor(ids) and not isinstance(ids, np.ndarray):
                try:
                    ids = tf.ragged.constant(ids, dtype=tf.int64, ragged_rank=1)
                except (TypeError, ValueError):
                    raise TypeError(f"ids: expected a batch, a list of lists of integers, got {ids!r:.80}") from None
            else:
                ids = tf.convert_to_tensor(ids)
                if ids.shape.rank != 2 or not ids.dtype.is_integer:
                    raise TypeError(
                        f"ids: expected integers of shape [batch, tokens], got {ids.dtype.name} {ids.shape}"
                    )
                ids = tf.RaggedTensor.from_tensor(ids)
        ids = tf.cast(ids, tf.int64).with_row_splits_dtype(tf.int64)
        if tf.executing_eagerly():
            return self._graphs.detokenize(ids, skip_special_tokens, clean_up)
        return self._detokenize_graph(ids.values, ids.row_splits, skip_special_tokens, clean_up)

    @tf.autograph.experimental.do_not_convert
    def _detokenize_graph(self, values, splits, skip_special_tokens: bool, clean: bool) -> tf.Tensor:
        with tf.device("CPU:0"):
            shown = tf.constant(self._shown(skip_special_tokens))
            inside = (values >= 0) & (values < self.vocabulary_size)
            kept = tf.where(inside & tf.gather(shown, tf.where(inside, values, 0)))[:, 0]
            values = tf.gather(values, kept)
            texts = self._decode_graph(values, tf.searchsorted(kept, splits, side="left", out_type=tf.int64))
            return clean_up_spaces(texts) if clean else texts

    def _decode_graph(self, values: tf.Tensor, splits: tf.Tensor) -> tf.Tensor:
        """Texts of ids that are all in the vocabulary and are to be shown."""
        first, later = self._decoded_tensors()
        leads = tf.gather(splits, tf.where(splits[1:] > splits[:-1])[:, 0])  # where each text begins
        strings = tf.tensor_scatter_nd_update(
            tf.gather(later, values), leads[:, None], tf.gather(first, tf.gather(values, leads))
        )
        return tf.strings.reduce_join(tf.RaggedTensor.from_row_splits(strings, splits, validate=False), axis=1)

    def _shown(self, skip_special_tokens: bool) -> np.ndarray:
        """Which tokens have a place in decoded text, [V] bool. Special tokens are known by their spelling."""
        special = {token.content for token in self.added_tokens if token.special and skip_special_tokens}
        return np.array([spelling not in special for spelling in self._spellings()])

    def _decoded_tensors(self) -> tuple[tf.Tensor, tf.Tensor]:
        if self._decoded_constants is None:
            with tf.init_scope(), tf.device("CPU:0"):
                decoded = self._decoded(self._spellings())
                self._decoded_constants = tuple(tf.constant(strings) for strings in decoded)
        return self._decoded_constants

    def _spellings(self) -> list[str]:
        """The vocabulary as decoding spells it: added tokens that are matched normalised stay so, as in `tokenizers`."""
        return self.vocabulary

    def _decoded(self, spellings: list[str]) -> tuple[list[str], list[str]]:
        """What each token adds to a text, as its first token and as a later one."""
        raise NotImplementedError

    # ---- Vocabulary ----------------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> list[str]:
        """All tokens in id order, added ones included; not to be changed."""
        return self._vocabulary.tokens

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, added ones included."""
        return len(self._vocabulary.tokens)

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """Tokens that are matched as they stand, special ones among them."""
        return self._vocabulary.added_tokens

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of all special tokens, ascending: those with a role, and added tokens that say so."""
        named = {self.id_of(token) for token in self._vocabulary.roles.values()}
        return tuple(sorted(named | {token.id for token in self.added_tokens if token.special}))

    def id_of(self, token: str) -> int:
        """The id of a token; ValueError if the vocabulary does not have it."""
        if token not in self._vocabulary.ids:
            raise ValueError(f'"{token}" is not a token of this vocabulary of {self.vocabulary_size}')
        return self._vocabulary.ids[token]

    pad_id = property(lambda self: self._vocabulary.id_of_role("pad"), doc="Id of the padding token, or None.")
    unk_id = property(lambda self: self._vocabulary.id_of_role("unk"), doc="Id of the unknown token, or None.")
    cls_id = property(lambda self: self._vocabulary.id_of_role("cls"), doc="Id that begins a text, or None.")
    sep_id = property(lambda self: self._vocabulary.id_of_role("sep"), doc="Id that ends a text, or None.")
    bos_id = property(lambda self: self._vocabulary.id_of_role("bos"), doc="Id that begins a sequence, or None.")
    eos_id = property(lambda self: self._vocabulary.id_of_role("eos"), doc="Id that ends a sequence, or None.")
    mask_id = property(lambda self: self._vocabulary.id_of_role("mask"), doc="Id of the mask token, or None.")

    # ---- Files ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, split_special_tokens: bool = False) -> Tokenizer:
        """Load the tokenizer of a directory in the Hugging Face layout.

        Reads tokenizer.json, else vocab.txt, with tokenizer_config.json and special_tokens_map.json where they are
        there. split_special_tokens: a special token written in a text is plain text. Raises FileNotFoundError, or
        ValueError that names a broken file or a component that is not supported.
        """
        from garden.tokenizers.files import read_files
        from garden.tokenizers.pipeline_files import is_bert, pipeline_from_files
        from garden.tokenizers.wordpiece_files import wordpiece_from_files

        files = read_files(directory)
        fused = files.tokenizer is None or is_bert(files.tokenizer)
        tokenizer = (wordpiece_from_files if fused else pipeline_from_files)(files, split_special_tokens)
        if not isinstance(tokenizer, cls):
            raise TypeError(f"{directory} holds a {type(tokenizer).__name__}, not a {cls.__name__}")
        return tokenizer

    @classmethod
    def from_tf_hub(cls, handle: str | os.PathLike) -> Tokenizer:
        """Load the tokenizer of a BERT encoder's or a preprocessing SavedModel: a directory, or a URL of TF Hub.

        Raises FileNotFoundError when there is no vocabulary, ValueError when it is none of WordPiece.
        """
        from garden.tokenizers.tf_hub import tokenizer_from_tf_hub

        return tokenizer_from_tf_hub(handle)

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write the tokenizer in the Hugging Face layout, so that `AutoTokenizer` gives the same ids."""
        from garden.tokenizers.files import write_files

        write_files(directory, self._to_files())

    def _to_files(self) -> dict[str, str]:
        """File name -> text."""
        raise NotImplementedError


def _as_many(pairs: tf.Tensor, texts: tf.Tensor) -> tf.Tensor:
    """The pairs, checked, inside a graph when it runs, to be as many as the texts."""
    wanted, got = texts.shape[0], pairs.shape[0]
    if wanted is None or got is None:
        same = assert_that(tf.equal(tf.size(pairs), tf.size(texts)), "pairs: expected as many as texts")
        with tf.control_dependencies([same]):
            return tf.identity(pairs)
    if wanted != got:
        raise ValueError(f"pairs: expected as many as texts, {wanted}, got {got}")
    return pairs


def _as_length(max_length, least: int):
    """max_length, checked: an int, or inside a graph perhaps a scalar tensor."""
    if max_length is None:
        return _NO_LIMIT
    if tf.is_tensor(max_length) and not isinstance(max_length, tf.__internal__.EagerTensor):
        message = f"max_length must be at least {least}, the number of special tokens added"
        with tf.control_dependencies([assert_that(max_length >= tf.cast(least, max_length.dtype), message)]):
            return tf.identity(max_length)
    if (
        isinstance(max_length, bool)
        or np.ndim(max_length)
        or not np.issubdtype(np.asarray(max_length).dtype, np.integer)
    ):
        raise TypeError(f"max_length: expected an integer, a scalar tensor or None, got {max_length!r}")
    if max_length < least:
        raise ValueError(
            f"max_length must be at least {least}, the number of special tokens added, got {int(max_length)}"
        )
    return min(int(max_length), _NO_LIMIT)


def _as_batch(texts, name: str) -> tf.Tensor:
    """Texts as a string tensor [B]; TypeError with the remedy for anything else."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"{name}: expected a batch, a list of strings, got one string; write [{texts!r:.40}]")
    if isinstance(texts, (list, tuple)):
        for index, text in enumerate(texts):
            if not isinstance(text, (str, bytes)):
                if tf.is_tensor(text):
                    break
                raise TypeError(f"{name}[{index}]: expected a string, got {text!r:.80}")
        texts = list(texts) or tf.zeros([0], tf.string)
    try:
        tensor = tf.convert_to_tensor(texts, tf.string)
    except (TypeError, ValueError):
        for index, text in enumerate(texts if isinstance(texts, list) else []):
            if isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text):
                raise ValueError(f"{name}[{index}]: not valid Unicode (a lone surrogate): {text!r:.80}") from None
        raise TypeError(f"{name}: expected a list of strings or a string tensor [batch], got {texts!r:.80}") from None
    if tensor.shape.rank == 0:
        raise TypeError(f"{name}: expected a batch of shape [batch], got a scalar; write tf.expand_dims({name}, 0)")
    if tensor.shape.rank not in (1, None):
        raise TypeError(f"{name}: expected shape [batch], got {tensor.shape}")
    return tensor if tensor.shape.rank == 1 else tf.ensure_shape(tensor, [None])
