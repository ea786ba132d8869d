"""Any tokenizer.json as a graph of core TensorFlow ops, exact against Hugging Face `tokenizers`.

All texts go through each step together: decode; cut at added tokens; normalise; cut at added tokens that are matched in
normalised text; pre-tokenise; then every distinct word goes through the model once. Where texts may be cut before spaces
(see `space_cuts.py`) and nobody asks for spans, every distinct chunk goes through all of that once.

Letters: B texts, R rows (texts or chunks), N characters, W words, U distinct words, P pieces, D bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tokenizers.added_tokens import AddedToken, TokenCutter
from garden.tokenizers.bpe import BytePairModel
from garden.tokenizers.byte_level import CHARACTER_OF_BYTE, BytesAsCharacters
from garden.tokenizers.characters import CodePointTable, Flag, character_data, encode_points
from garden.tokenizers.decoders import Decoder, read_decoder
from garden.tokenizers.files import parse_added_tokens
from garden.tokenizers.normalizers import compile_normalizer
from garden.tokenizers.post_processors import parse_post_processor
from garden.tokenizers.pretokenizers import Metaspace, compile_pre_tokenizer
from garden.tokenizers.space_cuts import SpaceCutter, unsafe_before_space
from garden.tokenizers.template import Pieces, Template
from garden.tokenizers.text import FIRST_TOKEN, Text, begins, bounds, repeat
from garden.tokenizers.tokenizer import Tokenizer
from garden.tokenizers.unigram import UnigramModel
from garden.tokenizers.vocabulary import Vocabulary
from garden.tokenizers.word_models import WordPieceModel
from garden.tokenizers.words import WordPieces, Words

_SECTIONS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor")
_SECTIONS += ("decoder", "model")


class PipelineTokenizer(Tokenizer):
    """A tokenizer compiled from the object in a tokenizer.json.

    spec: that object; whatever it says of truncation and padding is left aside. roles: names of the special tokens, keys
        pad, unk, bos, eos, cls, sep, mask; a role whose token is not there is None.
    template: special tokens around texts, instead of the spec's.
    split_special_tokens: a special token written in a text is plain text.
    Raises ValueError that names the component or the option that is not supported.

    >>> tokenizer = PipelineTokenizer(json.loads(Path("tokenizer.json").read_text()))
    >>> tokenizer(["some text"]).to_list()
    [[15464, 2420]]
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        roles: Mapping[str, str] | None = None,
        template: Template | None = None,
        model_max_length: int | None = None,
        split_special_tokens: bool = False,
        name: str | None = None,
    ):
        unknown = [section for section in spec if section not in _SECTIONS]
        if unknown:
            raise ValueError(f'tokenizer.json: section "{unknown[0]}" is not supported; known: {", ".join(_SECTIONS)}')
        post = parse_post_processor(spec.get("post_processor"))
        super().__init__(
            _vocabulary(spec, roles or {}),
            template=template or post.template,
            model_max_length=model_max_length,
            split_special_tokens=split_special_tokens,
            name=name,
        )
        self.spec = spec
        self._trims = post.trims
        total = len(self.added_tokens)
        normalizer = compile_normalizer(spec.get("normalizer"), total)
        splitters, self._byte_level = compile_pre_tokenizer(spec.get("pre_tokenizer"), total)
        self._normalizer = normalizer
        self._contents = {
            token.content: self._normalized(token.content) if token.normalized else token.content
            for token in self.added_tokens
        }
        literal, normal = (self._cutter(normalized) for normalized in (False, True))
        self._steps = [*literal, *normalizer, *normal, *splitters]
        # "first" asks where in the text a piece begins.
        self._traces = any(isinstance(step, Metaspace) and step.asks_for_spans for step in splitters)
        model = spec["model"]
        if model["type"] == "BPE":
            self._model = BytePairModel.from_spec(model, byte_level=self._byte_level)
        else:
            if self._byte_level:  # these see the characters that stand for bytes
                self._steps.append(BytesAsCharacters(total))
                self._byte_level = False
            self._model = (UnigramModel if model["type"] == "Unigram" else WordPieceModel).from_spec(model)
        unsafe = unsafe_before_space(self._steps)
        self._cut = None if unsafe is None else SpaceCutter(unsafe)
        self._make_trims()
        read_decoder(spec.get("decoder"))
        self._decoder: Decoder | None = None  # most tokenizers never detokenize

    # ---- Tables --------------------------------------------------------------------------------------------------

    def _normalized(self, content: str) -> str:
        """A string by itself through the normalizer."""
        with tf.init_scope(), tf.device("CPU:0"):
            points = tf.constant(encode_points(content), tf.int32)
            text = Text(points, tf.zeros_like(points), tf.zeros_like(points), ())
            for step in self._normalizer:
                text = step(text)
            return "".join(map(chr, text.points.numpy()))

    def _cutter(self, normalized: bool) -> list[TokenCutter]:
        chosen = [(place, token) for place, token in enumerate(self.added_tokens) if token.normalized == normalized]
        for _, token in chosen:
            if not self._contents[token.content]:
                raise ValueError(f"added token {token.content!r} is normalised to nothing; set its normalized to False")
        if not chosen:
            return []
        places, tokens = zip(*chosen, strict=True)
        contents = [encode_points(self._contents[token.content]) for token in tokens]
        return [TokenCutter(tokens, contents, places, len(self.added_tokens), self.split_special_tokens)]

    def _make_trims(self) -> None:
        """How many characters of white space each token begins and ends with, as the reference counts them."""
        space = CHARACTER_OF_BYTE[ord(" ")]
        white = (character_data().flags & Flag.SPACE) > 0
        counts = np.zeros((2, len(self.vocabulary)), np.int32)
        for token_id, token in enumerate(self.vocabulary if self._trims else []):
            blank = [c == space or bool(white[ord(c)]) for c in token]
            counts[0, token_id] = [*blank, False].index(False)
            counts[1, token_id] = [*blank[::-1], False].index(False)
        with tf.init_scope(), tf.device("CPU:0"):
            self._leading, self._trailing = tf.constant(counts[0]), tf.constant(counts[1])
            self._token_ids = tf.constant([token.id for token in self.added_tokens], tf.int32)
            self._blank = CodePointTable(white) if self._trims else None

    def _spellings(self) -> list[str]:
        spellings = list(self.vocabulary)
        for token in self.added_tokens:
            spellings[token.id] = self._contents[token.content]
        return spellings

    def _shown(self, skip_special_tokens: bool) -> np.ndarray:
        shown = super()._shown(skip_special_tokens)
        shown[[token_id for token_id in self._vocabulary.unnamed if not self.vocabulary[token_id]]] = False
        return shown

    def _to_files(self) -> dict[str, str]:
        from garden.tokenizers.pipeline_files import pipeline_to_files

        return pipeline_to_files(self)

    # ---- Graph ---------------------------------------------------------------------------------------------------

    def _tokenize(self, texts_B: tf.Tensor, spans: bool) -> Pieces:
        if spans or self._cut is None:
            return self._tokenize_whole(texts_B, spans)
        chunks = self._cut(texts_B)
        rows = tf.size(chunks.first)
        row_N = repeat(tf.cast(chunks.lengths, tf.int32))
        text = Text(chunks.points, row_N, row_N, ())
        if self._traces:  # a place in its text as good as the right one: 0 where a text begins
            start_N = tf.range(tf.size(row_N)) - tf.gather(
                tf.cumsum(tf.cast(chunks.lengths, tf.int32), exclusive=True), row_N
            )
            start_N += tf.cast(~tf.gather(chunks.first, row_N), tf.int32)
            text = text._replace(spans=(start_N, start_N + 1))
        for step in self._steps:
            text = step(text)
        made = self._row_pieces(text, rows)
        (splits,), ids = tf.raw_ops.RaggedGather(
            params_nested_splits=[made.splits],
            params_dense_values=made.ids,
            indices=chunks.which,
            OUTPUT_RAGGED_RANK=1,
        )
        return Pieces(ids, tf.gather(splits, chunks.splits))

    def _row_pieces(self, text: Text, rows: tf.Tensor) -> Pieces:
        """The pieces of rows, most of whose words are distinct."""
        first_W = tf.cast(tf.where(begins(text))[:, 0], tf.int32)
        row_W, points_N = tf.gather(text.rows, first_W), text.points
        made = self._model(self._symbols(points_N, first_W))
        if self.added_tokens:
            made = tf.cond(
                tf.reduce_any(points_N >= FIRST_TOKEN),
                lambda: self._put_tokens(tf.gather(points_N, first_W), made.ids, made.splits),
                lambda: (made.ids, made.splits),
            )
        splits = tf.searchsorted(row_W, tf.range(rows + 1), out_type=tf.int64)
        return Pieces(made[0], tf.gather(made[1], splits))

    def _symbols(self, points_N: tf.Tensor, first_W: tf.Tensor) -> Words:
        """Words as the model sees them; added tokens as any character."""
        if self.added_tokens:
            points_N = tf.where(points_N < FIRST_TOKEN, points_N, 0xFFFD)
        splits = tf.concat([first_W, tf.shape(points_N)], axis=0)
        if not self._byte_level:
            return Words(points_N, tf.cast(splits, tf.int64))
        encoded = tf.raw_ops.UnicodeEncode(
            input_values=points_N,
            input_splits=tf.stack([0, tf.size(points_N)]),
            errors="replace",
            output_encoding="UTF-8",
        )
        size_N = 1 + sum(tf.cast(points_N >= limit, tf.int64) for limit in (0x80, 0x800, 0x10000))
        byte_D = tf.cast(tf.io.decode_raw(encoded[0], tf.uint8), tf.int32)
        return Words(byte_D, tf.gather(tf.concat([[0], tf.cumsum(size_N)], axis=0), splits))

    def _put_tokens(self, point_W: tf.Tensor, ids: tf.Tensor, splits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Pieces of words, with those that are added tokens replaced."""
        token_W = point_W >= FIRST_TOKEN
        start_W = tf.where(token_W, tf.size(ids, tf.int64) + tf.cast(point_W - FIRST_TOKEN, tf.int64), splits[:-1])
        limit_W = tf.where(token_W, start_W + 1, splits[1:])
        splits, chosen_P = tf.raw_ops.RaggedRange(
            starts=start_W, limits=limit_W, deltas=tf.constant(1, tf.int64), Tsplits=tf.int64
        )
        return tf.gather(tf.concat([ids, self._token_ids], axis=0), chosen_P), splits

    def _tokenize_whole(self, texts_B: tf.Tensor, spans: bool) -> Pieces:
        """All characters of all texts through every step."""
        decoded = tf.raw_ops.UnicodeDecode(
            input=texts_B, input_encoding="UTF-8", errors="replace", Tsplits=tf.int64
        )  # invalid bytes become U+FFFD
        points_N, splits = decoded.char_values, decoded.row_splits
        row_N = tf.cast(tf.searchsorted(splits, tf.range(tf.size(points_N, tf.int64)), side="right"), tf.int32) - 1
        text = Text(points_N, row_N, row_N, ())
        if spans or self._traces:
            start_N = tf.range(tf.size(points_N)) - tf.gather(tf.cast(splits, tf.int32), row_N)
            text = text._replace(spans=(start_N, start_N + 1))
        for step in self._steps:
            text = step(text)
        return self._pieces(text, tf.size(texts_B, tf.int64), (points_N, splits) if spans else None)

    def _pieces(self, text: Text, count: tf.Tensor, source: tuple | None) -> Pieces:
        """The pieces of words, each distinct word having been looked up once."""
        first_W, _, _ = bounds(begins(text))
        first_W = tf.cast(first_W, tf.int64)
        point_W = tf.gather(text.points, first_W)
        words = tf.raw_ops.UnicodeEncode(
            input_values=tf.where(text.points < FIRST_TOKEN, text.points, 0xFFFD),
            input_splits=tf.concat([first_W, [tf.size(text.points, tf.int64)]], axis=0),
            errors="replace",
            output_encoding="UTF-8",
        )
        distinct_U, which_W = tf.unique(words, out_idx=tf.int64)
        made, starts, ends = self._look_up(distinct_U)
        ids, splits = made.ids, made.splits
        if self.added_tokens:  # more words, each of one piece
            tokens = len(self.added_tokens)
            which_W = tf.where(
                point_W < FIRST_TOKEN, which_W, tf.cast(point_W - FIRST_TOKEN, tf.int64) + tf.size(distinct_U, tf.int64)
            )
            ids = tf.concat([ids, self._token_ids], axis=0)
            splits = tf.concat([splits, splits[-1] + tf.range(1, tokens + 1, dtype=tf.int64)], axis=0)
            starts = tf.concat([starts, tf.zeros([tokens], tf.int32)], axis=0)
            ends = tf.concat([ends, tf.ones([tokens], tf.int32)], axis=0)
        # The pieces of word w are splits[which[w]] to splits[which[w] + 1].
        word_splits, chosen_P = tf.raw_ops.RaggedRange(
            starts=tf.gather(splits, which_W),
            limits=tf.gather(splits, which_W + 1),
            deltas=tf.constant(1, tf.int64),
            Tsplits=tf.int64,
        )
        row_W = tf.gather(text.rows, first_W)
        rows = tf.searchsorted(tf.cast(row_W, tf.int64), tf.range(count + 1), side="left", out_type=tf.int64)
        row_splits, ids_P = tf.gather(word_splits, rows), tf.gather(ids, chosen_P)
        if source is None:
            return Pieces(ids_P, row_splits)
        word_P = tf.searchsorted(word_splits, tf.range(tf.size(chosen_P, tf.int64)), side="right") - 1
        first_P = tf.cast(tf.gather(first_W, word_P), tf.int32)
        start_P = tf.gather(text.spans[0], first_P + tf.gather(starts, chosen_P))
        end_P = tf.gather(text.spans[1], first_P + tf.gather(ends, chosen_P) - 1)
        for prefix in self._trims:
            token_P = tf.gather(point_W, word_P) >= FIRST_TOKEN
            start_P, end_P = self._trim(prefix, ids_P, row_splits, start_P, end_P, token_P, source)
        return Pieces(ids_P, row_splits, start_P, end_P)

    def _look_up(self, words_U: tf.Tensor) -> tuple[WordPieces, tf.Tensor, tf.Tensor]:
        """The model's pieces, and the characters of its word that each stands for: from [P], to [P] int32."""
        if not self._byte_level:
            decoded = tf.raw_ops.UnicodeDecode(input=words_U, input_encoding="UTF-8", Tsplits=tf.int64)
            made = self._model(Words(decoded.char_values, decoded.row_splits))
            begin_P = self._begins(decoded.row_splits, made)
            return made, made.starts - begin_P, made.ends - begin_P
        lengths_U = tf.cast(tf.strings.length(words_U), tf.int64)
        splits = tf.concat([[0], tf.cumsum(lengths_U)], axis=0)
        byte_D = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(words_U), tf.uint8), tf.int32)
        byte_D = tf.reshape(byte_D, [-1])
        made = self._model(Words(byte_D, splits))
        # Characters are counted by the bytes that begin them.
        character_D = tf.cumsum(tf.cast(tf.not_equal(tf.bitwise.bitwise_and(byte_D, 0xC0), 0x80), tf.int32)) - 1
        begin_P = tf.gather(character_D, self._begins(splits, made))
        return (
            made,
            tf.gather(character_D, made.starts) - begin_P,
            tf.gather(character_D, made.ends - 1) + 1 - begin_P,
        )

    @staticmethod
    def _begins(splits: tf.Tensor, made: WordPieces) -> tf.Tensor:
        """The first symbol of the word that each piece is in, [P] int32."""
        word_P = tf.searchsorted(made.splits, tf.range(tf.size(made.ids, tf.int64)), side="right") - 1
        return tf.cast(tf.gather(splits, word_P), tf.int32)

    def _trim(self, prefix, ids_P, row_splits, start_P, end_P, token_P, source):
        """Spans without the white space at either end, as ByteLevel's post-processor leaves them."""
        leading_P, trailing_P = tf.gather(self._leading, ids_P), tf.gather(self._trailing, ids_P)
        # An added token may have taken in white space on either side, which its spelling does not show.
        points_N, splits = source
        row_P = tf.searchsorted(row_splits, tf.range(tf.size(ids_P, tf.int64)), side="right") - 1
        begin_P = tf.cast(tf.gather(splits, row_P), tf.int32)
        ink = tf.concat([[-1], tf.cast(tf.where(tf.equal(self._blank(points_N), 0))[:, 0], tf.int32)], axis=0)
        ink = tf.concat([ink, [tf.size(points_N)]], axis=0)
        before_P = tf.gather(ink, tf.searchsorted(ink, begin_P + start_P)) - begin_P - start_P
        after_P = begin_P + end_P - 1 - tf.gather(ink, tf.searchsorted(ink, begin_P + end_P) - 1)
        leading_P = tf.where(token_P, tf.minimum(before_P, end_P - start_P), leading_P)
        trailing_P = tf.where(token_P, tf.minimum(after_P, end_P - start_P), trailing_P)
        if prefix:
            lead = tf.gather(row_splits, tf.where(row_splits[1:] > row_splits[:-1])[:, 0])
            first_P = tf.tensor_scatter_nd_update(tf.equal(start_P, 0), lead[:, None], tf.ones_like(lead, tf.bool))
            leading_P = tf.where(first_P & tf.equal(leading_P, 1), 0, leading_P)
        start_P = tf.minimum(start_P + leading_P, end_P)
        return start_P, tf.where(end_P >= trailing_P, tf.maximum(end_P - trailing_P, start_P), end_P)

    def _decode_graph(self, ids_T: tf.Tensor, splits: tf.Tensor) -> tf.Tensor:
        if self._decoder is None:
            self._decoder = Decoder(self.spec.get("decoder"), self._spellings())
        return self._decoder(ids_T, splits)


