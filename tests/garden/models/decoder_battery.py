"""What every decoder-only family passes, against transformers' numbers (see tests/golden/decoders.py)."""

import json
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

import garden
from garden.checkpoints import huggingface
from garden.models.backbone import combined, family_of, load_weights, open_weights

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = 1e-4


def cases(family: str) -> list[str]:
    """The family's golden folders."""
    return sorted(path.parent.name for path in (GOLDEN / family).glob("*/config.json"))


def golden_batch(directory: Path, name: str) -> dict[str, np.ndarray]:
    prefix = f"{name}."
    with np.load(directory / "golden.npz") as arrays:
        return {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}


def inputs_of(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"token_ids": batch["token_ids"], "segment_ids": batch["mask"]}


def task_of(directory: Path) -> str | None:
    """The task whose head a checkpoint has."""
    values = huggingface.read_config(directory)
    names = family_of(values).architectures
    task = next(task for task, name in names.items() if name == values["architectures"][0])
    return None if task == "backbone" else task


def with_head(directory: Path, dtype: str | None = None):
    """A case's backbone and head."""
    values = huggingface.read_config(directory)
    family, task = family_of(values), task_of(directory)
    backbone = family.backbone(family.config.from_dict(values), dtype=dtype)
    options = {"question-answering": {"classes": 2}, "causal-lm": {}}.get(
        task, {"classes": len(values.get("id2label", ""))}
    )
    head = family.heads[task](backbone, name="head", dtype=dtype, **options)
    with open_weights(directory, family) as weights:
        trained = {name: kind.trained_in(weights, backbone.config) for name, kind in family.heads.items()}
        assert trained[task]
        # Vectors of texts take no weights of their own: every checkpoint serves them.
        others = {name for name, there in trained.items() if there} - {task, "text-embedding"}
        assert not others - ({"causal-lm"} if backbone.config.tie_word_embeddings else set())
        load_weights(backbone, {"head": head}, weights, strict=True)
    return backbone, head


def assert_close(ours, theirs: np.ndarray, tolerance: float = TOLERANCE, what: str = "") -> None:
    """Within a share of the reference's largest magnitude."""
    np.testing.assert_allclose(
        tf.cast(ours, tf.float32), theirs, rtol=0, atol=tolerance * np.abs(theirs).max(), err_msg=what
    )


def check_hidden(directory: Path) -> None:
    """Every hidden state, padded on the right and on the left, with positions given and derived."""
    backbone = garden.Backbone.from_pretrained(directory)
    for name in ("right", "left"):
        batch = golden_batch(directory, name)
        real = batch["mask"].astype(bool)
        outputs = backbone(inputs_of(batch), hidden_states=True)
        assert len(outputs["hidden_states"]) == len(backbone.blocks) + 1
        states = outputs["hidden_states"][-len(batch["hidden"]) :]
        for layer, (ours, theirs) in enumerate(zip(states, batch["hidden"], strict=True)):
            assert_close(ours.numpy()[real], theirs[real], what=f"{name}, state {layer} of {len(states)}")
        np.testing.assert_array_equal(outputs["sequence"], outputs["hidden_states"][-1])
        given = backbone({**inputs_of(batch), "positions": batch["positions"]})["sequence"]
        np.testing.assert_array_equal(given.numpy()[real], outputs["sequence"].numpy()[real])


def check_logits(directory: Path) -> None:
    """The head's logits, and the token that each place makes likeliest."""
    backbone, head = with_head(directory)
    for name in ("right", "left"):
        batch = golden_batch(directory, name)
        inputs, real = inputs_of(batch), batch["mask"].astype(bool)
        if head.reads == "last":
            places = (batch["mask"] * np.arange(batch["mask"].shape[1])).argmax(axis=1)
            ours, theirs = head(backbone(inputs, read_positions=places[:, None]))[:, 0].numpy(), batch["logits"]
        else:
            ours, theirs = head(backbone(inputs)).numpy()[real], batch["logits"][real]
        assert_close(ours, theirs, what=name)
        np.testing.assert_array_equal(ours.argmax(axis=-1), theirs.argmax(axis=-1))


