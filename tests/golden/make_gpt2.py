"""Make tests/golden/gpt2/: see decoders.py."""

import torch
from decoders import make_cases
from transformers import GPT2Config

SMALL = {
    "vocab_size": 24,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}


def buffers(model) -> dict[str, torch.Tensor]:
    """The masks that checkpoints of older versions hold."""
    size = model.config.n_positions
    mask = torch.ones(size, size, dtype=torch.bool).tril().view(1, 1, size, size)
    return {
        f"h.{i}.attn.{name}": value.clone()
        for i in range(2)
        for name, value in (("bias", mask), ("masked_bias", torch.tensor(-1e4)))
    }


def old_config(values: dict) -> dict:
    """As the published checkpoints have it: fields of its time, and no others."""
    kept = {
        name: values[name] for name in (*SMALL, "activation_function", "layer_norm_epsilon") if name != "pad_token_id"
    }
    return {
        **kept,
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_ctx": 16,
        "summary_type": "cls_index",
    }


def config(**options) -> GPT2Config:
    """A small one."""
    return GPT2Config(**{**SMALL, **options})


CASES = {
    "base": ("GPT2Model", config(n_layer=3), {}),
    "published": ("GPT2Model", config(), {"buffers": buffers, "config": old_config}),
    "scaled": (
        "GPT2LMHeadModel",
        config(scale_attn_by_inverse_layer_idx=True, n_inner=24, activation_function="relu", layer_norm_epsilon=1e-3),
        {"gradients": True},
    ),
    "untied": (
        "GPT2LMHeadModel",
        config(tie_word_embeddings=False, scale_attn_weights=False, n_head=2),
        {"shard_bytes": 8_000, "config": lambda values: {**values, "reorder_and_upcast_attn": True}},
    ),
    "bfloat16": ("GPT2LMHeadModel", config(n_head=1, activation_function="gelu"), {"bfloat16": True}),
    "text": ("GPT2ForSequenceClassification", config(n_layer=1, **LABELS), {}),
    "tokens": ("GPT2ForTokenClassification", config(n_layer=1, **LABELS), {}),
    "answers": ("GPT2ForQuestionAnswering", config(n_layer=1), {}),
}

if __name__ == "__main__":
    make_cases("gpt2", CASES)