def _vocabulary(spec: Mapping[str, Any], roles: Mapping[str, str]) -> Vocabulary:
    """The model's tokens and the added ones, whose ids follow from their order as in the reference."""
    model = spec.get("model")
    if not isinstance(model, Mapping):
        raise ValueError("tokenizer.json: the model section is missing")
    if "type" not in model:  # as the oldest files are written
        raise ValueError('tokenizer.json: the model has no "type"; expected BPE, Unigram, WordLevel or WordPiece')
    if model["type"] not in ("BPE", "Unigram", "WordLevel", "WordPiece"):
        raise ValueError(
            f'tokenizer.json: model "{model["type"]}" is not supported; supported: BPE, Unigram, WordLevel, WordPiece'
        )
    values = model.get("vocab")
    if model["type"] == "Unigram":
        try:
            pairs = [(token, token_id) for token_id, (token, _) in enumerate(values)]
        except (TypeError, ValueError):
            raise ValueError("tokenizer.json: model.vocab: expected a list of [token, score]") from None
    elif isinstance(values, dict) and all(isinstance(i, int) and i >= 0 for i in values.values()):
        pairs = list(values.items())
    else:
        raise ValueError("tokenizer.json: model.vocab: expected an object of tokens and ids")
    if not pairs:
        raise ValueError("tokenizer.json: model.vocab is empty")
    ids = dict(pairs)
    largest = max(token_id for _, token_id in pairs)
    if largest > 10 * len(pairs) + 100_000:
        raise ValueError(f"tokenizer.json: model.vocab: id {largest} is too large for {len(pairs)} tokens")
    tokens = [""] * (largest + 1)
    for token, token_id in pairs:
        tokens[token_id] = token
    added: dict[str, AddedToken] = {}
    for token in parse_added_tokens(spec.get("added_tokens")):
        last = max((other.id for other in added.values()), default=-1)
        new = last + 1 if last >= len(ids) else len(ids)
        token_id = ids.get(token.content, new)
        if token.content in added:
            continue
        added[token.content] = AddedToken(**{**token.__dict__, "id": token_id})
        if token.content not in ids and token_id < len(tokens):
            raise ValueError(
                f'tokenizer.json: added token "{token.content}" gets id {token_id}, which is that of '
                f'"{tokens[token_id]}"; number the model\'s tokens without gaps'
            )
    named = {token_id for token, token_id in ids.items() if tokens[token_id] == token}
    unnamed = frozenset(set(range(len(tokens))) - named)
    roles = {role: token for role, token in roles.items() if token}
    unk = model.get("unk_token")
    if model["type"] == "Unigram" and isinstance(model.get("unk_id"), int) and model["unk_id"] < len(tokens):
        unk = tokens[model["unk_id"]]
    default_roles = {"unk": unk} if isinstance(unk, str) else {}
    return Vocabulary(tokens, roles, list(added.values()), default_roles, unnamed)
