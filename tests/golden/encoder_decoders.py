"""What make_bart.py, make_t5.py and make_transformer.py share.

Each case is a folder with config.json, the weights, and golden.npz, which holds, for a batch whose sources and targets are
padded on the right (one of each is not),

    token_ids, mask [B,S], target_ids, target_mask [B,T]
    hidden, source_hidden   [layers + 1, B, T or S, D]: the embeddings and each layer's output; zeros under padding
    logits          of the head: [B,T,V], [B,C] or [B,T or S,C], with zeros under padding

    generated       [B,9]: what `generate` writes, of language models with a start token: it, then the likeliest tokens

and, in one case of each family, random `labels` [B,T], their mean cross-entropy `loss`, and `gradients`, those of all saved
tensors in the order of their names without the prefix, in one line. Weights are kept in float16,
whose numbers they are, to be small.
Heads that are given no target (classification, answers) read the source shifted right, and so does their `hidden`.
All is computed in float64, so that a test measures its own errors only.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent


def randomise(model: torch.nn.Module, seed: int, scale: float = 0.3) -> None:
    """Draw every parameter and buffer of floats, wide enough that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if (tensor.is_floating_point() and name.rsplit(".", 1)[-1] in ("weight", "bias", "final_logits_bias")) or (
                "in_proj" in name
            ):
                drawn = torch.randn(tensor.shape, generator=generator) * scale
                if "norm" in name and name.endswith("weight"):
                    drawn += 1.0
                tensor.copy_(drawn.half())


def batch_of(vocabulary: int, end: tuple[int, ...], lengths: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
    """The inputs, called as in golden.npz. Sources end with `end`; ids below 4 stand for nothing else."""
    random = np.random.default_rng(seed)
    batch = {}
    for ids_name, mask_name, sizes in (
        ("token_ids", "mask", lengths["source"]),
        ("target_ids", "target_mask", lengths["target"]),
    ):
        mask = (np.arange(max(sizes)) < np.array(sizes)[:, None]).astype(np.int64)
        ids = random.integers(4, vocabulary, mask.shape)
        if ids_name == "token_ids":
            for row, size in enumerate(sizes):
                ids[row, size - len(end) : size] = end[-size:]
        batch |= {ids_name: ids * mask, mask_name: mask}
    return batch


def padded(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """States [...,B,T,D] with zeros under padding."""
    return states * mask[:, :, None]


def write(directory: Path, model: torch.nn.Module, save, compute, batch: dict, *, vocabulary: int, seed: int) -> None:
    """Write one case: `save(directory)` writes config and weights, `compute(batch)` gives the outputs of golden.npz.

    With a `vocabulary` the gradients too.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    save(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    model.double()
    tensors = {key: torch.tensor(array) for key, array in batch.items()}
    with torch.no_grad():
        outputs = compute(tensors)
    golden = {key: array.astype(np.int8) for key, array in batch.items()}
    golden |= {key: tensor.numpy().astype(np.float32) for key, tensor in outputs.items()}
    if hasattr(model, "generate") and model.config.decoder_start_token_id is not None and "logits" in outputs:
        options = {
            "max_new_tokens": 8,
            "do_sample": False,
            "num_beams": 1,
            "use_cache": False,
            "forced_eos_token_id": None,
        }
        written = model.generate(tensors["token_ids"], attention_mask=tensors["mask"], **options).numpy()
        filled = np.full([len(written), 9], model.config.pad_token_id)
        filled[:, : written.shape[1]] = written
        golden["generated"] = filled.astype(np.int8)
    if vocabulary:
        labels = np.random.default_rng(seed).integers(4, vocabulary, batch["target_ids"].shape)
        real = tensors["target_mask"].bool()
        loss = torch.nn.functional.cross_entropy(compute(tensors)["logits"][real], torch.tensor(labels)[real])
        loss.backward()
        bare = {re.sub(r"^(model|transformer)\.", "", name): parameter for name, parameter in model.named_parameters()}
        by_name = {name: parameter.grad for name, parameter in bare.items() if parameter.grad is not None}
        flat = np.concatenate([by_name[name].numpy().ravel() for name in sorted(by_name)])
        golden |= {
            "labels": labels.astype(np.int8),
            "loss": loss.detach().numpy(),
            "gradients": flat.astype(np.float32),
        }
    np.savez_compressed(directory / "golden.npz", **golden)


def run(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One forward pass of a transformers model; the outputs are called as in golden.npz."""
    kind = type(model).__name__
    alone = "Encoder" in kind or "TokenClassification" in kind
    given = {"input_ids": batch["token_ids"], "attention_mask": batch["mask"], "output_hidden_states": True}
    shifts = "SequenceClassification" in kind or "QuestionAnswering" in kind
    target = batch["target_mask"]
    if shifts:
        target = batch["mask"]
    elif not alone:
        given |= {"decoder_input_ids": batch["target_ids"], "decoder_attention_mask": target}
    if "SequenceClassification" in kind:
        # transformers wants as many end tokens in every row: one row at a time.
        outputs = [
            model(**{key: value[row, :size][None] if torch.is_tensor(value) else value for key, value in given.items()})
            for row, size in enumerate(batch["mask"].sum(dim=1))
        ]
        return {"logits": torch.cat([output.logits for output in outputs])}
    output = model(**given)
    if alone:
        result = {"source_hidden": padded(torch.stack(output.hidden_states), batch["mask"])}
        return result | ({"logits": padded(output.logits, batch["mask"])} if "logits" in output else {})
    result = {
        "hidden": padded(torch.stack(output.decoder_hidden_states), target),
        "source_hidden": padded(torch.stack(output.encoder_hidden_states), batch["mask"]),
    }
    if "QuestionAnswering" in kind:
        result["logits"] = padded(torch.stack([output.start_logits, output.end_logits], dim=-1), target)
    elif "logits" in output:
        result["logits"] = padded(output.logits, target)
    return result
