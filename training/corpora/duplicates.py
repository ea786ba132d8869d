"""Documents that were there before: the same text, or nearly the same, found with bounded memory whatever the corpus's size.

A document becomes a fingerprint (`Fingerprints`, pure, so that workers make them in parallel): a hash of its normalised text, and the
MinHash signature (Broder 1997) of its runs of words. One process feeds fingerprints in corpus order to `Duplicates`, which looks them
up in an index on disk (`buckets`). Two documents share a bucket if one of the signature's bands is equal (locality-sensitive hashing,
Indyk and Motwani 1998); a document is a near duplicate if it agrees, over the whole signature, with the first document of
one of its buckets. That depends on the documents and their order alone, not on how they are split in batches or who does the work.

Letters: N documents, P permutations, S shingles (runs of words) of all N documents together, K buckets a document.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.configuration import key


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """How near duplicates are found."""

    permutations: int = key(
        "numbers of a signature; the estimate's standard error is at most 1 / (2 sqrt(this))", 128, least=16
    )
    words: int = key("words of a run; a Chinese, Japanese or Thai character counts as one", 5, least=1)
    recall: float = key(
        "share of the pairs just at the threshold that share a bucket; more costs time", 0.98, above=0, below=1
    )
    seed: int = key("of the permutations", 1, least=0, below=2**31)
