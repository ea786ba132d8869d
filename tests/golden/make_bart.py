"""Make tests/golden/bart/: small random BARTs and mBARTs in the Hugging Face layout, and what transformers computes with
them. encoder_decoders.py says what a case holds."""

import json
from pathlib import Path

import transformers
from encoder_decoders import HERE, batch_of, randomise, run, write
from safetensors.torch import load_file, save_file

transformers.utils.logging.disable_progress_bar()

SMALL = {
    "vocab_size": 36,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 10,
    "max_position_embeddings": 12,
}
LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}

# name: (class, config beyond SMALL, options)
CASES = {
    "bare": ("BartModel", {"scale_embedding": True, "decoder_layers": 2}, {}),
    "lm": ("BartForConditionalGeneration", {"activation_function": "relu"}, {"gradients": True}),
    "lm_old": ("BartForConditionalGeneration", {"encoder_layers": 1}, {"old": True}),
    "classifier": ("BartForSequenceClassification", {**LABELS, "encoder_layers": 1}, {}),
    "answers": ("BartForQuestionAnswering", {"encoder_layers": 1}, {}),
    "mbart_lm": ("MBartForConditionalGeneration", {"scale_embedding": True, "decoder_layers": 2}, {"language": True}),
    "mbart_classifier": ("MBartForSequenceClassification", {**LABELS, "encoder_layers": 1}, {"language": True}),
}


def save(model, directory: Path, old: bool) -> None:
    """What `save_pretrained` writes, and what it wrote once: all copies of tied tensors, and fewer fields."""
    model.half().save_pretrained(directory)
    if not old:
        return
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors["model.shared.weight"].clone()
    del tensors["model.shared.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {name: getattr(model.config, name) for name in SMALL}
    config |= {
        "model_type": "bart",
        "architectures": ["BartForConditionalGeneration"],
        "is_encoder_decoder": True,
        "add_final_layer_norm": False,
        "normalize_before": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
        "num_hidden_layers": 1,
        "torch_dtype": "float32",
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "transformers_version": "4.12.0",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    for number, (name, (kind, config, options)) in enumerate(CASES.items()):
        sizes = {**SMALL, **config}
        config_class = transformers.MBartConfig if kind.startswith("MBart") else transformers.BartConfig
        model = getattr(transformers, kind)(config_class(**sizes, attn_implementation="eager")).eval()
        randomise(model, number)
        end = (2, 33) if options.get("language") else (2,)
        batch = batch_of(33, end, {"source": [9, 5, 2], "target": [4, 6, 1]}, number)
        write(
            HERE / "bart" / name,
            model,
            lambda directory, model=model, old="old" in options: save(model, directory, old),
            lambda batch, model=model: run(model, batch),
            batch,
            vocabulary=33 if "gradients" in options else 0,
            seed=number,
        )
