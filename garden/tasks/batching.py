"""Tokenised texts to the rectangles a network computes on, inside the graph: several texts a row, or one.

Shapes: E texts of a batch, (L) their ragged lengths, R rows, T row length, Q most texts in a row, K sides of an example.
"""

import tensorflow as tf


def pack(
    token_ids: tf.RaggedTensor, type_ids: tf.RaggedTensor, *, pad_id: int, row_length: int = 1, multiple: int = 1
) -> dict[str, tf.Tensor]:
    """Puts texts into rows, first-fit in order of decreasing length, so that little is padding.

    Attention cost grows with the row length and fill does too, so rows are `row_length` long, or as the longest text where
    that is longer. The layout depends on the lengths alone.

    Args:
        token_ids, type_ids: [E,(L)] int32.
        row_length: the shortest T worth having.
        multiple: T is rounded up to a multiple of it, so that a training run meets few different shapes.

    Returns:
        `token_ids`, `segment_ids`, `positions`, `type_ids`: [R,T] int32;
        `text_positions`, `text_ends` [R,Q]: where each text of a row starts, and its last token; `text_index` [R,Q]: which
        text of the batch it is, -1 for none.
    """
    lengths = tf.cast(token_ids.row_lengths(), tf.int32)
    length = _rounded(tf.maximum(_longest(lengths), row_length), multiple)
    # A text without tokens gets a place too, so that `text_positions` stay inside their rows.
    rows, starts, slots = _first_fit(tf.maximum(lengths, 1)[:, None], length[None])
    return _laid_out(token_ids, type_ids, rows, starts[:, 0], slots, length, pad_id)


def pad(
    token_ids: tf.RaggedTensor, type_ids: tf.RaggedTensor, *, pad_id: int, multiple: int = 1
) -> dict[str, tf.Tensor]:
    """Puts one text in each row, padded on the right to the longest: `pack`'s plain twin, with the same outputs."""
    lengths = tf.cast(token_ids.row_lengths(), tf.int32)
    count = tf.size(lengths)
    zeros = tf.zeros([count], tf.int32)
    length = _rounded(_longest(lengths), multiple)
    return _laid_out(token_ids, type_ids, tf.range(count), zeros, zeros, length, pad_id)


def pack_pairs(
    source_ids: tf.RaggedTensor, target_ids: tf.RaggedTensor, *, pad_id: int, row_length: int = 1, multiple: int = 1
) -> dict[str, tf.Tensor]:
    """Puts examples of a source and a target into rows: the n-th segment of a row of targets belongs to the n-th of sources.

    As `pack`: an example goes into the first row that has room for both of its sides. Rows of targets are as much shorter
    or longer as targets are.

    Args:
        source_ids, target_ids: [E,(L)] int32.
        row_length, multiple: as `pack`'s, of the sources' rows.

    Returns:
        `token_ids`, `segment_ids`, `positions` [R,S], `target_ids`, `target_segment_ids`, `target_positions` [R,T] int32;
        `text_index` [R,Q]: which example of the batch each segment is, -1 for none.
    """
    sides = (source_ids, target_ids)
    lengths = tf.stack([tf.cast(side.row_lengths(), tf.int32) for side in sides], axis=1)
    longest = [_longest(lengths[:, side]) for side in range(2)]
    source = _rounded(tf.maximum(longest[0], row_length), multiple)
    totals = tf.cast(tf.maximum(tf.reduce_sum(lengths, axis=0), 1), tf.float32)
    share = tf.cast(tf.math.ceil(tf.cast(source, tf.float32) * totals[1] / totals[0]), tf.int32)
    # Few targets need no row of many places.
    target = _rounded(tf.maximum(longest[1], tf.minimum(share, tf.maximum(tf.reduce_sum(lengths[:, 1]), 1))), multiple)
    row_lengths = tf.stack([source, target])
    rows, starts, slots = _first_fit(tf.maximum(lengths, 1), row_lengths)
    return _both_laid_out(sides, rows, starts, slots, row_lengths, pad_id)


