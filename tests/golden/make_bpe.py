"""Makes `bpe.json.gz`: a small byte-level vocabulary, and what transformers makes of its vocab.json and merges.txt.

    REFERENCE_PYTHON tests/golden/make_bpe.py

It trains on the reviews that ship with the package, and needs no network.
"""

import gzip
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import tokenizers
import transformers
from make_sentencepiece import HERE, TEXTS
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

IM_START = {"content": "<|im_start|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
QWEN = {"added_tokens_decoder": {"705": {**IM_START, "single_word": False}}, "pad_token": "[PAD]"}
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "normalized": True}
CASES = [  # tokenizer_config.json, config.json's model_type
    ({"tokenizer_class": "GPT2Tokenizer"}, "gpt2"),
    ({"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": True, "add_prefix_space": True}, "gpt_neo"),
    ({"tokenizer_class": "RobertaTokenizer"}, "roberta"),
    ({"mask_token": {**MASK, "rstrip": False, "single_word": False}, "add_prefix_space": True}, "roberta"),
    ({"tokenizer_class": "BartTokenizer"}, "bart"),
    ({"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": ["<|im_start|>"], **QWEN}, "qwen2"),
    ({}, "qwen3"),
    ({"tokenizer_class": "CLIPTokenizer"}, "clip"),
]


def main() -> None:
    with gzip.open(HERE.parents[1] / "garden/data/movie_reviews.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        reviews = [json.loads(line)["text"] for line, _ in zip(lines, range(3000), strict=False)]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    trained.train_from_iterator([*reviews, *TEXTS * 5], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary, merges = model["vocab"], model["merges"]
    for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>"):
        vocabulary[token] = len(vocabulary)
    records = []
    for config, model_type in CASES:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary)
            (path / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
            lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
            (path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            (path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(path)
        backend = tokenizer.backend_tokenizer
        spec = json.loads(backend.to_str())
        assert spec["model"].pop("vocab") == vocabulary
        assert spec["model"].pop("merges") == merges
        ids = [backend.encode(text).ids for text in TEXTS]
        decoded = [backend.decode(row, skip_special_tokens=False) for row in ids]
        records.append({"config": config, "model_type": model_type, "spec": spec, "ids": ids, "decoded": decoded})
    result = {
        "made_with": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "vocabulary": vocabulary,
        "merges": merges,
        "texts": TEXTS,
        "records": records,
    }
    data = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
    (HERE / "bpe.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main()
