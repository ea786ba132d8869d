"""Byte-pair encoding as a graph of core TensorFlow ops, exact against Hugging Face `tokenizers`.

Words that are one token are found by a trie. In the others many merges are made at once, in all words, round after
round; `bpe_merges.py` says which are safe and why. A round is a few dozen operations over the symbols that are left, and
rounds are about as many as the merges that one token is made of: a word of a megabyte takes hardly more than the short
ones do. https://arxiv.org/abs/1508.07909, https://openai.com/research/better-language-models (bytes).

What is merged in a round: every pair that is safe. Where some word has a pair but none that is safe, all words do as
follows. Let m be the least epoch among a word's pairs, so that the reference has made every merge of an earlier epoch.
If m is the epoch of one pair only, all its places are merged, from the left where they overlap: whatever could take a
symbol away from it first would be of an epoch up to m, hence the pair itself. Otherwise the leftmost pair of epoch m is
merged, since within one epoch the left comes first, or its right neighbour if that is its stronger rival. And if the
first of a run of overlapping equal pairs (a a a a) is merged, so is every second one, if the epoch is that pair's alone.

Letters: V tokens, N symbols, W words, O words with merges to make, M symbols and marks between words, P pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from garden.tokenizers.bpe_merges import Merges, PairTables, pair_tables
from garden.tokenizers.byte_level import CHARACTER_OF_BYTE
from garden.tokenizers.characters import SCALARS, CodePointTable, encode_points
from garden.tokenizers.text import repeat
from garden.tokenizers.trie import Trie, place
from garden.tokenizers.words import WordPieces, Words

_OPTIONS = {
    "vocab": {}, "merges": [], "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
    "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip
# Where a character stands in its word, as bits.
_FIRST, _LAST = 1, 2
_FEW = 8  # look further where fewer than one merge in so many is seen to be safe


class _Spelled(NamedTuple):
    """Words as nodes, and the symbols that each node stands for."""

    nodes: tf.Tensor  # [M] int32, 0 before, between and after the words
    starts: tf.Tensor  # [M - O - 1] int32
    ends: tf.Tensor  # [M - O - 1] int32


class BytePairModel:
    """Merges the symbols of words into tokens, pairs of lower rank first.

    vocabulary: token -> id. merges: pairs of tokens in order of rank.
    byte_level: symbols are bytes, not code points; tokens spell them as GPT-2 does.
    unk_token: stands for a symbol that is no token; None: such symbols vanish. fuse_unk: one for several in a row.
    continuing_prefix, end_suffix: written before a word's symbols but the first, and after its last, in tokens.
    byte_fallback: tokens <0x00> to <0xFF> stand for the bytes of a character that is no token.
    ignore_merges: a word that is a token stays whole whatever the merges say.
    where: the file, for errors.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: list[tuple[str, str]],
        *,
        byte_level: bool = False,
        unk_token: str | None = None,
        fuse_unk: bool = False,
        continuing_prefix: str = "",
        end_suffix: str = "",
        byte_fallback: bool = False,
        ignore_merges: bool = False,
        where: str = "tokenizer.json",
    ):
        tokens = _Tokens(vocabulary, merges, continuing_prefix, end_suffix, where)
        alphabet = sorted({c for token in vocabulary for c in token})
        spelled = [tokens.spelled(alphabet, kind) for kind in range(4 if continuing_prefix or end_suffix else 1)]
        initial = {index for indices in spelled for index in indices if index}
        unknown = tokens.unknown(unk_token, complete=byte_level and set(CHARACTER_OF_BYTE) <= set(vocabulary))
        fallback = tokens.fallback() if byte_fallback else []
        initial |= {unknown, *fallback} - {0}
        # A token that is a symbol, and that merges make too, of others: two nodes, for these behave differently.
        twins = {index: len(vocabulary) + 1 + n for n, index in enumerate(sorted(initial & tokens.made))}
        begins = np.zeros(len(vocabulary) + 1 + len(twins), bool)
        begins[[twins.get(index, index) for index in initial]] = True
        self._merges = tokens.merges(twins, begins)
        tables = pair_tables(self._merges, begins)

        code_of = np.zeros(SCALARS, np.int32)
        code_of[[ord(c) for c in alphabet]] = np.arange(1, len(alphabet) + 1)
        strings, nodes = tokens.words(code_of, tables.whole, self._merges.lengths, twins, ignore_merges)
        self._trie = Trie(strings, len(alphabet) + 1)
        node_of_code = [[0, *(twins.get(index, index) for index in indices)] for indices in spelled]
        ids = [0, *vocabulary.values()]
        self._fuse_unk, self._byte_fallback, self._has_unknown = fuse_unk, byte_fallback, unknown > 0
        with tf.init_scope(), tf.device("CPU:0"):
            self._node_of_code = tf.constant(node_of_code, tf.int32)
            self._unknown = tf.constant(twins.get(unknown, unknown), tf.int32)
            self._byte_nodes = tf.constant([twins.get(index, index) for index in fallback], tf.int32)
            self._ids = tf.constant(ids + [ids[index] for index in twins], tf.int32)
            self._lengths = tf.constant(self._merges.lengths, tf.int32)
            self._string_lengths = tf.constant([0, *map(len, strings)], tf.int32)
            self._string_nodes = tf.constant([0, *nodes], tf.int32)
            self._byte_codes = tf.constant(code_of[[ord(c) for c in CHARACTER_OF_BYTE]])
        self._codes = self._codes_of_bytes if byte_level else CodePointTable(code_of)
        self._make_constants(tables)

    @classmethod
    def from_spec(
        cls, spec: Mapping[str, Any], *, byte_level: bool = False, where: str = "tokenizer.json"
    ) -> BytePairModel:
        """The model section of tokenizer.json; ValueError names what is not supported or wrong."""
        unknown = [name for name in spec if name not in _OPTIONS and name != "type"]
        if unknown:
            raise ValueError(
                f'{where}: model option "{unknown[0]}" = {spec[unknown[0]]!r:.40} is not supported; '
                f"known: {', '.join(_OPTIONS)}"
            )
        options = {**_OPTIONS, **spec}
        if options["dropout"]:
            raise ValueError(f"{where}: model: dropout = {options['dropout']!r} is not supported; set it to null")
        if not isinstance(options["vocab"], dict) or not options["vocab"]:
            raise ValueError(f"{where}: model.vocab: expected an object of tokens and ids")
        return cls(
            options["vocab"],
            [_pair(merge, index, where) for index, merge in enumerate(options["merges"])],
            byte_level=byte_level,
            unk_token=options["unk_token"],
            fuse_unk=bool(options["fuse_unk"]),
            continuing_prefix=options["continuing_subword_prefix"] or "",
            end_suffix=options["end_of_word_suffix"] or "",
            byte_fallback=bool(options["byte_fallback"]),
            ignore_merges=bool(options["ignore_merges"]),
            where=where,
        )

    def _make_constants(self, tables: PairTables) -> None:
        """The pairs as a double array (see `trie.py`): the pair (left, right) is in slot base[left] + right."""
        nodes = len(self._merges.lengths)
        slots_P, base_of_node = place(tables.left, tables.right, nodes)
        base = np.zeros(nodes, np.int32)
        base[: len(base_of_node)] = base_of_node[:nodes]
        slots = int(max(slots_P.max(initial=0), base.max()) + nodes + 1)
        owner, keys = np.full(slots, -1, np.int32), np.full((slots, 4), tables.never, tables.keys.dtype)
        made, epoch, alone = np.zeros(slots, np.int32), np.zeros(slots, np.int32), np.zeros(slots, bool)
        owner[slots_P], keys[slots_P] = tables.left, tables.keys
        made[slots_P], epoch[slots_P], alone[slots_P] = tables.made, tables.epoch, tables.alone
        with tf.init_scope(), tf.device("CPU:0"):
            self._base, self._owner, self._keys = tf.constant(base), tf.constant(owner), tf.constant(keys)
            self._made, self._epoch, self._alone = tf.constant(made), tf.constant(epoch), tf.constant(alone)
        self._never, self._half = tables.never, tables.half

    def _codes_of_bytes(self, bytes_N: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._byte_codes, bytes_N)

    # ---- Graph ---------------------------------------------------------------------------------------------------

    def __call__(self, words: Words) -> WordPieces:
        """The pieces of all words."""
        start_W, end_W = tf.cast(words.splits[:-1], tf.int32), tf.cast(words.splits[1:], tf.int32)
        length_W, words_count = end_W - start_W, tf.size(start_W)
        code_N = self._codes(words.symbols)
        # A 0 after each word, so that no token reaches beyond it.
        place_N = tf.range(tf.size(code_N)) + repeat(length_W)
        marked = tf.scatter_nd(place_N[:, None], code_N, [tf.size(code_N) + words_count + 1])
        string_W = self._trie.longest(marked, start_W + tf.range(words_count))
        whole_W = tf.equal(tf.gather(self._string_lengths, string_W), length_W) & (length_W > 0)
        done_D = tf.cast(tf.where(whole_W)[:, 0], tf.int32)
        open_O = tf.cast(tf.where(~whole_W & (length_W > 0))[:, 0], tf.int32)

        spelled = self._spell(code_N, words.symbols, tf.gather(start_W, open_O), tf.gather(end_W, open_O))
        node_M = self._merge(spelled.nodes)
        mark_O = tf.where(tf.equal(node_M, 0))[:, 0]
        count_O = tf.cast(mark_O[1:] - mark_O[:-1] - 1, tf.int32)
        node_Q = tf.gather(node_M, tf.where(node_M > 0)[:, 0])  # the open words' pieces
        stop_Q = tf.cumsum(tf.gather(self._lengths, node_Q))
        start_Q = tf.gather(spelled.starts, stop_Q - tf.gather(self._lengths, node_Q))
        end_Q = tf.gather(spelled.ends, stop_Q - 1)

        count_W = tf.tensor_scatter_nd_update(tf.cast(whole_W, tf.int32), open_O[:, None], count_O)
        splits = tf.concat([[0], tf.cumsum(count_W)], axis=0)
        inside_Q = tf.raw_ops.RaggedRange(
            starts=tf.gather(splits, open_O), limits=tf.gather(splits, open_O + 1), deltas=1, Tsplits=tf.int32
        ).rt_dense_values
        place_P = tf.concat([tf.gather(splits, done_D), inside_Q], axis=0)[:, None]

        def both(done, opened):
            return tf.scatter_nd(place_P, tf.concat([done, opened], axis=0), splits[-1:])

        node_D = tf.gather(self._string_nodes, tf.gather(string_W, done_D))
        return WordPieces(
            tf.gather(self._ids, both(node_D, node_Q)),
            tf.cast(splits, tf.int64),
            both(tf.gather(start_W, done_D), start_Q),
            both(tf.gather(end_W, done_D), end_Q),
        )

    def _spell(self, code_N, symbols_N, start_O, end_O) -> _Spelled:
        """The nodes that the symbols of words become before any merge."""
        spread = tf.raw_ops.RaggedRange(starts=start_O - 1, limits=end_O, deltas=1, Tsplits=tf.int32)
        marks = spread.rt_nested_splits[:, None]  # a mark before each word, and at the end
        at_M = tf.concat([spread.rt_dense_values, [-1]], axis=0)
        code_M = tf.tensor_scatter_nd_update(
            tf.gather(tf.concat([[0], code_N], axis=0), at_M + 1), marks, tf.zeros_like(marks[:, 0])
        )
        mark_M = tf.scatter_nd(marks, tf.ones_like(marks[:, 0], tf.bool), tf.shape(code_M))
        if self._node_of_code.shape[0] == 1:
            node_M = tf.gather(self._node_of_code[0], code_M)
        else:
            edge_M = tf.cast(mark_M, tf.int32)
            before_M, after_M = _roll(edge_M, 1), _roll(edge_M, -1)
            size = self._node_of_code.shape[1]
            kind_M = tf.where(mark_M, 0, _FIRST * before_M + _LAST * after_M)
            node_M = tf.gather(tf.reshape(self._node_of_code, [-1]), kind_M * size + code_M)
        ink = tf.where(~mark_M)[:, 0]
        at_I = tf.gather(at_M, ink)
        strange_M = tf.equal(node_M, 0) & ~mark_M
        return _Spelled(
            *tf.cond(
                tf.reduce_any(strange_M),
                lambda: self._spell_strange(node_M, strange_M, mark_M, at_M, symbols_N),
                lambda: _Spelled(node_M, at_I, at_I + 1),
            )
        )

    def _spell_strange(self, node_M, strange_M, mark_M, at_M, symbols_N) -> _Spelled:
        """The same where some symbols are no tokens: they become bytes, unknown tokens, or nothing."""
        count_M = tf.ones_like(node_M)
        end_M = at_M + 1
        if self._byte_fallback:
            point_M = tf.gather(symbols_N, tf.maximum(at_M, 0))
            sizes = 1 + sum(tf.cast(point_M >= limit, tf.int32) for limit in (0x80, 0x800, 0x10000))
            count_M = tf.where(strange_M, sizes, 1)
        elif self._has_unknown:
            node_M = tf.where(strange_M, self._unknown, node_M)
            if self._fuse_unk:
                again_M = strange_M & _roll(strange_M, 1)
                last = tf.cast(tf.where(strange_M & ~_roll(strange_M, -1))[:, 0], tf.int32)
                which_M = tf.cumsum(tf.cast(strange_M & ~again_M, tf.int32)) - 1
                run_end_M = tf.gather(tf.gather(at_M, last) + 1, tf.maximum(which_M, 0))
                end_M = tf.where(strange_M, run_end_M, end_M)
                count_M = tf.cast(~again_M, tf.int32)
        else:
            count_M = tf.cast(~strange_M, tf.int32)
        source = repeat(count_M)
        nodes = tf.gather(node_M, source)
        if self._byte_fallback:
            nth = tf.range(tf.size(source)) - tf.gather(tf.cumsum(count_M, exclusive=True), source)
            size, point = tf.gather(count_M, source), tf.gather(point_M, source)
            bits = tf.bitwise.right_shift(point, 6 * (size - 1 - nth))
            lead = tf.gather(tf.constant([0, 0, 0xC0, 0xE0, 0xF0], tf.int32), size)
            byte = tf.where(nth > 0, 0x80 + tf.bitwise.bitwise_and(bits, 0x3F), lead + bits)
            strange = tf.gather(strange_M, source)
            nodes = tf.where(strange, tf.gather(self._byte_nodes, tf.where(strange, byte, 0)), nodes)
        ink = tf.gather(source, tf.where(~tf.gather(mark_M, source))[:, 0])
        return _Spelled(nodes, tf.gather(at_M, ink), tf.gather(end_M, ink))

    def _merge(self, node_M: tf.Tensor) -> tf.Tensor:
        """All merges: nodes with a 0 before, between and after the words, as they are and when no more can be made."""

        def step(node_M, _):
            left, right = node_M[:-1], node_M[1:]
            slot = tf.gather(self._base, left) + right
            slot = tf.where(tf.equal(tf.gather(self._owner, slot), left), slot, 0)
            low, high, before, after = tf.unstack(tf.gather(self._keys, slot), axis=1)
            merges = high < self._never
            some = tf.reduce_any(merges)
            safe, unhindered = self._safe(low, high, before, after)
            safe = tf.cond(
                some & ~tf.reduce_any(safe),
                lambda: self._first(slot, low, high, tf.equal(left, 0)),
                lambda: safe,
            )
            again = merges & tf.equal(left, right) & tf.equal(left, _roll(left, 1))
            safe = tf.cond(
                tf.reduce_any(again),
                lambda: self._alternate(slot, safe, again, unhindered),
                lambda: safe,
            )
            at = tf.where(safe)
            made = tf.gather(self._made, tf.gather(slot, at[:, 0]))
            node_M = tf.tensor_scatter_nd_update(node_M, at, made)
            gone = _roll(tf.concat([safe, [False]], axis=0), 1)
            return tf.gather(node_M, tf.where(~gone)[:, 0]), some

        node_M, _ = tf.while_loop(
            lambda _, some: some,
            step,
            (node_M, tf.size(node_M) > 2),
            shape_invariants=(tf.TensorShape([None]), tf.TensorShape([])),
        )
        return node_M

    def _safe(self, low, high, before, after):
        """The pairs that are safe; and those that nothing on their right takes a symbol from."""

        def judge(left, right):
            """By bounds on what happens to the left of each pair, and to the right."""
            unhindered = _roll(tf.minimum(high, tf.maximum(after, _roll(right, -1))), -1) >= low
            return (_roll(tf.minimum(low, tf.maximum(before, _roll(left, 1))), 1) > high) & unhindered, unhindered

        def deeper(_, unhindered, reach, *bounds):
            # x -> min(least, max(most, x)) of `reach` neighbours one after the other is of that form again.
            left_least, left_most, right_least, right_most = bounds
            bounds = (
                tf.minimum(left_least, tf.maximum(left_most, _roll(left_least, reach))),
                tf.maximum(left_most, _roll(left_most, reach)),
                tf.minimum(right_least, tf.maximum(right_most, _roll(right_least, -reach))),
                tf.maximum(right_most, _roll(right_most, -reach)),
            )
            safe, unhindered = judge(tf.minimum(*bounds[:2]), tf.minimum(*bounds[2:]))
            return safe, unhindered, 2 * reach, *bounds

        count = tf.math.count_nonzero(high < self._never)
        bounds = tuple(self._next(keys) for keys in (low, before, high, after))
        safe, unhindered = judge(tf.minimum(*bounds[:2]), tf.minimum(*bounds[2:]))
        safe, unhindered, *_ = tf.while_loop(
            lambda safe, _, reach, *bounds: (_FEW * tf.math.count_nonzero(safe) < count) & (reach < tf.size(safe)),
            deeper,
            (safe, unhindered, tf.constant(1), *bounds),
        )
        return safe, unhindered

    def _next(self, keys):
        """The least key of a merge that builds on one with this key or more."""
        return tf.bitwise.bitwise_and(keys + self._half, tf.constant(-2 * self._half, keys.dtype))

    def _first(self, slot, low, high, begins):
        """The pairs of the least epoch of each word that the reference merges next."""
        word = tf.cumsum(tf.cast(begins, tf.int32))
        epoch = tf.gather(self._epoch, slot)
        epoch = tf.where(epoch > 0, epoch, tf.int32.max)
        least = tf.equal(epoch, tf.gather(tf.math.segment_min(epoch, word), word)) & (epoch < tf.int32.max)
        alone = least & tf.gather(self._alone, slot)
        place = tf.where(least, tf.range(tf.size(slot)), tf.int32.max)
        leftmost = tf.equal(place, tf.gather(tf.math.segment_min(place, word), word)) & least & ~alone
        yields = leftmost & (_roll(high, -1) < low)
        return (alone & ~_roll(alone, 1)) | (leftmost & ~yields) | _roll(yields, 1)

    def _alternate(self, slot, safe, again, unhindered):
        """Every second pair of runs of one pair whose first is merged."""
        heads = tf.where(~again)[:, 0]
        head = tf.gather(heads, tf.cumsum(tf.cast(~again, tf.int32)) - 1)
        even = tf.equal((tf.range(tf.size(slot), dtype=tf.int64) - head) % 2, 0)
        return safe | (again & even & tf.gather(safe, head) & unhindered & tf.gather(self._alone, slot))


