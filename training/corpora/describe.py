"""What a built corpus holds: its sizes, source by source, whether its shards are whole, and rows as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training.corpora.journal import digest
from training.corpora.mixture import RowOrder, shares
from training.corpora.store import SPLITS, Corpus, Index


def describe(directory: str | Path) -> dict[str, Any]:
    """Returns what a corpus is: layout, lengths, vocabulary, and of each split and source rows, tokens, fill and share.

    Raises FileNotFoundError and ValueError as `Corpus`.
    """
    corpus = Corpus(directory)
    index = corpus.index
    described: dict[str, Any] = {
        "corpus": str(directory),
        "layout": index.layout.name,
        "sequence_length": index.sequence_length,
        "vocabulary_size": index.vocabulary_size,
        "tokenizer": index.config.get("tokenizer"),
        "tokenizer_fingerprint": index.tokenizer,
        "shards": len(index.shards),
    }
    for split in SPLITS:
        described[split] = _sizes(index, split)
        sizes = corpus.sources(split)
        drawn = shares(sizes, index.weights, index.temperature) if split == "train" and sizes else {}
        described[split]["sources"] = {
            source: _sizes(index, split, source) | ({"share": round(drawn[source], 6)} if drawn else {})
            for source in sizes
        }
    return described


def _sizes(index: Index, split: str, source: str | None = None) -> dict[str, Any]:
    shards = [shard for shard in index.of_split(split) if source in (None, shard.source)]
    rows, tokens = sum(shard.rows for shard in shards), sum(shard.tokens for shard in shards)
    return {
        "documents": sum(shard.documents for shard in shards),
        "rows": rows,
        "tokens": tokens,
        "fill": round(tokens / max(rows * index.sequence_length, 1), 6),
        "text_bytes": sum(shard.text_bytes for shard in shards),
    }


def verify(directory: str | Path) -> int:
    """Reads all shards of a corpus and compares their SHA-256 with the index; returns how many there are.

    Raises ValueError that names the shards which differ, and FileNotFoundError or ValueError as `Corpus`.
    """
    index = Corpus(directory).index
    damaged = [shard.file for shard in index.shards if digest(Path(directory) / shard.file) != shard.sha256]
    if damaged:
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise ValueError(
            f"{directory}: {len(damaged)} of {len(index.shards)} shards are damaged: {', '.join(damaged[:3])}{more}; build "
            "the corpus again with --overwrite"
        )
    return len(index.shards)


def rows_as_text(
    directory: str | Path, *, split: str = "train", count: int = 3, tokenizer: str | Path | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the first rows of a split, in the order in which training draws them, with the text of each segment.

    Args:
        tokenizer: its directory; default: where it lay when the corpus was built.

    Raises ValueError for a tokenizer that is not the corpus's, and a split without rows.
    """
    from garden.tokenizers import Tokenizer  # late, as is TensorFlow
    from training.corpora.tokenizing import fingerprint
    from training.paths import located

    corpus = Corpus(directory)
    index = corpus.index
    place = tokenizer or index.config.get("tokenizer")
    opened = Tokenizer.from_pretrained(located(place))
    if fingerprint(opened) != index.tokenizer:
        raise ValueError(
            f"{place}: not the tokenizer that {directory} was built with; give its directory with --tokenizer"
        )
    if not corpus.rows(split):
        raise ValueError(f"{directory}: split {split} has no rows")
    order = RowOrder(corpus.sources(split), seed=index.seed, weights=index.weights, temperature=index.temperature)
    numbers = order.numbers(np.arange(count))
    batch = corpus.batch(split, numbers)
    for row, number in enumerate(numbers.tolist()):
        segments = batch["segment_ids"][row]
        ids = [batch["token_ids"][row][segments == each].tolist() for each in range(1, int(segments.max()) + 1)]
        texts = opened.detokenize(ids, skip_special_tokens=False).numpy()
        sentences = batch["sentence_ids"][row]
        yield {
            "row": number,
            "source": _source_of(corpus, split, number),
            "tokens": int((segments > 0).sum()),
            "segments": [
                {"text": text.decode("utf-8"), "sentences": int(sentences[segments == each].max())}
                for each, text in enumerate(texts, start=1)
            ],
        }


def _source_of(corpus: Corpus, split: str, number: int) -> str:
    for source, rows in corpus.sources(split).items():
        if number < rows:
            return source
        number -= rows
    raise ValueError(f"row {number} is not in split {split}")