def pad_pairs(
    source_ids: tf.RaggedTensor, target_ids: tf.RaggedTensor, *, pad_id: int, multiple: int = 1
) -> dict[str, tf.Tensor]:
    """Puts one example in each row, padded on the right: `pack_pairs`' plain twin, with the same outputs."""
    sides = (source_ids, target_ids)
    row_lengths = tf.stack([_rounded(_longest(tf.cast(side.row_lengths(), tf.int32)), multiple) for side in sides])
    count = tf.size(source_ids.row_lengths(), tf.int32)
    zeros = tf.zeros([count], tf.int32)
    return _both_laid_out(sides, tf.range(count), tf.zeros([count, 2], tf.int32), zeros, row_lengths, pad_id)


def tokens_of(x: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns the [R,T] tensors of `pack` or `pad`, without those that say where texts are."""
    return {name: value for name, value in x.items() if not name.startswith("text_")}


def unpack(values_RQ: tf.Tensor, text_index_RQ: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns packed texts' values in the order of the texts: [R,Q,...] -> [count,...]."""
    index = tf.reshape(text_index_RQ, [-1])
    flat = tf.reshape(values_RQ, tf.concat([tf.shape(index), tf.shape(values_RQ)[2:]], axis=0))
    return tf.math.unsorted_segment_sum(flat, index, count)


def spread(values_E: tf.Tensor, text_index_RQ: tf.Tensor) -> tf.Tensor:
    """Returns the texts' values where `text_index` puts them, zero elsewhere: [E,...] -> [R,Q,...]."""
    padded = tf.pad(values_E, [[0, 1]] + [[0, 0]] * (values_E.shape.rank - 1))
    return tf.gather(padded, tf.where(text_index_RQ < 0, tf.shape(values_E)[0], text_index_RQ))


def lay_out(values: tf.RaggedTensor, x: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns what texts' tokens have [E,(L)] where `pack` or `pad` puts the tokens, zero elsewhere: [R,T]."""
    index, real = _token_index(values, x)
    return tf.where(real, tf.gather(tf.pad(values.values, [[0, 1]]), index), tf.zeros([], values.dtype))


def collect(values_RT: tf.Tensor, x: dict[str, tf.Tensor], like: tf.RaggedTensor) -> tf.Tensor:
    """Returns what places have in the order of the texts' tokens: [R,T,...] -> [L in all,...], `lay_out`'s inverse."""
    index, real = _token_index(like, x)
    places = tf.where(real)
    size = tf.concat([tf.shape(like.values)[:1], tf.shape(values_RT)[2:]], axis=0)
    return tf.scatter_nd(tf.gather_nd(index, places)[:, None], tf.gather_nd(values_RT, places), size)


def _token_index(values: tf.RaggedTensor, x: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the number of the token at each place [R,T] among the tokens of all texts, and whether there is one."""
    text = tf.gather(tf.pad(x["text_index"], [[0, 0], [1, 0]]), x["segment_ids"], batch_dims=1)
    starts = tf.cast(tf.concat([values.row_starts(), [0]], axis=0), tf.int32)  # an empty batch has rows of padding
    real = x["segment_ids"] > 0
    return tf.where(real, tf.gather(starts, tf.where(real, text, 0)) + x["positions"], tf.shape(values.values)[0]), real


def _longest(lengths_E: tf.Tensor) -> tf.Tensor:
    # An empty batch has no maximum.
    return tf.reduce_max(tf.concat([lengths_E, [1]], axis=0))


def _rounded(length: tf.Tensor, multiple: int) -> tf.Tensor:
    return (length + multiple - 1) // multiple * multiple


def _first_fit(lengths_EK: tf.Tensor, row_lengths_K: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns each example's row [E], its sides' starts there [E,K] and its number among the row's examples [E], int32."""
    count, sides = tf.shape(lengths_EK)[0], lengths_EK.shape[1]
    # Of several sides, the one that fills most of its row says how large an example is.
    sizes = tf.reduce_max(tf.cast(lengths_EK, tf.float32) / tf.cast(row_lengths_K, tf.float32), axis=1)
    order = tf.argsort(sizes, direction="DESCENDING", stable=True)
    sorted_lengths = tf.gather(lengths_EK, order)

    def place(i, free, held, rows, starts, slots):
        length = sorted_lengths[i]
        row = tf.argmax(tf.reduce_all(free >= length, axis=1), output_type=tf.int32)
        rows = rows.write(i, row)
        starts = starts.write(i, row_lengths_K - free[row])
        slots = slots.write(i, held[row])
        here = tf.one_hot(row, count, dtype=tf.int32)
        return i + 1, free - here[:, None] * length, held + here, rows, starts, slots

    # Three arrays, not one three times: outside of a graph writing changes them in place.
    arrays = [tf.TensorArray(tf.int32, size=count, element_shape=shape) for shape in ([], [sides], [])]
    _, _, _, *placed = tf.while_loop(
        lambda i, *_: i < count,
        place,
        (tf.constant(0), tf.repeat(row_lengths_K[None], count, axis=0), tf.zeros([count], tf.int32), *arrays),
        shape_invariants=(
            *[tf.TensorShape(shape) for shape in ([], [None, sides], [None])],
            *[tf.TensorShape(None)] * 3,
        ),
        parallel_iterations=1,
    )
    inverse = tf.math.invert_permutation(order)
    return tuple(tf.gather(part.stack(), inverse) for part in placed)


def _both_laid_out(sides, rows, starts, slots, row_lengths, pad_id) -> dict[str, tf.Tensor]:
    source, target = (
        _laid_out(ids, tf.zeros_like(ids), rows, starts[:, side], slots, row_lengths[side], pad_id)
        for side, ids in enumerate(sides)
    )
    names = {"token_ids": "target_ids", "segment_ids": "target_segment_ids", "positions": "target_positions"}
    kept = {name: source[name] for name in (*names, "text_index")}
    return kept | {theirs: target[ours] for ours, theirs in names.items()}


def _laid_out(token_ids, type_ids, rows, starts, slots, length, pad_id) -> dict[str, tf.Tensor]:
    text_count = tf.size(rows)
    row_count = tf.reduce_max(tf.concat([rows, [-1]], axis=0)) + 1
    most = tf.maximum(tf.reduce_max(tf.concat([slots, [-1]], axis=0)) + 1, 1)

    # Where each token goes, and from that, for each place, which token it holds.
    text_of_token = token_ids.value_rowids()
    within = tf.cast(
        tf.range(tf.size(token_ids.values)) - tf.gather(tf.cast(token_ids.row_starts(), tf.int32), text_of_token),
        tf.int32,
    )
    place = tf.gather(rows * length + starts, text_of_token) + within

    def placed(values: tf.Tensor, empty: int = 0) -> tf.Tensor:
        flat = tf.scatter_nd(place[:, None], values - empty, [row_count * length]) + empty
        return tf.reshape(flat, [row_count, length])

    slot = rows * most + slots
    text_positions = tf.scatter_nd(slot[:, None], starts, [row_count * most])
    ends = starts + tf.maximum(tf.cast(token_ids.row_lengths(), tf.int32), 1) - 1
    text_ends = tf.scatter_nd(slot[:, None], ends, [row_count * most])
    text_index = tf.scatter_nd(slot[:, None], tf.range(text_count) + 1, [row_count * most]) - 1
    return {
        "token_ids": placed(token_ids.values, pad_id),
        "segment_ids": placed(tf.gather(slots, text_of_token) + 1),
        "positions": placed(within),
        "type_ids": placed(type_ids.values),
        "text_positions": tf.reshape(text_positions, [row_count, most]),
        "text_ends": tf.reshape(text_ends, [row_count, most]),
        "text_index": tf.reshape(text_index, [row_count, most]),
    }
