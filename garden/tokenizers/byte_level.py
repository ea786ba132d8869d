"""Bytes as GPT-2 writes them: each as a visible character, so that a vocabulary of characters covers every text.

Letters: N characters, M bytes.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from garden.tokenizers.text import Table, Text, repeat, take

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
CHARACTER_OF_BYTE = [chr(byte) if byte in _PRINTABLE else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)]
BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}


def token_bytes(token: str) -> bytes:
    """The bytes that a token stands for; one with other characters in it stands for itself."""
    if all(c in BYTE_OF_CHARACTER for c in token):
        return bytes(BYTE_OF_CHARACTER[c] for c in token)
    return token.encode("utf-8", "surrogatepass")


class BytesAsCharacters:
    """Spells every character by those that stand for its bytes in UTF-8."""

    def __init__(self, tokens: int):
        sizes = np.full(0x110000, 4, np.int32)
        for size, limit in ((3, 0x10000), (2, 0x800), (1, 0x80)):
            sizes[:limit] = size
        self._sizes = Table(sizes, tokens, token_value=1)
        self._last = 0x110000
        with tf.init_scope(), tf.device("CPU:0"):
            self._characters = tf.constant([ord(c) for c in CHARACTER_OF_BYTE], tf.int32)
            self._leads = tf.constant([0, 0, 0xC0, 0xE0, 0xF0], tf.int32)

    def __call__(self, text: Text) -> Text:
        """All pieces, spelled."""
        size_N = self._sizes(text.points)
        source_M = repeat(size_N)
        nth_M = tf.range(tf.size(source_M)) - tf.gather(tf.cumsum(size_N, exclusive=True), source_M)
        wider = take(text, source_M)
        size_M = tf.gather(size_N, source_M)
        payload_M = tf.bitwise.right_shift(wider.points, 6 * (size_M - 1 - nth_M))
        following_M = tf.bitwise.bitwise_and(payload_M, 0x3F) + 0x80
        byte_M = tf.where(nth_M > 0, following_M, payload_M + tf.gather(self._leads, size_M))
        token_M = wider.points >= self._last
        character_M = tf.gather(self._characters, tf.where(token_M, 0, byte_M))
        return wider._replace(points=tf.where(token_M, wider.points, character_M))
