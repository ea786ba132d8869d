"""Make tests/golden/roberta/: RoBERTa, XLM-RoBERTa and CamemBERT; see encoders.py."""

import torch
from encoders import LABELS, make_cases
from transformers import CamembertConfig, RobertaConfig, XLMRobertaConfig

SMALL = {
    "vocab_size": 24,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 14,
}


def config(kind=RobertaConfig, **options):
    """A small one."""
    return kind(**{**SMALL, **options})


def old_tensors(tensors: dict, config) -> dict:
    """As versions before 4.31 wrote them: a buffer of positions, and the tied tensors twice."""
    tensors["roberta.embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"].clone()
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"].clone()
    return tensors


def old_config(values: dict) -> dict:
    """As the published checkpoints have it: fields of its time, and no others."""
    names = (*SMALL, "hidden_act", "type_vocab_size", "layer_norm_eps", "pad_token_id", "bos_token_id", "eos_token_id")
    kept = {name: values[name] for name in names}
    return {**kept, "model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}


CASES = {
    "base": ("RobertaModel", config(num_hidden_layers=3), {}),
    "no_pooler": (
        "RobertaModel",
        config(hidden_act="relu", type_vocab_size=2),
        {"parts": {"add_pooling_layer": False}},
    ),
    "masked_lm_old": (
        "RobertaForMaskedLM",
        config(type_vocab_size=1, layer_norm_eps=1e-5),
        {"tensors": old_tensors, "config": old_config},
    ),
    "masked_lm": ("RobertaForMaskedLM", config(pad_token_id=0, hidden_act="gelu_new", layer_norm_eps=1e-3), {}),
    "masked_lm_untied": ("RobertaForMaskedLM", config(tie_word_embeddings=False, num_hidden_layers=1), {}),
    "classifier": ("RobertaForSequenceClassification", config(**LABELS), {"gradients": True}),
    "tokens": ("RobertaForTokenClassification", config(num_hidden_layers=1, **LABELS), {}),
    "answers": ("RobertaForQuestionAnswering", config(num_hidden_layers=1), {"shard_bytes": 3_000}),
    "xlm_masked_lm": ("XLMRobertaForMaskedLM", config(XLMRobertaConfig), {}),
    "xlm_classifier": ("XLMRobertaForSequenceClassification", config(XLMRobertaConfig, **LABELS), {}),
    "camembert_masked_lm": ("CamembertForMaskedLM", config(CamembertConfig, num_hidden_layers=1), {}),
    "camembert_tokens": ("CamembertForTokenClassification", config(CamembertConfig, num_hidden_layers=1, **LABELS), {}),
}

if __name__ == "__main__":
    make_cases("roberta", CASES)
