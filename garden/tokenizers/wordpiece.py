"""WordPiece (BERT's tokenizer) as a graph of core TensorFlow ops, exact against Hugging Face `tokenizers`.

The steps, each over all texts at once: split at white space and keep each chunk of text once; decode; replace added
tokens by private code points; map characters through one table (BertNormalizer and BertPreTokenizer); find words; match
the longest piece at each word's start by a trie, then at the places inside the words that remain; put pieces together.
https://arxiv.org/abs/1609.08144 (WordPiece), https://arxiv.org/abs/1810.04805 (BERT).

Letters: B texts, U rows to work on (distinct chunks, or whole texts), N characters, M characters after normalisation,
W words, O words that are not one piece, Q places inside these, P pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers import wordpiece_characters as chars
from garden.tokenizers.added_tokens import AddedToken, LiteralMatcher, cover
from garden.tokenizers.characters import SCALARS, CodePointTable, Flag, character_data, encode_points
from garden.tokenizers.template import Pieces, Template
from garden.tokenizers.tokenizer import Tokenizer
from garden.tokenizers.trie import Trie
from garden.tokenizers.vocabulary import Vocabulary

_WHITE_SPACE = " \t\n\r"  # white space whatever the flags; \v and \f are removed, not split at, by clean_text

_CLOSED = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " do not": " don't"}
_CLOSED |= {" 's": "'s", " 've": "'ve", " 're": "'re"}


class _Characters(NamedTuple):
    """Characters on their way through the graph."""

    entries: tf.Tensor  # [M] int32, see wordpiece_characters
    sources: tf.Tensor  # [M] int32: the first character of the decoded rows that each came from
    ends: tf.Tensor  # [M] int32: one past the last
    rows: tf.Tensor  # [M] int32, ascending


class WordPieceTokenizer(Tokenizer):
    """Splits text into words and words into the longest pieces that a vocabulary has.

    vocabulary: tokens in id order; pieces inside a word begin with continuing_prefix.
    strip_accents: None means: as lowercase, as in BERT.
    split_chinese: every CJK ideograph is a word. clean_text: control characters vanish, white space becomes a space.
    max_word_characters: longer words are unknown.
    roles: names of the special tokens, keys pad, cls, sep, unk, mask; a role whose token is not there is None. Tokens
        with a role that is there are special.
    added_tokens: tokens that are matched as they stand, special ones included; default: those with a role.
    template: special tokens around texts; default: BERT's if cls and sep are there.
    cleanup: detokenize removes the space before punctuation and contractions.
    split_special_tokens: a special token written in a text is plain text.

    >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "garden", "##er", "##s"])
    >>> tokenizer(["Gardeners"]).to_list()
    [[2, 4, 5, 6, 3]]
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        clean_text: bool = True,
        unk_token: str = "[UNK]",
        continuing_prefix: str = "##",
        max_word_characters: int = 100,
        *,
        roles: Mapping[str, str] | None = None,
        added_tokens: Sequence[AddedToken] | None = None,
        template: Template | None = None,
        cleanup: bool = True,
        decoder: bool = True,
        model_max_length: int | None = None,
        split_special_tokens: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            Vocabulary(vocabulary, {"unk": unk_token, **(roles or {})}, added_tokens),
            template=template,
            model_max_length=model_max_length,
            split_special_tokens=split_special_tokens,
            name=name,
        )
        if unk_token not in self.vocabulary:
            raise ValueError(
                f'vocabulary: the unknown token "{unk_token}" is missing; add it or name another unk_token'
            )
        if max_word_characters < 1:
            raise ValueError(f"max_word_characters: expected at least 1, got {max_word_characters}")
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.split_chinese = split_chinese
        self.clean_text = clean_text
        self.unk_token = unk_token
        self.continuing_prefix = continuing_prefix
        self.max_word_characters = max_word_characters
        self.cleanup = cleanup
        self.decoder = decoder
        self._compile()

    # ---- Tables --------------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        data, flags = character_data(), self._flags
        literal = [token for token in self.added_tokens if not token.normalized]
        normal = [token for token in self.added_tokens if token.normalized]
        contents = [encode_points(token.content) for token in literal]
        normal_contents = [encode_points(self._normalized(token.content)) for token in normal]
        for token, content in zip(normal, normal_contents, strict=True):
            if not len(content):
                raise ValueError(f"added token {token.content!r} is normalised to nothing; set its normalized to False")
        strings, lengths, token_ids = self._matchable(data.flags)

        none = [np.zeros(0, np.int32)]
        alphabet = np.unique(np.concatenate([*strings, *normal_contents, *none])).astype(np.int32)
        # A character's code has one symbol where it begins a word and another inside; added tokens are words of one.
        code_count = len(alphabet) + len(self.added_tokens) + 1
        token_codes = np.arange(len(alphabet) + 1, code_count)
        code_of = np.zeros(SCALARS, np.int32)
        code_of[alphabet] = np.arange(1, len(alphabet) + 1)
        coded = [code_of[string] for string in strings]
        for begins, string in zip(self._begins_word, coded, strict=True):
            string[0] += code_count * begins
        self._trie = Trie([*coded, *(token_codes[:, None] + code_count)], 2 * code_count)

        begins = np.array([content[0] for content in contents], np.int32)
        spell_spaces = any(token.lstrip or token.rstrip for token in normal) or any(
            (data.flags[content] & Flag.CHINESE).any() for content in normal_contents
        )
        tables = chars.character_tables(data, alphabet, len(self.added_tokens), begins, spell_spaces, **flags)
        self._entries, self._code_count = tables.entries, code_count
        self._literals = self._literal_matcher(data.flags, literal, contents) if literal else None
        self._normal_literals = None
        if normal:
            coded_contents = [code_of[content] for content in normal_contents]
            self._normal_literals = LiteralMatcher(normal, coded_contents, code_count, self.split_special_tokens)
        # Marks are put in canonical order only if the vocabulary has marks of two classes that survive: a word with a
        # character that the vocabulary lacks is unknown in any order.
        self._reorders = len(np.unique(tables.mark_ranks[tables.mark_ranks > 0])) > 1
        # A token with white space in it would be torn apart by splitting texts into chunks.
        spaced = [c for content in (*contents, *normal_contents) for c in content if data.flags[c] & Flag.SEPARATOR]
        self._keeps_texts_whole = bool(spaced)
        place = {token.content: index for index, token in enumerate(self.added_tokens)}
        with tf.init_scope(), tf.device("CPU:0"):
            # Index 0 is "no piece": of length 0, and unknown.
            unknown = self.id_of(self.unk_token)
            self._piece_ids = tf.constant([unknown, *token_ids, *(t.id for t in self.added_tokens)], tf.int32)
            self._piece_lengths = tf.constant([0, *lengths, *(1 for _ in self.added_tokens)], tf.int32)
            self._expansion_starts = tf.constant(tables.expansion_starts)
            self._expansion_entries = tf.constant(tables.expansion_entries)
            self._mark_ranks = tf.constant(tables.mark_ranks)
            private = [chars.FIRST_TOKEN + place[token.content] for token in literal]
            self._literal_points = tf.constant(private, tf.int32)
            codes = [chars.ISOLATED + int(token_codes[place[token.content]]) for token in normal]
            self._normal_entries = tf.constant(codes, tf.int32)

    @property
    def _flags(self) -> dict[str, bool]:
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        return {"clean": self.clean_text, "chinese": self.split_chinese, "strip": strip, "lowercase": self.lowercase}

    def _normalized(self, text: str) -> str:
        return chars.normalize(text, character_data(), **self._flags)

    def _matchable(self, flags: np.ndarray) -> tuple[list[np.ndarray], list[int], list[int]]:
        """The strings that a word may begin with or go on with, their lengths and token ids.

        Words of several characters have neither white space nor punctuation in them, so [unused1] or ##- never match.
        """
        apart = Flag.SEPARATOR | Flag.PUNCTUATION
        prefix = self.continuing_prefix
        strings, lengths, ids, self._begins_word = [], [], [], []
        for token_id, token in enumerate(self.vocabulary[: self._vocabulary.model_size]):
            points = encode_points(token)
            torn = (flags[points] & apart) > 0
            forms = [(points, torn, True)]
            if token.startswith(prefix):
                forms.append((points[len(prefix) :], torn[len(prefix) :], False))
            for form, form_torn, begins in forms:
                alone = begins and len(form) == 1
                if len(form) and (alone or not form_torn.any()):
                    strings.append(form)
                    lengths.append(len(form))
                    ids.append(token_id)
                    self._begins_word.append(begins)
        return strings, lengths, ids

    def _literal_matcher(self, flags, tokens, contents) -> LiteralMatcher:
        """The matcher of tokens that are not normalised, and its table: code, word and space bits of a code point."""
        alphabet = np.unique(np.concatenate(contents))
        values = np.zeros(chars.FIRST_TOKEN + len(self.added_tokens), np.int32)
        values[alphabet] = np.arange(1, len(alphabet) + 1)
        values[:SCALARS] += chars.WORD_BIT * ((flags & Flag.WORD) > 0) + chars.JOINS_BIT * ((flags & Flag.SPACE) > 0)
        self._literal_table = CodePointTable(values)
        coded = [np.searchsorted(alphabet, content) + 1 for content in contents]
        return LiteralMatcher(tokens, coded, len(alphabet) + 1, self.split_special_tokens)

    def _spellings(self) -> list[str]:
        spellings = list(self.vocabulary)
        for token in self.added_tokens:
            if token.normalized:
                spellings[token.id] = self._normalized(token.content)
        return spellings

    def _decoded(self, spellings: list[str]) -> tuple[list[str], list[str]]:
        if not self.decoder:
            return spellings, [" " + token for token in spellings]
        prefix = self.continuing_prefix
        later = [token[len(prefix) :] if token.startswith(prefix) else " " + token for token in spellings]
        if not self.cleanup:
            return spellings, later
        return [_clean_up(token) for token in spellings], [_clean_up(token) for token in later]

    def _to_files(self) -> dict[str, str]:
        from garden.tokenizers.wordpiece_files import wordpiece_to_files

        return wordpiece_to_files(self)

    # ---- Graph ---------------------------------------------------------------------------------------------------

    def _tokenize(self, texts_B: tf.Tensor, spans: bool) -> Pieces:
        if spans or self._keeps_texts_whole:
            return self._tokenize_rows(texts_B, spans)
        chunks = tf.raw_ops.StringSplit(input=texts_B, delimiter=_WHITE_SPACE, skip_empty=True)
        distinct_U, which = tf.unique(chunks.values)
        pieces = self._tokenize_rows(distinct_U, spans=False)
        (splits,), ids = tf.raw_ops.RaggedGather(
            params_nested_splits=[pieces.splits],
            params_dense_values=pieces.ids,
            indices=which,
            OUTPUT_RAGGED_RANK=1,
        )
        return Pieces(ids, tf.gather(splits, _row_splits(chunks.indices[:, 0], tf.size(texts_B, tf.int64))))

    def _tokenize_rows(self, rows_U: tf.Tensor, spans: bool) -> Pieces:
        decoded = tf.raw_ops.UnicodeDecode(
            input=rows_U, input_encoding="UTF-8", errors="replace", Tsplits=tf.int64
        )  # invalid bytes become U+FFFD
        points_N, begins_U = decoded.char_values, tf.cast(decoded.row_splits[:-1], tf.int32)
        characters = self._normalize(points_N, _rows(begins_U, tf.size(points_N)))
        places_P, piece_P, length_P = self._pieces(characters)
        row_P = tf.gather(characters.rows, places_P)
        splits = _row_splits(tf.cast(row_P, tf.int64), tf.size(rows_U, tf.int64))
        ids = tf.gather(self._piece_ids, piece_P)
        if not spans:
            return Pieces(ids, splits)
        begin_P = tf.gather(begins_U, row_P)
        starts = tf.gather(characters.sources, places_P) - begin_P
        ends = tf.gather(characters.ends, places_P + length_P - 1) - begin_P
        return Pieces(ids, splits, starts, ends)

    def _normalize(self, points_N: tf.Tensor, row_N: tf.Tensor) -> _Characters:
        """Added tokens and BertNormalizer: code points to entries that begin, go on with or separate words."""
        here_N = tf.range(tf.size(points_N))
        entry_N, end_N = self._entries(points_N), here_N + 1
        if self._literals is not None:
            entry_N, end_N = tf.cond(
                tf.reduce_any(tf.bitwise.bitwise_and(entry_N, chars.BEGINS_BIT) > 0),
                lambda: self._replace_literals(points_N, row_N),
                lambda: (entry_N, end_N),
            )
        characters = _Characters(
            *tf.cond(
                tf.reduce_any(entry_N >= chars.REMOVED),
                lambda: self._expand(entry_N, end_N, row_N),
                lambda: _Characters(entry_N, here_N, end_N, row_N),
            )
        )
        if self._reorders:
            characters = characters._replace(entries=self._order_marks(characters, entry_N, row_N))
        if self._normal_literals is not None:
            begins = self._normal_literals.begins(_code(characters.entries))
            characters = _Characters(
                *tf.cond(tf.reduce_any(begins), lambda: self._replace_normalized(characters), lambda: characters)
            )
        return characters

    def _replace_literals(self, points_N, row_N):
        """Entries and ends of the characters, with added tokens in place of their strings."""
        value_N = self._literal_table(points_N)
        word_N, space_N = (tf.bitwise.bitwise_and(value_N, bit) > 0 for bit in (chars.WORD_BIT, chars.JOINS_BIT))
        matches = self._literals(_code(value_N), word_N, space_N, row_N)
        points_N = cover(points_N, matches, self._literal_points, chars.VANISHING)
        end_N = tf.range(1, tf.size(points_N) + 1)
        return self._entries(points_N), tf.tensor_scatter_nd_update(end_N, matches.starts[:, None], matches.stops)

    def _replace_normalized(self, characters: _Characters) -> _Characters:
        """The same for tokens that are matched after normalisation."""
        entries = characters.entries
        word, space = tf.bitwise.bitwise_and(entries, chars.WORD_BIT) > 0, _class(entries) == chars.SEPARATOR
        matches = self._normal_literals(_code(entries), word, space, characters.rows)
        ends = tf.gather(characters.ends, matches.stops - 1)
        ends = tf.tensor_scatter_nd_update(characters.ends, matches.starts[:, None], ends)
        entries = cover(entries, matches, self._normal_entries, chars.REMOVED)
        kept = tf.where(entries < chars.REMOVED)[:, 0]
        covered = characters._replace(entries=entries, ends=ends)
        return _Characters(*(tf.gather(values, kept) for values in covered))

    def _expand(self, entry_N, end_N, row_N) -> _Characters:
        """Drop the characters that vanish, and spell out those that become several."""
        class_N, code_N = _class(entry_N), _code(entry_N)
        several_N = tf.equal(class_N, chars.EXPANDED)
        expansion_N = tf.where(several_N, code_N, 0)
        first_N = tf.gather(self._expansion_starts, expansion_N)
        last_N = tf.where(several_N, tf.gather(self._expansion_starts, expansion_N + 1), first_N + 1)
        last_N = tf.where(tf.equal(class_N, chars.REMOVED), first_N, last_N)
        splits, spelled_M = tf.raw_ops.RaggedRange(starts=first_N, limits=last_N, deltas=1, Tsplits=tf.int32)
        source_M = _rows(splits[:-1], tf.size(spelled_M))
        entry_M = tf.where(
            tf.gather(several_N, source_M),
            tf.gather(self._expansion_entries, spelled_M),
            tf.gather(entry_N, source_M),
        )
        return _Characters(entry_M, source_M, tf.gather(end_N, source_M), tf.gather(row_N, source_M))

    def _order_marks(self, characters: _Characters, entry_N, row_N):
        """Entries with runs of combining marks in canonical order (Unicode Standard, 3.11, D109)."""

        def order():
            begins_N = tf.equal(tf.bitwise.bitwise_and(entry_N, chars.JOINS_BIT), 0)
            begins_N |= tf.concat([[True], tf.not_equal(row_N[1:], row_N[:-1])], axis=0)[: tf.size(row_N)]
            run_M = tf.gather(tf.cumsum(tf.cast(begins_N, tf.int32)), characters.sources)
            key_M = tf.cast(run_M, tf.int64) * 256 + tf.cast(rank_M, tf.int64)
            return tf.gather(characters.entries, tf.argsort(key_M, stable=True))

        rank_M = tf.gather(self._mark_ranks, _code(characters.entries))
        return tf.cond(tf.reduce_any(rank_M > 0), order, lambda: characters.entries)

    def _pieces(self, characters: _Characters) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Where each piece begins, which it is (index into the piece tables), and its length: [P] int32 each."""
        entry_M, row_M = characters.entries, characters.rows
        class_M, code_M = _class(entry_M), _code(entry_M)
        count = tf.size(entry_M)
        in_word_M = tf.equal(class_M, chars.IN_WORD)
        goes_on_M = tf.concat([[False], in_word_M[1:] & in_word_M[:-1] & tf.equal(row_M[1:], row_M[:-1])], axis=0)
        goes_on_M = goes_on_M[:count]
        ink_M = tf.not_equal(class_M, chars.SEPARATOR)
        begins_M = ink_M & ~goes_on_M
        ends_M = ink_M & ~tf.concat([goes_on_M[1:], [False]], axis=0)[:count]
        start_W, end_W = (tf.cast(tf.where(mask)[:, 0], tf.int32) for mask in (begins_M, ends_M))
        end_W += 1
        length_W = end_W - start_W

        symbols = tf.concat([tf.where(begins_M, code_M + self._code_count, code_M), [0]], axis=0)
        piece_W = self._trie.longest(symbols, start_W)
        size_W = tf.gather(self._piece_lengths, piece_W)
        bounded_W = length_W <= self.max_word_characters
        piece_W = tf.where(bounded_W, piece_W, 0)
        open_O = tf.cast(tf.where((piece_W > 0) & (size_W < length_W))[:, 0], tf.int32)

        def whole_words():
            size = tf.where(piece_W > 0, size_W, length_W)
            return start_W, piece_W, size

        def split_words():
            start_O, end_O = tf.gather(start_W, open_O), tf.gather(end_W, open_O)
            at_O = start_O + tf.gather(size_W, open_O)
            inside_Q = tf.raw_ops.RaggedRange(starts=at_O, limits=end_O, deltas=1, Tsplits=tf.int32).rt_dense_values
            piece_Q = self._trie.longest(symbols, inside_Q)
            piece_M = tf.scatter_nd(
                tf.concat([start_W, inside_Q], axis=0)[:, None], tf.concat([piece_W, piece_Q], axis=0), [count]
            )
            reached_M, failed_O = self._walk(piece_M, at_O, end_O)
            # A word that cannot be finished is unknown as a whole.
            failed = tf.gather(open_O, failed_O)
            reached_M = tf.tensor_scatter_nd_update(reached_M, start_W[:, None], tf.ones_like(start_W, tf.bool))
            unknown_W = tf.scatter_nd(failed[:, None], tf.ones_like(failed, tf.int32), tf.shape(start_W)) > 0
            place_P = tf.cast(tf.where(reached_M)[:, 0], tf.int32)
            word_P = tf.searchsorted(start_W, place_P, side="right") - 1
            unknown_P = tf.gather(unknown_W, word_P)
            head_P = tf.equal(tf.gather(start_W, word_P), place_P)
            kept = tf.where(head_P | ~unknown_P)[:, 0]
            place_P, word_P, unknown_P = (tf.gather(values, kept) for values in (place_P, word_P, unknown_P))
            piece_P = tf.where(unknown_P, 0, tf.gather(piece_M, place_P))
            size_P = tf.where(piece_P > 0, tf.gather(self._piece_lengths, piece_P), tf.gather(length_W, word_P))
            return place_P, piece_P, size_P

        return tf.cond(tf.size(open_O) > 0, split_words, whole_words)

    def _walk(self, piece_M, at_O, end_O):
        """Follow the pieces from `at_O` to `end_O`: the places reached, [M] bool, and which words got stuck."""

        def step(at_R, which_R, reached_M, failed):
            reached_M = tf.tensor_scatter_nd_update(reached_M, at_R[:, None], tf.ones_like(at_R, tf.bool))
            size_R = tf.gather(self._piece_lengths, tf.gather(piece_M, at_R))
            at_R += size_R
            stuck = tf.where(tf.equal(size_R, 0))[:, 0]
            going = tf.where((size_R > 0) & (at_R < tf.gather(end_O, which_R)))[:, 0]
            failed = tf.concat([failed, tf.gather(which_R, stuck)], axis=0)
            return tf.gather(at_R, going), tf.gather(which_R, going), reached_M, failed

        any_length = tf.TensorShape([None])
        _, _, reached_M, failed = tf.while_loop(
            lambda at_R, *_: tf.size(at_R) > 0,
            step,
            (at_O, tf.range(tf.size(at_O)), tf.zeros_like(piece_M, tf.bool), tf.zeros([0], tf.int32)),
            shape_invariants=(any_length,) * 4,
        )
        return reached_M, failed


def _clean_up(text: str) -> str:
    """The reference's decoder closes the spaces that splitting opened, one token at a time."""
    for spaced, closed in _CLOSED.items():
        text = text.replace(spaced, closed)
    return text


def _code(entries: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_and(entries, chars.CODE)


def _class(entries: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_and(entries, -1 << chars.CLASS_SHIFT)


def _rows(begins_U: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Which row each of `count` values is in, [count] int32; rows begin at begins_U and may be empty."""
    return tf.cumsum(tf.math.bincount(begins_U[1:], minlength=count, maxlength=count))


def _row_splits(row_P: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Splits of values whose rows, [P] int64 ascending, are given: [count + 1] int64."""
    return tf.searchsorted(row_P, tf.range(count + 1), side="left", out_type=tf.int64)
