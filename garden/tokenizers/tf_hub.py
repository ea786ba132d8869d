"""Tokenizers of checkpoints that come with a `vocab.txt` and nothing else: TF Hub's, Google's and Model Garden's BERTs."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from garden.checkpoints.tf_hub import read_vocabulary
from garden.tokenizers.tokenizer import Tokenizer

_CASED = re.compile(r"(^|[^a-z])(un|multi_)?cased([^a-z]|$)")


def tokenizer_from_tf_hub(
    handle: str | os.PathLike, lower_case: bool | None = None, length: int | None = None
) -> Tokenizer:
    """The WordPiece tokenizer of a BERT encoder's SavedModel, or of the preprocessing model beside it.

    handle: a SavedModel's directory, or a URL of TF Hub. lower_case: default: as the SavedModel says. length: the longest
    sequence that the model takes. Raises FileNotFoundError when there is no vocabulary, ValueError when it is none of
    WordPiece.
    """
    vocabulary = read_vocabulary(handle)
    lower_case = vocabulary.lower_case if lower_case is None else lower_case
    return tokenizer_of_vocabulary(vocabulary.path, lower_case, length)


def tokenizer_of_vocabulary(
    path: str | os.PathLike, lower_case: bool | None = None, length: int | None = None
) -> Tokenizer:
    """BERT's tokenizer with the vocabulary of a file, one token a line.

    lower_case: default: what the names of the file and its directory say ("uncased", "cased"), or else whether the
    vocabulary has no capital letters. length: the longest sequence that the model takes.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give the vocabulary, one token a line") from None
    if lower_case is None:
        lower_case = _is_for_lower_case(path, data.decode("utf-8", errors="replace"))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case}
    if length is not None:
        config["model_max_length"] = length
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "vocab.txt").write_bytes(data)
        (Path(directory) / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        (Path(directory) / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
        try:
            return Tokenizer.from_pretrained(directory)
        except ValueError as error:
            message = str(error).replace(f"{directory}{os.sep}vocab.txt", str(path))
            raise ValueError(message if str(path) in message else f"{path}: {message}") from None


def _is_for_lower_case(path: Path, text: str) -> bool:
    for name in (path.name, path.parent.name):
        if found := _CASED.search(name.lower()):
            return found[2] == "un"
    # Special tokens are in capitals: [CLS].
    return not any(token != token.lower() for token in text.split("\n") if not token.startswith("["))