def _roll(values: tf.Tensor, by) -> tf.Tensor:
    """`tf.roll` of vectors, which takes ten times as long for short ones."""
    return tf.concat([values[-by:], values[:-by]], axis=0)


# ---- Reading vocabularies ----------------------------------------------------------------------------------------


class _Tokens:
    """A vocabulary's tokens as numbers from 1 on (0 is none), and its merges."""

    def __init__(self, vocabulary: Mapping[str, int], merges: list[tuple[str, str]], prefix: str, suffix: str, where):
        self._names = list(vocabulary)
        self._index = {token: index for index, token in enumerate(self._names, 1)}
        self._prefix, self._suffix, self._where = prefix, suffix, where
        ranked: dict[tuple[int, int], int] = {}
        for rank, (left, right) in enumerate(merges):
            made = left + right[len(prefix) :]
            for token in (left, right, made):
                if token not in self._index:
                    raise ValueError(
                        f'{where}: merge {rank}, "{left}" and "{right}": "{token}" is not in the vocabulary'
                    )
            pair = (self._index[left], self._index[right])
            ranked.pop(pair, None)  # of equal pairs the last one counts
            ranked[pair] = self._index[made]
        self._ranked = ranked
        self.made = set(ranked.values())

    def spelled(self, alphabet: list[str], kind: int) -> list[int]:
        """The token of each character where it stands first, last, alone or inside in a word; 0: none."""
        before = "" if kind & _FIRST else self._prefix
        after = self._suffix if kind & _LAST else ""
        return [self._index.get(before + character + after, 0) for character in alphabet]

    def unknown(self, unk_token: str | None, complete: bool) -> int:
        """The unknown token, 0 if there is none. complete: it is never needed."""
        if unk_token is None or (complete and unk_token not in self._index):
            return 0
        if unk_token not in self._index:
            raise ValueError(f'{self._where}: model.unk_token: "{unk_token}" is not in the vocabulary')
        return self._index[unk_token]

    def fallback(self) -> list[int]:
        """The tokens of all bytes."""
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        missing = [name for name in names if name not in self._index]
        if missing:
            raise ValueError(
                f'{self._where}: model.byte_fallback: "{missing[0]}" is missing; all of <0x00> to <0xFF> are needed'
            )
        if self._prefix or self._suffix:
            name = "continuing_subword_prefix" if self._prefix else "end_of_word_suffix"
            raise ValueError(f"{self._where}: model: byte_fallback with {name} is not supported")
        return [self._index[name] for name in names]

    def merges(self, twins: Mapping[int, int], begins: np.ndarray) -> Merges:
        """The merges in order of rank, of tokens and their twins (which are symbols), with the tokens' lengths."""
        ways = lambda index: (index, twins[index]) if index in twins else (index,)
        rows = [(a, b, made) for (left, right), made in self._ranked.items() for a in ways(left) for b in ways(right)]
        ranks = [rank for rank, pair in enumerate(self._ranked) for _ in ways(pair[0]) for _ in ways(pair[1])]
        left, right, made = np.array(rows, np.int64).reshape(-1, 3).T
        lengths = begins.astype(np.int64)
        while True:
            sums = np.where((lengths[left] > 0) & (lengths[right] > 0), lengths[left] + lengths[right], 0)
            known = sums > 0
            before = lengths[made[known]]
            if ((before > 0) & (before != sums[known])).any():
                token = made[known][np.flatnonzero((before > 0) & (before != sums[known]))[0]]
                raise ValueError(
                    f'{self._where}: model.merges: "{self._names[token - 1]}" is made of different numbers of symbols'
                )
            if (before > 0).all():
                return Merges(left, right, made, np.array(ranks, np.int64), lengths)
            lengths[made[known]] = sums[known]

    def words(self, code_of: np.ndarray, whole, lengths, twins, ignore_merges: bool) -> tuple[list, list]:
        """The words that are one token: their characters' codes, and the token."""
        strings, nodes = [], []
        for index, token in enumerate(self._names, 1):
            node = index
            if not ignore_merges:
                if self._suffix and not token.endswith(self._suffix):
                    continue
                token = token[: len(token) - len(self._suffix)]
                node = twins.get(index, index) if len(token) == 1 else index
                if not whole[node] or lengths[node] != len(token):
                    continue
            if token:
                strings.append(code_of[encode_points(token)])
                nodes.append(node)
        return strings, nodes


def _pair(merge: Any, rank: int, where: str) -> tuple[str, str]:
    """A merge as tokenizer.json writes it: "a b", or ["a", "b"]."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, (list, tuple)) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{where}: model.merges: {rank}: expected two tokens, got {merge!r:.60}")
    return tuple(parts)
