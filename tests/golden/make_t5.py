"""Make tests/golden/t5/: small random T5s, mT5s and umT5s in the Hugging Face layout, and what transformers computes with
them. encoder_decoders.py says what a case holds."""

import json
from pathlib import Path

import numpy as np
import torch
import transformers
from encoder_decoders import HERE, batch_of, randomise, run, write
from safetensors.torch import load_file, save_file

transformers.utils.logging.disable_progress_bar()

SMALL = {
    "vocab_size": 32,
    "d_model": 8,
    "d_kv": 3,
    "d_ff": 10,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
LABELS = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}

# name: (class, config beyond SMALL, options)
CASES = {
    "bare": ("T5Model", {"num_decoder_layers": 2}, {}),
    "lm": ("T5ForConditionalGeneration", {"num_layers": 1, "num_decoder_layers": 2}, {"gradients": True}),
    "lm_gated": ("T5ForConditionalGeneration", {**GATED}, {"own_table": True}),
    "lm_old": ("T5ForConditionalGeneration", {**GATED, "num_layers": 1}, {"own_table": True, "old": True}),
    "classifier": ("T5ForSequenceClassification", {**LABELS, "num_layers": 1}, {}),
    "tokens": ("T5ForTokenClassification", {**LABELS, "feed_forward_proj": "gated-silu"}, {}),
    "answers": ("T5ForQuestionAnswering", {"num_layers": 1}, {}),
    "encoder": ("T5EncoderModel", {"layer_norm_epsilon": 1e-3}, {}),
    "mt5_lm": ("MT5ForConditionalGeneration", {**GATED, "num_layers": 1}, {"own_table": True}),
    "umt5_lm": ("UMT5ForConditionalGeneration", {**GATED, "num_decoder_layers": 2}, {"own_table": True}),
}


def save(model, directory: Path, old: bool) -> None:
    """What `save_pretrained` writes, and what it wrote once: all copies of tied tensors, and what config.json said then."""
    model.half().save_pretrained(directory)
    if not old:
        return
    tensors = load_file(directory / "model.safetensors")
    for side in ("encoder", "decoder"):
        tensors[f"{side}.embed_tokens.weight"] = tensors["shared.weight"].clone()
    heads = model.config.num_heads
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, heads)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {name: getattr(model.config, name) for name in SMALL}
    config |= {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "is_encoder_decoder": True,
        "output_past": True,
        "torch_dtype": "float32",
        "transformers_version": "4.23.1",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    for number, (name, (kind, config, options)) in enumerate(CASES.items()):
        sizes = {**SMALL, **config}
        family = kind[: kind.index("T5") + 2]
        model = getattr(transformers, kind)(
            getattr(transformers, f"{family}Config")(**sizes, attn_implementation="eager")
        )
        model.eval()
        if options.get("own_table"):
            # As published checkpoints have it, whatever their config.json says.
            model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))
        randomise(model, number)
        batch = batch_of(32, (1,), {"source": [18, 11, 2], "target": [9, 16, 1]}, number)
        write(
            HERE / "t5" / name,
            model,
            lambda directory, model=model, old="old" in options: save(model, directory, old),
            lambda batch, model=model: run(model, batch),
            batch,
            vocabulary=32 if "gradients" in options else 0,
            seed=number,
        )
    # The published sizes, whose buckets end beyond what a small case is long.
    distances = torch.arange(-300, 301)
    bucket = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    np.savez_compressed(
        HERE / "t5" / "buckets.npz",
        **{
            f"{both_ways}.{buckets}.{longest}": bucket(distances, both_ways, buckets, longest).numpy().astype(np.int16)
            for both_ways in (False, True)
            for buckets, longest in ((32, 128), (8, 12), (64, 256), (12, 100))
        },
    )
