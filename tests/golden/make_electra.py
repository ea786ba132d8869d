"""Make tests/golden/electra/: see encoders.py."""

import torch
from encoders import LABELS, make_cases
from transformers import ElectraConfig

SMALL = {
    "vocab_size": 24,
    "embedding_size": 8,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 14,
}


def config(**options) -> ElectraConfig:
    """A small one."""
    return ElectraConfig(**{**SMALL, **options})


def old_tensors(tensors: dict, config) -> dict:
    """As the published checkpoints have them: a buffer of positions, and the tied table twice."""
    tensors["electra.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    if "generator_lm_head.bias" in tensors:
        tensors["generator_lm_head.weight"] = tensors["electra.embeddings.word_embeddings.weight"].clone()
    return tensors


def old_config(values: dict) -> dict:
    """As the published checkpoints have it: fields of its time, and no others."""
    names = (*SMALL, "hidden_act", "type_vocab_size", "layer_norm_eps", "pad_token_id", "architectures", "model_type")
    return {**{name: values[name] for name in names}, "summary_type": "first", "generator_size": "0.25"}


CASES = {
    "base": ("ElectraModel", config(num_hidden_layers=3), {}),
    "one_width": ("ElectraModel", config(embedding_size=12, hidden_act="relu", layer_norm_eps=1e-3), {}),
    "generator_old": ("ElectraForMaskedLM", config(), {"tensors": old_tensors, "config": old_config}),
    "generator": ("ElectraForMaskedLM", config(hidden_act="relu"), {"gradients": True}),
    "generator_untied": ("ElectraForMaskedLM", config(tie_word_embeddings=False, num_hidden_layers=1), {}),
    "discriminator_old": ("ElectraForPreTraining", config(), {"tensors": old_tensors, "config": old_config}),
    "discriminator": ("ElectraForPreTraining", config(hidden_act="gelu_new", num_attention_heads=2), {}),
    "classifier": ("ElectraForSequenceClassification", config(hidden_act="relu", **LABELS), {"gradients": True}),
    "tokens": ("ElectraForTokenClassification", config(num_hidden_layers=1, **LABELS), {}),
    "answers": ("ElectraForQuestionAnswering", config(num_hidden_layers=1), {}),
}

if __name__ == "__main__":
    make_cases("electra", CASES)
