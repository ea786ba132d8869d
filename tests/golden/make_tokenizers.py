"""Makes `tokenizers.json.gz`: small tokenizers with the pipelines of published ones, and what `tokenizers` says of texts.

    REFERENCE_PYTHON tests/golden/make_tokenizers.py

Run it where tokenizers, transformers and sentencepiece are installed; it needs no network. The vocabularies are trained
on the texts themselves, and so are small.
"""

import gzip
import json
import tempfile
from pathlib import Path

import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "",
    " ",
    "  \t\n ",
    "The gardener isn't unaffable; it's a re-planted garden of 3.5 m², they'LL say.",
    "The gardener's garden:   two  spaces, 1234567 plants and 12 gardens.\n\n  Indented\r\nlines\t\ttabs  ",
    "Die Straße führt über die Brücke, sagte der Übermüdete. Größe: 12 cm!",
    "L'école où j'ai étudié s'appelle « Évariste Galois ». Ça va ?",
    "Perché la città è così lontana? Non lo so più, però ci andrò.",
    "Привет, мир! Всё хорошо, ещё йогурт: объём 1 л.",
    "日本語の文章です。カタカナとひらがな、ガギグゲゴ。ｶﾞｷﾞ １２３",
    "我们在花园里学习中文。深度学习，很有趣！",
    "안녕하세요, 정원사입니다. 한국어 \u1112\u1161\u11ab\u1100\u116e\u11a8어 문장을 나눕니다.",
    "¿Dónde está el jardín? ¡Aquí, en España, señor!",
    "مرحبا بالعالم، هذا نصٌّ عربيٌّ قصير.",
    "नमस्ते, यह हिन्दी का एक वाक्य है। क\u093c",
    "สวัสดีครับ ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "👩‍👩‍👧‍👦 👍🏽 🇫🇷 ☕️ ❤️‍🔥 a👩‍🚀b",
    "a\u200bb\u00a0c\u3000d \u0000x\ufffdy \ue000 \U0010ffff \u0085\u2028\ufeff ▁ Ġ ``quoted'' \x07",
    "İstanbul ΣΊΣΥΦΟΣ e\u0323\u0301 e\u0301\u0323 ﬁ Ⅻ ㍿ ẛ̣ \u0344 ½²",
    "x" * 300 + "1" * 50 + "!" * 40,
    "<s>literal</s> tokens  <mask> , <|endoftext|><|endoftext|> [MASK]x <pad> <0x41>",
]
PAIRS = [("a question about the garden?", "An answer that is rather longer."), ("", "only the second"), ("first", "")]
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {"ﬁ": "fi", "Ⅻ": "XII", "㍿": "株式会社", "\t": " ", "\n": " ", "\r": " ", "\u3000": " ", "\u200b": " "}
RULES |= {
    "\u00a0": " ",
    "\x07": "",
    "\ufeff": "",
    "e\u0301": "\u00e9",
    "²": "2",
    "½": "1⁄2",
    "１": "1",
    "２": "2",
    "３": "3",
}
RULES |= {"\uff76\uff9e": "\u30ac", "\uff76": "\u30ab", "\u30ab\u3099": "\u30ac", "\u0085": " "}


def charsmap() -> bytes:
    """A small precompiled_charsmap, as sentencepiece compiles it."""
    with tempfile.TemporaryDirectory() as directory:
        rules, corpus = Path(directory) / "rules.tsv", Path(directory) / "corpus.txt"
        points = lambda text: " ".join(f"{ord(c):X}" for c in text)
        rules.write_text("".join(f"{points(a)}\t{points(b)}\n" for a, b in RULES.items()), encoding="utf-8")
        corpus.write_text("\n".join(TEXTS * 3).replace("\0", ""), encoding="utf-8")
        prefix = str(Path(directory) / "m")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=prefix, vocab_size=300, normalization_rule_tsv=str(rules), minloglevel=2
        )
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(Path(prefix + ".model").read_bytes())
        return model.normalizer_spec.precompiled_charsmap


def trained(model, trainer, *, normalizer=None, pre=None, decoder=None) -> Tokenizer:
    """A tokenizer trained on the texts."""
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def template(tokenizer: Tokenizer, single: str, pair: str):
    """TemplateProcessing with ids looked up."""
    names = {name for name in (single + " " + pair).replace(":1", "").split() if not name.startswith("$")}
    return processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(name, tokenizer.token_to_id(name)) for name in sorted(names)]
    )