def check_gradients(directory: Path) -> None:
    """The gradients of the next-token loss, every tensor's."""
    backbone, head = with_head(directory)
    batch = golden_batch(directory, "right")
    variables, rules = combined(backbone, {"head": head})
    with tf.GradientTape() as tape:
        logits = head(backbone(inputs_of(batch)))
        counted = (batch["mask"][:, 1:] * batch["mask"][:, :-1]).astype(np.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["token_ids"][:, 1:], logits[:, :-1])
        loss = tf.reduce_sum(losses * counted) / counted.sum()
    gradients = tape.gradient(loss, [variables[rule.variable].value for rule in rules])
    np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
    expected = {name.removeprefix("gradient."): array for name, array in batch.items() if name.startswith("gradient.")}
    for rule, gradient in zip(rules, gradients, strict=True):
        for tensor, ours in zip(rule.tensors, rule.write(tf.convert_to_tensor(gradient).numpy()), strict=True):
            name = tensor if tensor in expected else backbone.family.prefix + tensor
            assert_close(ours, expected.pop(name), what=tensor)
    assert not expected


def packed(batch: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[tuple[slice, np.ndarray]]]:
    """A batch's texts, and their beginnings, in one row with padding between and behind: and where each stands."""
    texts = [ids[mask.astype(bool)] for ids, mask in zip(batch["token_ids"], batch["mask"], strict=True)]
    texts += [text[:4] for text in texts[:2]]
    row = {"token_ids": [], "segment_ids": []}
    places = []
    for number, text in enumerate(texts, start=1):
        begin = len(row["token_ids"])
        places.append((slice(begin, begin + len(text)), text))
        gap = 2 if number == 2 else 0
        row["token_ids"] += [*text, *[7] * gap]
        row["segment_ids"] += [number] * len(text) + [0] * gap
    return {name: np.array([values + [0] * 3], np.int32) for name, values in row.items()}, places


def check_packed(directory: Path) -> None:
    """Texts packed into one row get what they get alone, and so do the places that are read."""
    backbone = garden.Backbone.from_pretrained(directory)
    inputs, places = packed(golden_batch(directory, "right"))
    together = backbone(inputs)["sequence"]
    for place, text in places:
        alone = backbone({"token_ids": text[None]})["sequence"]
        assert_close(together[:, place], alone.numpy(), 1e-5)
    read = np.array([[place.stop - 1 for place, _ in places]], np.int32)
    wanted = backbone(inputs, read_positions=read)["sequence"]
    assert_close(wanted, tf.gather(together, read, batch_dims=1).numpy(), 1e-5)


def check_low_precision(directory: Path) -> None:
    """Logits in bfloat16 within 2 % of their scale on average, and sums in float32 weights."""
    batch = golden_batch(directory, "right")
    real = batch["mask"].astype(bool)
    for policy in ("mixed_bfloat16", "bfloat16"):
        backbone, head = with_head(directory, policy)
        logits = tf.cast(head(backbone(inputs_of(batch))), tf.float32).numpy()[real]
        scale = np.abs(batch["logits"]).max()
        assert np.abs(logits - batch["logits"][real]).mean() < 0.02 * scale
        assert np.abs(logits - batch["logits"][real]).max() < 0.1 * scale
        assert backbone.empty_cache(1, 2).layers[0].key.dtype == tf.bfloat16


def check_graph(directory: Path) -> None:
    """One graph for any length, and XLA's compiler takes it."""
    backbone = garden.Backbone.from_pretrained(directory)
    ints = tf.TensorSpec([None, None], tf.int32)
    run = tf.function(lambda inputs: backbone(inputs), input_signature=[{"token_ids": ints, "segment_ids": ints}])
    for shape in [(1, 1), (2, 7), (3, 11), (0, 4)]:
        inputs = {name: tf.ones(shape, tf.int32) for name in ("token_ids", "segment_ids")}
        assert_close(run(inputs)["sequence"], backbone(inputs)["sequence"].numpy(), 1e-5) if shape[0] else run(inputs)
    inputs = inputs_of(golden_batch(directory, "left"))
    real = inputs["segment_ids"].astype(bool)
    compiled = tf.function(lambda inputs: backbone(inputs)["sequence"], jit_compile=True)(inputs)
    assert_close(compiled.numpy()[real], backbone(inputs)["sequence"].numpy()[real], 1e-5)


