"""WordLevel and WordPiece as models of any pipeline: whole words of a vocabulary, or the longest pieces from the left.

BERT's own pipeline is faster in one go (wordpiece.py). https://arxiv.org/abs/1609.08144 (WordPiece).

Letters: N symbols, W words, R words on their way, P pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from garden.tokenizers.characters import SCALARS, CodePointTable, encode_points
from garden.tokenizers.files import options
from garden.tokenizers.trie import Trie
from garden.tokenizers.words import WordPieces, Words


class WordPieceModel:
    """Splits words into the longest pieces that a vocabulary has, from the left; a word that cannot be split is unknown.

    vocabulary: token -> id. prefix: begins the pieces that go on with a word; None: only whole words are looked up.
    most_characters: longer words are unknown.
    """

    def __init__(self, vocabulary: Mapping[str, int], unk_token: str, prefix: str | None, most_characters: int | None):
        if unk_token not in vocabulary:
            raise ValueError(f'tokenizer.json: model: the unknown token "{unk_token}" is not in the vocabulary')
        forms = [(encode_points(token), True, token_id) for token, token_id in vocabulary.items()]
        if prefix is not None:
            forms += [
                (encode_points(token[len(prefix) :]), False, token_id)
                for token, token_id in vocabulary.items()
                if token.startswith(prefix)
            ]
        forms = [form for form in forms if len(form[0])]
        alphabet = np.unique(np.concatenate([*(form[0] for form in forms), np.zeros(0, np.int32)]))
        code_of = np.zeros(SCALARS, np.int32)
        code_of[alphabet] = np.arange(1, len(alphabet) + 1)
        self._codes = len(alphabet) + 1  # a character that begins a word has another symbol, this many further
        strings = [code_of[points] for points, _, _ in forms]
        for string, (_, begins, _) in zip(strings, forms, strict=True):
            string[0] += self._codes * begins
        self._trie, self._code_of = Trie(strings, 2 * self._codes), CodePointTable(code_of)
        self._most, self._whole = most_characters, prefix is None
        with tf.init_scope(), tf.device("CPU:0"):
            # Index 0 is "no piece": of length 0, and unknown.
            self._ids = tf.constant([vocabulary[unk_token], *(form[2] for form in forms)], tf.int32)
            self._lengths = tf.constant([0, *(len(form[0]) for form in forms)], tf.int32)

    @classmethod
    def from_spec(cls, model: Mapping[str, Any]) -> WordPieceModel:
        """The model section of tokenizer.json, of type WordPiece or WordLevel."""
        if model["type"] == "WordLevel":
            fields = options("model", model, vocab={}, unk_token="<unk>")
            return cls(fields["vocab"], fields["unk_token"], None, None)
        fields = options(
            "model", model, vocab={}, unk_token="[UNK]", continuing_subword_prefix="##", max_input_chars_per_word=100
        )
        return cls(
            fields["vocab"],
            fields["unk_token"],
            fields["continuing_subword_prefix"],
            fields["max_input_chars_per_word"],
        )

    def __call__(self, words: Words) -> WordPieces:
        """The pieces of all words."""
        splits = tf.cast(words.splits, tf.int32)
        full = tf.where(splits[1:] > splits[:-1])[:, 0]  # empty words have no pieces
        start_W, stop_W = tf.gather(splits[:-1], full), tf.gather(splits[1:], full)
        code_N = tf.tensor_scatter_nd_add(
            self._code_of(words.symbols), start_W[:, None], tf.fill(tf.shape(start_W), self._codes)
        )
        code_N = tf.where(tf.equal(code_N, self._codes), 0, code_N)
        piece_N = self._trie.longest(tf.concat([code_N, [0]], axis=0), tf.range(tf.size(code_N)))
        size_N = tf.gather(self._lengths, piece_N)

        def step(at_R, which_R, reached_N, failed_W):
            reached_N = tf.tensor_scatter_nd_update(reached_N, at_R[:, None], tf.ones_like(at_R, tf.bool))
            size_R = tf.gather(size_N, at_R)
            stop_R = tf.gather(stop_W, which_R)
            stuck_R = tf.equal(size_R, 0) | ((at_R + size_R < stop_R) if self._whole else tf.zeros_like(at_R, tf.bool))
            stuck = tf.gather(which_R, tf.where(stuck_R)[:, 0])
            failed_W = tf.tensor_scatter_nd_update(failed_W, stuck[:, None], tf.ones_like(stuck, tf.bool))
            going = tf.where(~stuck_R & (at_R + size_R < stop_R))[:, 0]
            return tf.gather(at_R + size_R, going), tf.gather(which_R, going), reached_N, failed_W

        too_long_W = tf.zeros_like(start_W, tf.bool) if self._most is None else stop_W - start_W > self._most
        fit = tf.where(~too_long_W)[:, 0]
        any_length = tf.TensorShape([None])
        *_, reached_N, failed_W = tf.while_loop(
            lambda at_R, *_: tf.size(at_R) > 0,
            step,
            (tf.gather(start_W, fit), tf.cast(fit, tf.int32), tf.zeros_like(code_N, tf.bool), too_long_W),
            shape_invariants=(any_length,) * 4,
        )
        # A word that got stuck is unknown as a whole: one piece, where it begins.
        reached_N = tf.tensor_scatter_nd_update(reached_N, start_W[:, None], tf.ones_like(start_W, tf.bool))
        start_P = tf.cast(tf.where(reached_N)[:, 0], tf.int32)
        word_P = tf.searchsorted(start_W, start_P, side="right") - 1
        unknown_P = tf.gather(failed_W, word_P)
        kept = tf.where(~unknown_P | tf.equal(start_P, tf.gather(start_W, word_P)))[:, 0]
        start_P, word_P, unknown_P = (tf.gather(values, kept) for values in (start_P, word_P, unknown_P))
        piece_P = tf.where(unknown_P, 0, tf.gather(piece_N, start_P))
        size_P = tf.where(unknown_P, tf.gather(stop_W - start_W, word_P), tf.gather(self._lengths, piece_P))
        pieces = tf.searchsorted(start_P, splits, side="left", out_type=tf.int64)
        return WordPieces(tf.gather(self._ids, piece_P), pieces, start_P, start_P + size_P)