def byte_level() -> dict[str, Tokenizer]:
    """GPT-2, RoBERTa, Llama 3, Qwen 2, ModernBERT."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    train = lambda *special: trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    decoder, plain = decoders.ByteLevel(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = lambda pattern: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    gpt2 = trained(models.BPE(), train("<|endoftext|>"), pre=plain, decoder=decoder)
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    roberta = trained(
        models.BPE(), train("<s>", "<pad>", "</s>", "<unk>"), pre=pre_tokenizers.ByteLevel(), decoder=decoder
    )
    roberta.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    roberta.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    llama3 = trained(models.BPE(ignore_merges=True), train(), pre=cut(LLAMA_3), decoder=decoder)
    llama3.add_special_tokens(["<s>", "<|endoftext|>"])
    llama3.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template(llama3, "<s> $A", "<s> $A <s>:1 $B:1")]
    )
    qwen2 = trained(
        models.BPE(),
        train(),
        normalizer=normalizers.NFC(),
        pre=cut(LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")),
        decoder=decoder,
    )
    qwen2.add_special_tokens(["<|endoftext|>"])
    modern = trained(models.BPE(), train("<|endoftext|>"), normalizer=normalizers.NFC(), pre=plain, decoder=decoder)
    modern.add_tokens([AddedToken("  ", normalized=True), AddedToken("gardens", single_word=True)])
    modern.add_special_tokens(["[CLS]", "[SEP]", AddedToken("[MASK]", lstrip=True)])
    modern.post_processor = template(modern, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return {"gpt2": gpt2, "roberta": roberta, "llama3": llama3, "qwen2": qwen2, "modernbert": modern}


def byte_fallback() -> dict[str, Tokenizer]:
    """Llama 2 in both forms, Gemma."""
    made = {}
    to_text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    stripped = decoders.Sequence([*to_text, decoders.Strip(" ", 1, 0)])
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    whole = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    gemma = normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
    for name, normalizer, pre, decoder in (
        ("llama2", legacy, None, stripped),
        ("mistral", None, whole, stripped),
        ("gemma", *gemma, decoders.Sequence(to_text)),
    ):
        special = ["<unk>", "<s>", "</s>"]
        trainer = trainers.BpeTrainer(
            vocab_size=560,
            limit_alphabet=120,
            special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
            show_progress=False,
        )
        model = models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        spec = json.loads(trained(model, trainer, pre=pre_tokenizers.Metaspace()).to_str())
        spec["added_tokens"] = spec["added_tokens"][: len(special)]
        spec["pre_tokenizer"] = None
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        if pre is not None:
            tokenizer.pre_tokenizer = pre
        tokenizer.decoder = decoder
        tokenizer.post_processor = template(tokenizer, "<s> $A", "<s> $A <s>:1 $B:1")
        made[name] = tokenizer
    return made


def unigram() -> dict[str, Tokenizer]:
    """T5, XLM-R, ALBERT."""
    compiled = normalizers.Precompiled(charsmap())
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    folded = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), compiled, spaces]
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made = {}
    for name, normalizer, pre, single, pair in (
        ("t5", compiled, words, "$A </s>", "$A </s> $B </s>"),
        (
            "xlm-r",
            normalizers.Sequence([compiled, spaces]),
            pre_tokenizers.Metaspace(),
            "<s> $A </s>",
            "<s> $A </s> </s> $B </s>",
        ),
        (
            "albert",
            normalizers.Sequence([*quotes, *folded]),
            pre_tokenizers.Metaspace(),
            "<s> $A </s>",
            "<s> $A </s> $B:1 </s>:1",
        ),
    ):
        trainer = trainers.UnigramTrainer(
            vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
        tokenizer = trained(models.Unigram(), trainer, normalizer=normalizer, pre=pre, decoder=decoders.Metaspace())
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
        tokenizer.post_processor = template(tokenizer, single, pair)
        made[name] = tokenizer
    return made


def words() -> dict[str, Tokenizer]:
    """CLIP, and WordPiece and WordLevel outside BERT's pipeline."""
    clip = trained(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
        trainers.BpeTrainer(
            vocab_size=500, end_of_word_suffix="</w>", special_tokens=["<unk>", "<|endoftext|>"], show_progress=False
        ),
        normalizer=normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        ),
        pre=pre_tokenizers.Split(
            Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True
        ),
        decoder=decoders.BPEDecoder("</w>"),
    )
    piece = trained(
        models.WordPiece(unk_token="<unk>"),
        trainers.WordPieceTrainer(vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
        normalizer=normalizers.Sequence([normalizers.Strip(), normalizers.BertNormalizer()]),
        pre=pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]),
        decoder=decoders.WordPiece(),
    )
    piece.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    level = trained(
        models.WordLevel(unk_token="<unk>"),
        trainers.WordLevelTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False),
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Nmt()]),
        pre=pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("merged_with_previous")]
        ),
    )
    return {"clip": clip, "wordpiece": piece, "wordlevel": level}


def record(tokenizer: Tokenizer) -> dict:
    """What the reference says of every text and pair, and of ids that make no sense."""
    inputs = [*TEXTS, *PAIRS]
    encodings = tokenizer.encode_batch(inputs)
    every = list(range(tokenizer.get_vocab_size()))
    ids = [encoding.ids for encoding in encodings] + [every[at::37] for at in range(37)] + [every[::-1][:300]]
    plain = tokenizer.decode_batch(ids, skip_special_tokens=True)
    clean = transformers.PreTrainedTokenizerBase.clean_up_tokenization
    return {
        "tokenizer": json.loads(tokenizer.to_str()),
        "ids": [encoding.ids for encoding in encodings],
        "types": ["".join(map(str, encoding.type_ids)) for encoding in encodings],
        "special": ["".join(map(str, encoding.special_tokens_mask)) for encoding in encodings],
        "offsets": [[place for span in encoding.offsets for place in span] for encoding in encodings],
        "decode_ids": ids[len(inputs) :],
        "decoded": plain,
        "decoded_special": tokenizer.decode_batch(ids, skip_special_tokens=False),
        "decoded_clean": [clean(None, text) for text in plain],
    }


def main() -> None:
    made = {**byte_level(), **byte_fallback(), **unigram(), **words()}
    result = {
        "made_with": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "texts": TEXTS,
        "pairs": PAIRS,
        "tokenizers": {name: record(tokenizer) for name, tokenizer in made.items()},
    }
    data = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
    Path(__file__).with_name("tokenizers.json.gz").write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    main()
