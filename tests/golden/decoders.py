"""What make_gpt2.py and make_llama.py share: small random decoders in the Hugging Face layout, and what transformers computes
with them.

Each case is a folder with config.json, the weights, and golden.npz, which holds, for each batch of inputs ("right" and "left":
padded on that side; their first row has no padding),

    BATCH.token_ids, .mask, .positions   [B,T]; positions count from the first real token
    BATCH.hidden        [layers + 1, B, T, D], as transformers counts them, of "left" the last one; zeros at padding
    BATCH.logits        of the head: [B,C] of the last real token, or [B,T,V], [B,T,C], [B,T,2] with zeros at padding

and, in cases with `gradients`, the batch "right"'s mean loss over all successors of real tokens, and `gradient.NAME` of every
tensor. All is computed in float64, so that a test measures its own errors only; Llama's relatives in float32, since their
softmax is in float32, where the float64 mask of a padding row that sees nothing is infinite.
"""

import copy
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


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter, norms and biases too, wide enough that a swapped or forgotten one shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if "norm" in name or ".ln_" in name:
                parameter.add_(0.0 if name.endswith("bias") else 1.0)


def batches(vocabulary: int, longest: int, random: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """The inputs, called as in golden.npz."""
    token_ids = random.integers(1, vocabulary, (3, longest))
    right = (np.arange(longest) < np.array([[longest], [longest - 5], [1]])).astype(np.int64)
    result = {}
    for name, mask in (("right", right), ("left", right[:, ::-1].copy())):
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0) * mask
        result[name] = {"token_ids": token_ids * mask, "mask": mask, "positions": positions}
    return result


def run(model: torch.nn.Module, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """One forward pass; the outputs are called as in golden.npz."""
    base = next((getattr(model, name) for name in ("transformer", "model") if hasattr(model, name)), model)
    given = {name: torch.tensor(batch[name]) for name in ("token_ids", "mask", "positions")}
    mask = given["mask"]
    output = base(
        input_ids=given["token_ids"],
        attention_mask=mask,
        position_ids=given["positions"],
        output_hidden_states=True,
        use_cache=False,
    )

    def real(x: torch.Tensor) -> torch.Tensor:
        return torch.where(mask[..., None].bool(), x, 0)

    result = {"hidden": torch.stack([real(state) for state in output.hidden_states])}
    sequence = output.last_hidden_state
    kind = type(model).__name__
    if kind.endswith("ForSequenceClassification"):
        last = (mask * torch.arange(mask.shape[1])).argmax(dim=1)
        result["logits"] = model.score(sequence[torch.arange(len(mask)), last])
    else:
        layer = next(
            (getattr(model, name) for name in ("lm_head", "score", "classifier", "qa_outputs") if hasattr(model, name)),
            None,
        )
        if layer is not None:
            result["logits"] = real(layer(sequence))
    return result


def gradients(model: torch.nn.Module, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean cross-entropy of each real token's successor, and its gradients."""
    logits, mask = run(model, batch)["logits"], torch.tensor(batch["mask"]).bool()
    counted = mask[:, 1:] & mask[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][counted], torch.tensor(batch["token_ids"])[:, 1:][counted])
    loss.backward()
    result = {"loss": loss.detach().numpy()}
    for name, parameter in model.named_parameters():
        result[f"gradient.{name}"] = parameter.grad.numpy().astype(np.float32)
    return result


def save(model: torch.nn.Module, directory: Path, options: Mapping) -> None:
    """What `save_pretrained` writes; with `config`, config.json is that instead, as other versions wrote it."""
    if options.get("bfloat16"):
        # Not the model itself: its rotary frequencies would be rounded too.
        copy.deepcopy(model).bfloat16().save_pretrained(directory)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
    else:
        model.save_pretrained(directory, max_shard_size=options.get("shard_bytes", "1GB"))
    (directory / "generation_config.json").unlink(missing_ok=True)
    if "buffers" in options:
        tensors = load_file(directory / "model.safetensors") | options["buffers"](model)
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
    if model.config.model_type == "gpt2":
        model.double()
    golden = {}
    for batch_name, batch in batches(model.config.vocab_size, 10, random).items():
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
        make_case(HERE / family / name, number, getattr(transformers, kind)(config), options)
