"""What make_roberta.py, make_distilbert.py and make_electra.py share: small random encoders in the Hugging Face layout, and
what transformers computes with them.

Each case is a folder with config.json, the weights, and golden.npz, which holds, for each batch of inputs ("plain": no padding,
no type ids and no positions; "right" and "left": padded on that side),

    BATCH.token_ids, .mask, .positions   [B,T]; positions count from the first real token; perhaps .type_ids
    BATCH.hidden        [layers + 1, B, T, D], the embeddings and each layer's output, of "left" the last one; zeros where
                        there is padding
    BATCH.pooled        [B,D], where there is a pooler
    BATCH.logits        of the head: [B,C], or [B,T,...] with zeros where there is padding

and, in cases with `gradients`, the batch "right"'s labels, its mean cross-entropy and `gradient.NAME` of every tensor.
Weights are kept in float16, whose numbers they are, to be small; all is computed in float64, so that a test measures its own
errors only. What a row's first token decides (`pooled`, `logits`
[B,C]) is computed of that row alone, since transformers reads the row's first place, padding or not.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

transformers.utils.logging.disable_progress_bar()

HERE = Path(__file__).resolve().parent
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter, norms and biases too, wide enough that a swapped or forgotten one shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
            parameter.copy_(parameter.half())


def batches(config, random: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """The inputs, called as in golden.npz."""
    pad = config.pad_token_id
    token_ids = random.integers(pad + 1, config.vocab_size, (3, 8))
    right = (np.arange(8) < np.array([[8], [5], [1]])).astype(np.int64)
    result = {"plain": {"token_ids": token_ids[:2, :6], "mask": np.ones((2, 6), np.int64)}}
    for name, mask in (("right", right), ("left", right[:, ::-1].copy())):
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0) * mask
        result[name] = {"token_ids": np.where(mask, token_ids, pad), "mask": mask, "positions": positions}
        if getattr(config, "type_vocab_size", 1) > 1:
            result[name]["type_ids"] = random.integers(0, config.type_vocab_size, mask.shape) * mask
    return result


def given(model: torch.nn.Module, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch in transformers' words."""
    tensors = {"input_ids": torch.tensor(batch["token_ids"]), "attention_mask": torch.tensor(batch["mask"])}
    if "type_ids" in batch:
        tensors["token_type_ids"] = torch.tensor(batch["type_ids"])
    if "positions" in batch:
        # Rows of the table up to the padding id's hold no position in RoBERTa and its relatives.
        from_fairseq = model.config.model_type in ("roberta", "xlm-roberta", "camembert")
        shift = model.config.pad_token_id + 1 if from_fairseq else 0
        tensors["position_ids"] = torch.tensor(batch["positions"] + shift)
    return tensors


def run(model: torch.nn.Module, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """One forward pass; the outputs are called as in golden.npz."""
    inputs, mask = given(model, batch), torch.tensor(batch["mask"])
    output = model(**inputs, output_hidden_states=True)
    result = {"hidden": torch.stack(output.hidden_states) * mask[None, :, :, None]}
    names = ("pooler_output", "logits") if type(model).__name__.endswith(("Model", "SequenceClassification")) else ()
    rows = []
    for row in range(len(mask)):
        alone = {name: tensor[row : row + 1, mask[row].bool()] for name, tensor in inputs.items()}
        rows.append(model(**alone))
    for name, ours in zip(names, ("pooled", "logits"), strict=False):
        if getattr(rows[0], name, None) is not None:
            result[ours] = torch.cat([getattr(each, name) for each in rows])
    if "start_logits" in output:
        result["logits"] = torch.stack([output.start_logits, output.end_logits], dim=-1) * mask[:, :, None]
    elif "logits" in output and not names:
        result["logits"] = output.logits * (mask if output.logits.ndim == 2 else mask[:, :, None])
    return result


def gradients(model: torch.nn.Module, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean cross-entropy of the batch and its gradients."""
    logits, mask = run(model, batch)["logits"], torch.tensor(batch["mask"]).bool()
    if logits.ndim == 2:
        labels = np.arange(len(logits)) % logits.shape[-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    else:
        labels = np.arange(mask.numel()).reshape(mask.shape) % logits.shape[-1]
        loss = torch.nn.functional.cross_entropy(logits[mask], torch.tensor(labels)[mask])
    loss.backward()
    result = {"labels": labels.astype(np.int32), "loss": loss.detach().numpy()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            result[f"gradient.{name}"] = parameter.grad.numpy().astype(np.float32)
    return result


def save(model: torch.nn.Module, directory: Path, options: Mapping) -> None:
    """What `save_pretrained` writes; `tensors` and `config` change it to what older versions wrote."""
    model.half().save_pretrained(directory, max_shard_size=options.get("shard_bytes", "1GB"))
    (directory / "generation_config.json").unlink(missing_ok=True)
    if "tensors" in options:
        tensors = options["tensors"](load_file(directory / "model.safetensors"), model.config)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    if "config" in options:
        values = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(options["config"](values), indent=2) + "\n")


def make_case(directory: Path, number: int, model: torch.nn.Module, options: Mapping) -> None:
    """Write one folder."""
    generator, random = torch.Generator().manual_seed(number), np.random.default_rng(number)
    model.eval()
    randomise(model, generator)
    save(model, directory, options)
    model.double()
    golden = {}
    for batch_name, batch in batches(model.config, random).items():
        with torch.no_grad():
            outputs = run(model, batch)
        if batch_name == "left":
            outputs["hidden"] = outputs["hidden"][-1:]
        golden |= {f"{batch_name}.{key}": array.astype(np.int32) for key, array in batch.items()}
        golden |= {f"{batch_name}.{key}": tensor.numpy().astype(np.float32) for key, tensor in outputs.items()}
        if options.get("gradients") and batch_name == "right":
            golden |= {f"right.{key}": array for key, array in gradients(model, batch).items()}
    np.savez_compressed(directory / "golden.npz", **golden)


def make_cases(family: str, cases: Mapping[str, tuple]) -> None:
    """Write the folders of a family's cases: name -> (class, config, options)."""
    shutil.rmtree(HERE / family, ignore_errors=True)
    for number, (name, (kind, config, options)) in enumerate(cases.items()):
        config._attn_implementation = "eager"
        parts = options.get("parts", {})
        make_case(HERE / family / name, number, getattr(transformers, kind)(config, **parts), options)
