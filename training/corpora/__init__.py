"""Corpora: from files as they are published to rows of tokens that networks are pre-trained on.

`garden corpus vocabulary` and `garden corpus build` are the command line. Documents are read (`readers`), cleaned, tokenised,
packed into rows (`training.packing`) and kept in shards (`store`).
"""
