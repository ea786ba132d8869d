"""Make tests/golden/llama/, Llama, Mistral, Qwen 2 and Qwen 3: see decoders.py."""

import torch
from decoders import make_cases
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SMALL = {
    "vocab_size": 24,
    "hidden_size": 12,
    "intermediate_size": 14,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
KINDS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def config(kind: str, **options):
    """A small one."""
    return KINDS[kind](**{**SMALL, **options})


def rope(**scaling) -> dict:
    """Options for a scaled rotary embedding."""
    return {"rope_parameters": {"rope_theta": 100.0, **scaling}}


def before_5(values: dict) -> dict:
    """config.json as transformers 4 wrote it."""
    values = dict(values)
    scaling = values.pop("rope_parameters")
    values["rope_theta"] = scaling.pop("rope_theta")
    kind = scaling.pop("rope_type")
    values["rope_scaling"] = None if kind == "default" else {"type": kind, **scaling}
    values["torch_dtype"] = values.pop("dtype")
    return {**values, "pretraining_tp": 1, "transformers_version": "4.30.0"}


def partial(*names: str):
    """config.json without what a reader has defaults for."""

    def chosen(values: dict) -> dict:
        return {name: values[name] for name in ("model_type", "architectures", "hidden_size", *names)}

    return chosen


def inverse_frequencies(model) -> dict[str, torch.Tensor]:
    """The buffers that checkpoints of older versions hold."""
    return {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": model.model.rotary_emb.inv_freq.clone() for i in range(2)
    }


CASES = {
    "llama2": (
        "LlamaForCausalLM",
        config("llama", num_attention_heads=3, num_key_value_heads=3, num_hidden_layers=3),
        {"config": before_5, "shard_bytes": 4_000},
    ),
    "llama2_old": (
        "LlamaForCausalLM",
        config("llama", num_key_value_heads=1, rms_norm_eps=1e-3, **rope(rope_type="linear", factor=4.0)),
        {"config": before_5, "buffers": inverse_frequencies},
    ),
    "llama3": (
        "LlamaForCausalLM",
        config(
            "llama",
            tie_word_embeddings=True,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            **rope(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            ),
        ),
        {"gradients": True},
    ),
    "llama_biases": (
        "LlamaForCausalLM",
        config("llama", attention_bias=True, mlp_bias=True, hidden_act="gelu", head_dim=6),
        {"bfloat16": True},
    ),
    "llama_dynamic": (
        "LlamaModel",
        config("llama", **{**rope(rope_type="dynamic", factor=2.0), "max_position_embeddings": 8}),
        {},
    ),
    "llama_yarn": (
        "LlamaModel",
        config(
            "llama",
            head_dim=16,
            **rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=8, beta_slow=0.5),
        ),
        {"config": before_5},
    ),
    "llama_yarn_scaled": (
        "LlamaModel",
        config(
            "llama", head_dim=8, **rope(rope_type="yarn", factor=2.0, mscale=1.5, mscale_all_dim=0.5, truncate=False)
        ),
        {},
    ),
    "llama_longrope": (
        "LlamaModel",
        config(
            "llama",
            head_dim=8,
            **rope(
                rope_type="longrope",
                short_factor=[1.0, 1.5, 2.0, 3.0],
                long_factor=[2.0, 3.0, 4.0, 8.0],
                original_max_position_embeddings=9,
            ),
        ),
        {},
    ),
    "llama_text": ("LlamaForSequenceClassification", config("llama", num_hidden_layers=1, **LABELS), {}),
    "llama_tokens": ("LlamaForTokenClassification", config("llama", num_hidden_layers=1, **LABELS), {}),
    "llama_answers": ("LlamaForQuestionAnswering", config("llama", num_hidden_layers=1), {}),
    "mistral": (
        "MistralForCausalLM",
        config("mistral", num_attention_heads=6, num_key_value_heads=3, sliding_window=4),
        {"config": before_5},
    ),
    "mistral_partial": (
        "MistralForCausalLM",
        config(
            "mistral",
            hidden_size=16,
            num_attention_heads=8,
            num_key_value_heads=8,
            sliding_window=None,
            rms_norm_eps=1e-6,
        ),
        {
            "config": partial(
                "vocab_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "sliding_window"
            )
        },
    ),
    "mistral_answers": ("MistralForQuestionAnswering", config("mistral", num_hidden_layers=1, sliding_window=3), {}),
    "qwen2": (
        "Qwen2ForCausalLM",
        config(
            "qwen2",
            use_sliding_window=True,
            sliding_window=3,
            num_attention_heads=3,
            max_window_layers=1,
            num_hidden_layers=3,
            tie_word_embeddings=True,
        ),
        {},
    ),
    "qwen2_old": (
        "Qwen2ForCausalLM",
        config(
            "qwen2", use_sliding_window=False, num_attention_heads=2, num_key_value_heads=2, **rope(rope_type="default")
        ),
        {"config": lambda values: {k: v for k, v in before_5(values).items() if k != "layer_types"}},
    ),
    "qwen2_text": ("Qwen2ForSequenceClassification", config("qwen2", num_hidden_layers=1, **LABELS), {}),
    "qwen3": (
        "Qwen3ForCausalLM",
        config(
            "qwen3",
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=4,
            use_sliding_window=True,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
        ),
        {"gradients": True},
    ),
    "qwen3_biased": (
        "Qwen3ForCausalLM",
        config("qwen3", attention_bias=True, head_dim=4, tie_word_embeddings=True),
        {},
    ),
    "qwen3_tokens": ("Qwen3ForTokenClassification", config("qwen3", num_hidden_layers=1, head_dim=4, **LABELS), {}),
    "qwen3_answers": ("Qwen3ForQuestionAnswering", config("qwen3", num_hidden_layers=1, head_dim=4), {}),
}

if __name__ == "__main__":
    make_cases("llama", CASES)
