"""Makes `sentencepiece.json.gz`: small SentencePiece models, and what transformers and sentencepiece make of them.

    REFERENCE_PYTHON tests/golden/make_sentencepiece.py

It trains on the reviews that ship with the package and on the texts below, and needs no network.
"""

import base64
import gzip
import hashlib
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import sentencepiece
import tokenizers
import transformers
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
TEXTS = [
    "",
    "   ",
    "The Rock is destined to be the 21st Century's new ''Conan''.",
    "  two  spaces, and\ttabs\nand lines \n",
    "Übergrößenträger fuhren im Zug nach Köln. L'été, ça va? Città è più lontana.",
    "Всё, что нас не убивает. Ещё один ёжик. 機械学習は楽しいです。カタカナ、ひらがな。",
    "我们在北京大学学习。深度学习很有趣！ 한국어 문장을 토큰으로 나눕니다.",
    "هذا نصٌّ عربيّ. हिन्दी में एक वाक्य। ประโยคภาษาไทย",
    "👩‍👩‍👧‍👦 family ☕️ 🇫🇷 a\u200bb\u00a0c\u3000d \ufffdy \ue000 ﬁ Ⅻ ㍿ Ａｂｃ ½ e\u0323\u0301",
    "a<extra_id_3>b <mask> c</s><s> <unk> [MASK] {user}<sep>hi <0x41>",
    "▁underscore ▁▁two",
    "x" * 60 + " " + "ab" * 40,
    "1234567 3.14 a1b2c3",
]
PLAIN = [2, 4, 6, 12]  # texts that transformers and sentencepiece read alike
MODELS = {
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "normalization_rule_name": "identity"},
    "fairseq": {"model_type": "unigram"},
    "albert": {
        "model_type": "unigram", "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
        "normalization_rule_name": "identity",
    },
    "llama": {
        "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
        "split_digits": True, "user_defined_symbols": ["<sep>", "{user}"],
    },
    "plain": {"model_type": "bpe", "normalization_rule_name": "identity"},
}  # fmt: skip
SPIECE, TOKENIZER, FAIRSEQ = "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"
PAD = {"pad_token": "[PAD]", "additional_special_tokens": ["<extra>"]}
CASES = [  # model, file, tokenizer_config.json, config.json's model_type
    ("t5", SPIECE, {"tokenizer_class": "T5Tokenizer"}, "t5"),
    ("t5", SPIECE, {"extra_ids": 7}, "mt5"),
    ("fairseq", FAIRSEQ, {"tokenizer_class": "XLMRobertaTokenizerFast"}, "xlm-roberta"),
    ("fairseq", FAIRSEQ, {"tokenizer_class": "CamembertTokenizer"}, "camembert"),
    ("fairseq", FAIRSEQ, {"tokenizer_class": "MBartTokenizer", "src_lang": "de_DE"}, "mbart"),
    ("fairseq", FAIRSEQ, {"tokenizer_class": "MBart50Tokenizer"}, "mbart"),
    ("fairseq", TOKENIZER, {"tokenizer_class": "PreTrainedTokenizerFast"}, "llama"),
    ("albert", SPIECE, {"tokenizer_class": "AlbertTokenizer"}, "albert"),
    ("albert", SPIECE, {"do_lower_case": False, "keep_accents": True}, "albert"),
    ("llama", TOKENIZER, {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}, "llama"),
    ("llama", TOKENIZER, {"tokenizer_class": "LlamaTokenizer", "legacy": True, **PAD}, "llama"),
    ("llama", TOKENIZER, {"tokenizer_class": "LlamaTokenizer", "add_eos_token": True}, "mistral"),
    ("llama", TOKENIZER, {}, "mixtral"),
    ("plain", TOKENIZER, {}, "mistral"),
]


def train(directory: Path) -> dict[str, bytes]:
    """The models' files."""
    with gzip.open(HERE.parents[1] / "garden/data/movie_reviews.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        reviews = [json.loads(line)["text"] for line, _ in zip(lines, range(1500), strict=False)]
    corpus = directory / "corpus.txt"
    corpus.write_text("\n".join([*reviews, *TEXTS[2:9] * 5]), encoding="utf-8")
    made = {}
    for name, options in MODELS.items():
        size = 620 if options.get("byte_fallback") else 420
        prefix = directory / name
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(prefix), vocab_size=size, character_coverage=0.985, num_threads=1,
            minloglevel=2, **options,
        )  # fmt: skip
        made[name] = prefix.with_suffix(".model").read_bytes()
    return made


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        models = train(Path(temporary))
    records = []
    for model, file, config, model_type in CASES:
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary)
            (path / file).write_bytes(models[model])
            (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            (path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(path)
        backend = tokenizer.backend_tokenizer
        spec = json.loads(backend.to_str())
        parts = [json.dumps(spec["model"].pop(name, None)) for name in ("vocab", "merges")]
        text = json.dumps(spec)
        ids = [backend.encode(text).ids for text in TEXTS]
        records.append(
            {
                "model": model,
                "file": file,
                "config": config,
                "model_type": model_type,
                "spec": {name: value for name, value in json.loads(text).items() if name != "normalizer"},
                "normalizer": hashlib.sha256(json.dumps(spec["normalizer"]).encode()).hexdigest(),
                "vocabulary": [hashlib.sha256(part.encode()).hexdigest() for part in parts],
                "ids": ids,
                "decoded": [backend.decode(row, skip_special_tokens=False) for row in ids],
            }
        )
    own = {}
    for name in ("plain", "llama", "fairseq"):
        processor = sentencepiece.SentencePieceProcessor(model_proto=models[name])
        own[name] = {index: processor.encode(TEXTS[index]) for index in PLAIN}
    result = {
        "made_with": {m.__name__: m.__version__ for m in (tokenizers, transformers, sentencepiece)},
        "models": {name: base64.b64encode(data).decode() for name, data in models.items()},
        "texts": TEXTS,
        "records": records,
        "sentencepiece": own,
    }
    data = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
    (HERE / "sentencepiece.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main()