def check_cache(directory: Path, *, left: bool, jit_compile: bool = False) -> None:
    """A prompt and then one token at a time give what reading everything at once gives.

    With `left`, rows have padding before them; without it, prompts of several lengths have it behind them.
    """
    backbone = garden.Backbone.from_pretrained(directory)
    batch = golden_batch(directory, "left" if left else "right")
    token_ids, mask = batch["token_ids"], batch["mask"]
    whole = backbone(inputs_of(batch))["sequence"].numpy()
    rows, length = token_ids.shape
    step = lambda inputs, cache: backbone(inputs, cache=cache)
    if jit_compile:
        step = tf.function(step, jit_compile=True)
    cache = backbone.empty_cache(rows, length + 2)
    written = []
    for begin, end in [(0, 3), (3, 4), (4, 6), *((place, place + 1) for place in range(6, length))]:
        inputs = {"token_ids": token_ids[:, begin:end], "segment_ids": mask[:, begin:end]}
        outputs = step({name: tf.constant(array) for name, array in inputs.items()}, cache)
        cache = outputs["cache"]
        written.append(outputs["sequence"].numpy())
    real = mask.astype(bool)
    assert_close(np.concatenate(written, axis=1)[real], whole[real], 1e-5)
    # Rows in another order, as a beam search asks for them, and no mask: tokens are real unless told otherwise.
    order = [2, 0, 0]
    cache = tf.nest.map_structure(lambda part: tf.gather(part, order) if part.shape.rank else part, cache)
    after = backbone({"token_ids": np.full((3, 1), 5, np.int32)}, cache=cache)["sequence"]
    for row, text in enumerate(order):
        ids = np.append(token_ids[text][real[text]], 5)
        assert_close(after[row, 0], backbone({"token_ids": ids[None]})["sequence"].numpy()[0, -1], 1e-5)


def check_round_trip(directory: Path, target: Path) -> None:
    """What is saved has the checkpoint's tensors, by name, shape and value, and gives the same numbers."""
    task = task_of(directory)
    backbone = garden.Backbone.from_pretrained(directory)
    backbone.save_pretrained(target / "bare")
    batch = golden_batch(directory, "right")
    expected = backbone(inputs_of(batch))["sequence"]
    again = garden.Backbone.from_pretrained(target / "bare")
    np.testing.assert_array_equal(again(inputs_of(batch))["sequence"], expected)
    keras_config = type(backbone).from_config(backbone.get_config())
    assert keras_config.config.to_dict() == backbone.config.to_dict()
    saved = json.loads((target / "bare" / "config.json").read_text())
    values = huggingface.read_config(directory)
    assert saved["model_type"] == values["model_type"]
    if task is not None:
        assert saved["architectures"] == [backbone.family.architectures["backbone"]]
    with huggingface.open_weights(target / "bare") as ours, huggingface.open_weights(directory) as theirs:
        prefix = backbone.family.prefixes.get(task, backbone.family.prefix)
        known = {name.removeprefix(prefix): name for name in theirs}
        assert set(ours) <= set(known)
        left = {name for name in known if name not in ours}
        assert all(name.startswith(("lm_head", "score", "classifier", "qa_outputs", "h.", "layers.")) for name in left)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[known[name]].astype(np.float32))


def copied(directory: Path, target: Path, **changes) -> Path:
    """A case's folder with other values in its config.json; None leaves a field out."""
    shutil.copytree(directory, target)
    values = {**json.loads((target / "config.json").read_text()), **changes}
    (target / "config.json").write_text(
        json.dumps({name: value for name, value in values.items() if value is not None})
    )
    return target
