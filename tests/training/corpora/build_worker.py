"""A process that builds a corpus in small chunks: arguments are a config and the number of workers."""

import sys

from training.corpora import parts
from training.corpora.build import build
from training.corpora.config import read_corpus_config
from training.corpora.workers import Local

if __name__ == "__main__":
    parts.CHUNK_CHARACTERS = 3000
    build(read_corpus_config(sys.argv[1]), Local(int(sys.argv[2])))
