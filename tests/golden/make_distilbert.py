"""Make tests/golden/distilbert/: see encoders.py."""

import torch
from encoders import LABELS, make_cases
from transformers import DistilBertConfig

SMALL = {
    "vocab_size": 24,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 16,
    "max_position_embeddings": 14,
}


def config(**options) -> DistilBertConfig:
    """A small one."""
    return DistilBertConfig(**{**SMALL, **options})


def old_tensors(tensors: dict, config) -> dict:
    """As the published checkpoints have them: a buffer of positions, and the tied table twice."""
    tensors["distilbert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    tensors["vocab_projector.weight"] = tensors["distilbert.embeddings.word_embeddings.weight"].clone()
    return tensors


def old_config(values: dict) -> dict:
    """As the published checkpoints have it: fields of its time, and `tie_weights_`."""
    names = (*SMALL, "activation", "dropout", "attention_dropout", "sinusoidal_pos_embds", "pad_token_id")
    kept = {name: values[name] for name in names}
    return {**kept, "model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "tie_weights_": True}


CASES = {
    "base": ("DistilBertModel", config(n_layers=3), {}),
    "sinusoidal": ("DistilBertModel", config(sinusoidal_pos_embds=True, activation="relu"), {"shard_bytes": 3_000}),
    "masked_lm_old": ("DistilBertForMaskedLM", config(), {"tensors": old_tensors, "config": old_config}),
    "masked_lm": ("DistilBertForMaskedLM", config(activation="relu", n_heads=2), {}),
    "masked_lm_untied": ("DistilBertForMaskedLM", config(tie_word_embeddings=False, n_layers=1), {}),
    "classifier": ("DistilBertForSequenceClassification", config(**LABELS), {"gradients": True}),
    "tokens": ("DistilBertForTokenClassification", config(n_layers=1, **LABELS), {}),
    "answers": ("DistilBertForQuestionAnswering", config(n_layers=1), {}),
}

if __name__ == "__main__":
    make_cases("distilbert", CASES)
