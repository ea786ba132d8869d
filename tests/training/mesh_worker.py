"""Trains networks on one device and on meshes of four logical devices, and prints how far they are apart: run by test_mesh.py.

    python mesh_worker.py TOKENIZER FAMILY STEPS MODELxSTAGE...

A process of its own, since logical devices must be there before TensorFlow starts. Prints one line of JSON a mesh.
"""

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

WIDTHS = {"vocab_size": 1024}
ENCODER = WIDTHS | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DECODER = WIDTHS | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
NETWORKS = {
    "bert": ("MaskedLM", ENCODER),
    "gpt2": (
        "CausalLM",
        WIDTHS
        | {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 3, "bos_token_id": 2}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "llama": ("CausalLM", DECODER),
    "qwen3": ("CausalLM", DECODER | {"head_dim": 8, "eos_token_id": 3}),
    "t5": (
        "Seq2SeqLM",
        WIDTHS | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0},
    ),
    "bart": (
        "Seq2SeqLM",
        WIDTHS
        | {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64, "dropout": 0.0}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | {"bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3},
    ),
    "transformer": (
        "Seq2SeqLM",
        WIDTHS | {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout": 0.0, "eos_token_id": 3},
    ),
}


def made(tokenizer: str, family: str):
    """Returns a new network's task; the same for the same seed."""
    import garden
    from garden.models.backbone import family_called

    keras.utils.set_random_seed(7)
    task, sizes = NETWORKS[family]
    kind, family = getattr(garden, task), family_called(family)
    config = family.config.from_dict(sizes)
    backbone = family.backbone(config, **family.heads[kind.name_in_configs].backbone_parts)
    return kind.build_on(backbone, garden.Tokenizer.from_pretrained(tokenizer), sequence_length=16)


def texts(count: int) -> list[str]:
    """Returns texts of the tiny tokenizer's words."""
    draw = np.random.default_rng(0)
    words = [
        "good",
        "great",
        "bad",
        "dull",
        "a",
        "the",
        "film",
        "story",
        "with",
        "an",
        "end",
        "and",
        "actors",
        "is",
        "it",
        "was",
    ]
    return [" ".join(draw.choice(words, draw.integers(4, 12))) for _ in range(count)]


class Losses(keras.callbacks.Callback):
    """Keeps each step's loss."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))


def trained(mesh, tokenizer: str, family: str, steps: int, **kinds) -> dict:
    """Returns what stock `fit` and its relatives gave."""
    from garden.layers.mesh import whole
    from garden.tasks.optimization import AdamW

    with mesh.scope() if mesh else contextlib.nullcontext():
        model = made(tokenizer, family)
        # Large, since keys' biases have no gradient but rounding's.
        model.compile(AdamW(1e-2, epsilon=1e-3, global_clipnorm=0.3), **kinds)
    begin = [np.array(weight.numpy()) for weight in whole(model.weights)]
    log, rows = Losses(), texts(8 * steps)
    data = (rows, rows[::-1]) if type(model).__name__ == "Seq2SeqLM" else (rows,)
    given = data if len(data) == 2 else data[0]
    model.fit(*data, batch_size=8, shuffle=False, verbose=0, callbacks=[log], validation_data=given)
    ids = np.random.default_rng(1).integers(5, 20, (3, 8)).astype(np.int32)
    inputs = {"token_ids": ids} | ({"target_ids": ids} if len(data) == 2 else {})
    return {
        "model": model,
        "begin": begin,
        "losses": np.array([*log.losses, model.evaluate(*data, batch_size=8, verbose=0)[0]]),
        "weights": [np.array(weight.numpy()) for weight in whole(model.weights)],
        "slots": [np.array(slot.numpy()) for slot in whole(model.optimizer.variables)],
        "paths": [weight.path for weight in whole(model.weights)],
        "predictions": [model.predict(inputs, verbose=0)],
        "answers": model.predict_text(texts(2)) if family != "bert" else None,
    }


def apart(one: list, other: list) -> float:
    assert [np.shape(a) for a in one] == [np.shape(b) for b in other]
    return max(float(np.max(np.abs(np.asarray(a, "float64") - b))) for a, b in zip(one, other, strict=True))


def main(tokenizer: str, family: str, steps: str, *meshes: str) -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )
    from garden.layers.mesh import Mesh

    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    alone = trained(None, tokenizer, family, int(steps))
    for name in meshes:
        model, stage = map(int, name.split("x"))
        mesh = Mesh.of(devices, model=model, stage=stage)
        spread = trained(mesh, tokenizer, family, int(steps), accumulate=2 if stage > 1 else 1)
        held: dict[str, int] = {}
        for weight in spread["model"].weights:
            device = weight.value.device
            held[device] = held.get(device, 0) + int(np.prod(weight.shape))
        optimizer = spread["model"].optimizer
        beside = all(
            slot.value.device == weight.value.device
            for slots in (optimizer._momentums, optimizer._velocities)
            for slot, weight in zip(slots, spread["model"].trainable_weights, strict=True)
        )
        result = {name: apart(alone[name], spread[name]) for name in ("begin", "weights", "slots", "predictions")}
        result |= {
            "mesh": name,
            "losses": apart(list(alone["losses"]), list(spread["losses"])),
            "paths": [a.split("/", 1)[1] for a in alone["paths"]] == [b.split("/", 1)[1] for b in spread["paths"]],
            "answers": _words(alone["answers"]) == _words(spread["answers"]),
            "devices": len(held),
            "largest_share": max(held.values()) / sum(held.values()),
            "slots_beside": beside,
        }
        print(json.dumps(result))


def _words(answers) -> list | None:
    """Returns what answers say, without their scores."""
    return answers and [[value for value in answer.values() if isinstance(value, str)] for answer in answers]


if __name__ == "__main__":
    main(*sys.argv[1:])
