"""What every encoder-decoder is put to: the checks that test_bart.py, test_t5.py and test_transformer.py run on their cases.

A case is a folder of tests/golden/, see encoder_decoders.py there.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

import garden
from garden.checkpoints import huggingface
from garden.models.backbone import combined, dump, family_of, load_weights, named_variables, open_weights

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = 1e-4  # of the largest magnitude


def golden(case: Path) -> dict[str, np.ndarray]:
    """A case's arrays; ids and masks as int32."""
    with np.load(case / "golden.npz") as arrays:
        return {name: array.astype(np.int32) if array.dtype == np.int8 else array for name, array in arrays.items()}


def inputs_of(batch: dict, *, target: bool = True) -> dict[str, np.ndarray]:
    """What a backbone is called with."""
    inputs = {"token_ids": batch["token_ids"], "segment_ids": batch["mask"]}
    if target:
        inputs |= {"target_ids": batch["target_ids"], "target_segment_ids": batch["target_mask"]}
    return inputs


def task_of(case: Path) -> str:
    """The task that a case's config.json names: "backbone" for none."""
    values = huggingface.read_config(case)
    named = {name: task for task, name in reversed(family_of(values).architectures.items())}
    return named.get(values["architectures"][0], "backbone")


def opened(case: Path, dtype: str | None = None):
    """A case's backbone and head (None without one), loaded strictly."""
    values = huggingface.read_config(case)
    family, task = family_of(values), task_of(case)
    if task == "backbone":
        return garden.Backbone.from_pretrained(case, dtype=dtype), None
    head_class = family.heads[task]
    with open_weights(case, family) as weights:
        config = family.config.from_dict(values).settled(weights)
        backbone = family.backbone(config, dtype=dtype, **head_class.backbone_parts)
        classes = () if task == "seq2seq-lm" else (2,)
        head = head_class(backbone, *classes, dtype=backbone.dtype_policy, name="head")
        load_weights(backbone, {"head": head}, weights, strict=True)
    return backbone, head


def shifts(case: Path) -> bool:
    """Whether the case's decoder reads the source."""
    return task_of(case) in ("text-classification", "question-answering")


def assert_close(ours, theirs: np.ndarray, real: np.ndarray, name: str) -> None:
    """Equal at all real places, within the tolerance."""
    ours, theirs = tf.cast(ours, tf.float32).numpy()[real], theirs[real]
    assert np.isfinite(ours).all(), name
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(1.0, np.abs(theirs).max()), err_msg=name)


def check_numbers(case: Path) -> None:
    """Every hidden state and the head's logits are the reference's."""
    batch = golden(case)
    backbone, head = opened(case)
    inputs = inputs_of(batch, target=not shifts(case))
    outputs = backbone(inputs, hidden_states=True)
    real = {"source_hidden": batch["mask"] > 0, "hidden": (batch["mask"] if shifts(case) else batch["target_mask"]) > 0}
    names = {"hidden": "hidden_states", "source_hidden": "source_hidden_states"}
    if "hidden" not in batch and "source_hidden" in batch:
        names = {"source_hidden": "hidden_states"}  # an encoder alone
    for theirs, ours in names.items():
        if theirs not in batch:
            continue
        assert len(outputs[ours]) == len(batch[theirs])
        for index, (state, expected) in enumerate(zip(outputs[ours], batch[theirs], strict=True)):
            assert_close(state, expected, real[theirs], f"{theirs} {index}")
    if "hidden" in batch:
        np.testing.assert_array_equal(outputs["sequence"], outputs["hidden_states"][-1])
        np.testing.assert_array_equal(outputs["source_sequence"], outputs["source_hidden_states"][-1])
    if "logits" not in batch:
        return
    if task_of(case) == "text-classification":
        places = last_ends(batch, backbone.config.eos_token_id) if head.reads == "end" else batch["mask"].sum(1) - 1
        logits = head(backbone(inputs, read_positions=places[:, None]))[:, 0]
        assert_close(logits, batch["logits"], np.ones(len(logits), bool), "logits")
        return
    logits = head(outputs)
    places = real["hidden" if "hidden" in batch else "source_hidden"]
    assert_close(logits, batch["logits"], places, "logits")
    np.testing.assert_array_equal(
        logits.numpy()[places].argmax(-1), batch["logits"][places].argmax(-1), err_msg="likeliest tokens"
    )


def last_ends(batch: dict, end: int) -> np.ndarray:
    """Where each row's last end token stands."""
    places = np.arange(batch["token_ids"].shape[1])
    return np.where((batch["token_ids"] == end) & (batch["mask"] > 0), places, -1).max(axis=1)


def check_gradients(case: Path) -> None:
    """The gradients of the loss are the reference's."""
    batch = golden(case)
    backbone, head = opened(case)
    variables, rules = combined(backbone, {"head": head})
    rules = {rule.variable: rule for rule in rules}
    named = {path: variable for path, variable in variables.items() if variable.trainable}
    real = (batch["target_mask"] > 0).astype(np.float32)
    with tf.GradientTape() as tape:
        logits = head(backbone(inputs_of(batch)))
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
        loss = tf.reduce_sum(losses * real) / real.sum()
    np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
    tensors = {}
    gradients = tape.gradient(loss, [variable.value for variable in named.values()])
    for path, gradient in zip(named, gradients, strict=True):
        array = tf.convert_to_tensor(gradient).numpy()
        tensors |= dict(zip(rules[path].tensors, rules[path].write(array), strict=True))
    ours = np.concatenate([np.ravel(tensors[name]) for name in sorted(tensors)])
    np.testing.assert_allclose(ours, batch["gradients"], atol=1e-4 * np.abs(batch["gradients"]).max())


def left(batch: dict) -> dict:
    """The same rows, padded on the left."""
    rolled = dict(batch)
    for ids, mask in (("token_ids", "mask"), ("target_ids", "target_mask")):
        size, counts = batch[ids].shape[1], batch[mask].sum(axis=1)
        index = (np.arange(size) - (size - counts)[:, None]) % size
        rolled |= {name: np.take_along_axis(batch[name], index, axis=1) for name in (ids, mask)}
    return rolled


def check_left(case: Path) -> None:
    """On which side padding stands changes nothing, nor what stands under it."""
    batch = golden(case)
    backbone, _ = opened(case)
    moved = left(batch)
    right_outputs, left_outputs = backbone(inputs_of(batch)), backbone(inputs_of(moved))
    dirty = dict(moved)
    for ids, mask in (("token_ids", "mask"), ("target_ids", "target_mask")):
        dirty[ids] = np.where(moved[mask] > 0, moved[ids], 7)
    dirty_outputs = backbone(inputs_of(dirty))
    for name, mask in (("sequence", "target_mask"), ("source_sequence", "mask")):
        if "decoder" in backbone.get_config() and not backbone.get_config()["decoder"]:
            mask = "mask"
        before = right_outputs[name].numpy()[batch[mask] > 0]
        np.testing.assert_allclose(left_outputs[name].numpy()[moved[mask] > 0], before, atol=1e-5)
        np.testing.assert_array_equal(
            dirty_outputs[name].numpy()[moved[mask] > 0], left_outputs[name].numpy()[moved[mask] > 0]
        )


def packed(batch: dict) -> tuple[dict, list[dict]]:
    """A case's three pairs side by side in two rows, and where each is."""
    counts = {mask: batch[mask].sum(axis=1) for mask in ("mask", "target_mask")}
    sides = (("token_ids", "segment_ids", "mask"), ("target_ids", "target_segment_ids", "target_mask"))
    rows, places = [[0, 1], [2]], [{} for _ in range(3)]
    inputs = {}
    for ids, segments, mask in sides:
        width = max(sum(counts[mask][member] for member in members) for members in rows) + 1
        inputs |= {name: np.zeros((2, width), np.int32) for name in (ids, segments)}
        for row, members in enumerate(rows):
            begin = 0
            for number, member in enumerate(members, start=1):
                end = begin + counts[mask][member]
                inputs[ids][row, begin:end] = batch[ids][member, : counts[mask][member]]
                inputs[segments][row, begin:end] = number
                places[member] |= {"row": row, mask: (begin, end)}
                begin = end
    return inputs, places


def check_packed(case: Path) -> None:
    """Packed pairs get what they get alone, with a target and with the source for one."""
    batch = golden(case)
    backbone, _ = opened(case)
    inputs, places = packed(batch)
    source_only = {name: inputs[name] for name in ("token_ids", "segment_ids")}
    together, shifted = backbone(inputs), backbone(source_only)
    for number, place in enumerate(places):
        alone = {
            "token_ids": batch["token_ids"][number : number + 1, : batch["mask"][number].sum()],
            "target_ids": batch["target_ids"][number : number + 1, : batch["target_mask"][number].sum()],
        }
        for outputs, own, side in (
            (together, backbone(alone), "target_mask"),
            (shifted, backbone({"token_ids": alone["token_ids"]}), "mask"),
        ):
            for name, mask in (("sequence", side), ("source_sequence", "mask")):
                if not backbone.get_config().get("decoder", True):
                    mask = "mask"
                begin, end = place[mask]
                np.testing.assert_allclose(outputs[name][place["row"], begin:end], own[name][0], atol=1e-5)


def check_read_positions(case: Path) -> None:
    """Reading a few places gives what reading all gives."""
    backbone, _ = opened(case)
    inputs, _ = packed(golden(case))
    read = np.array([[3, 0, 6], [0, 0, 0]], np.int32)
    everything = backbone(inputs)["sequence"]
    some = backbone(inputs, read_positions=read)["sequence"]
    np.testing.assert_allclose(some, tf.gather(everything, read, batch_dims=1), atol=1e-5)


def check_cache(case: Path) -> None:
    """Token by token, and a few at once behind padding on the left, gives what the whole target gives at once."""
    batch = golden(case)
    backbone, _ = opened(case)
    for given in (batch, left(batch)):
        inputs = inputs_of(given)
        whole, size = backbone(inputs)["sequence"].numpy(), given["target_ids"].shape[1]
        real = given["target_mask"] > 0
        for steps in ([1] * size, [3, 1, size - 4] if size > 4 else [size]):
            cache = backbone.empty_cache(backbone.encode(inputs), size + 2)
            shapes = [part.shape for part in tf.nest.flatten(cache)]
            pieces, begin = [], 0
            for step in steps:
                part = slice(begin, begin + step)
                asked = {name: inputs[name][:, part] for name in ("target_ids", "target_segment_ids")}
                outputs = backbone.decode(asked, cache=cache)
                pieces.append(outputs["sequence"].numpy())
                cache, begin = outputs["cache"], begin + step
            assert [part.shape for part in tf.nest.flatten(cache)] == shapes
            np.testing.assert_allclose(np.concatenate(pieces, axis=1)[real], whole[real], atol=1e-5)
    # A beam is reordered by its rows, and goes on through `call` too.
    rows = np.array([2, 0, 0])
    chosen = backbone.reordered(cache, rows)
    last = {"target_ids": np.array([[5], [6], [7]], np.int32)}
    ours = backbone(last, cache=chosen)["sequence"].numpy()
    straight = {"target_ids": np.array([[6], [6], [5]], np.int32)}
    np.testing.assert_allclose(ours[1], backbone.decode(straight, cache=cache)["sequence"][0], atol=1e-5)
    np.testing.assert_allclose(ours[0], backbone.decode(straight, cache=cache)["sequence"][2], atol=1e-5)


def check_saved(case: Path, directory: Path) -> None:
    """What is saved has the reference's tensors, and opens with the same numbers and config."""
    from safetensors.numpy import load_file

    backbone, head = opened(case)
    variables, rules = combined(backbone, {"head": head} if head else {})
    family, task = backbone.family, task_of(case)
    prefix = family.prefixes.get(task, family.prefix) if head else ""
    own = {name for rule in head.rules() for name in rule.tensors} if head else set()
    ours = {name if name in own else prefix + name: array for name, array in dump(variables, rules)}
    theirs = load_file(case / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array.astype(np.float32), err_msg=name)
    if head is None:
        backbone.save_pretrained(directory)
        again = garden.Backbone.from_pretrained(directory)
        inputs = inputs_of(golden(case))
        np.testing.assert_array_equal(again(inputs)["sequence"], backbone(inputs)["sequence"])
        assert again.config == backbone.config
    values, reference = backbone.config_dict(), huggingface.read_config(case)
    for name, value in reference.items():
        if name in values and name not in ("architectures", "tie_word_embeddings"):
            assert values[name] == value, name


def check_keras_round_trip(case: Path) -> None:
    """`from_config(get_config())` gives the same network, through JSON."""
    backbone, _ = opened(case)
    again = type(backbone).from_config(json.loads(json.dumps(backbone.get_config())))
    assert again.config == backbone.config
    shapes = {path: variable.shape for path, variable in named_variables(backbone).items()}
    assert {path: variable.shape for path, variable in named_variables(again).items()} == shapes


def check_low_precision(case: Path) -> None:
    """bfloat16 stays within 2 % of float32's scale, and both kinds of half precision stay finite."""
    batch = golden(case)
    inputs, real = inputs_of(batch), batch["target_mask"] > 0
    for policy, tolerance in (("mixed_bfloat16", 0.02), ("bfloat16", 0.03), ("mixed_float16", 0.005)):
        backbone, head = opened(case, policy)
        logits = tf.cast(head(backbone(inputs)), tf.float32).numpy()[real]
        expected = batch["logits"][real]
        assert np.isfinite(logits).all()
        assert np.sqrt(np.mean((logits - expected) ** 2)) < tolerance * np.abs(expected).max(), policy


def check_graph(case: Path) -> None:
    """One graph serves any length; XLA compiles it; dropout acts in training only."""
    backbone, _ = opened(case)
    ints = tf.TensorSpec([None, None], tf.int32)
    names = ("token_ids", "segment_ids", "target_ids", "target_segment_ids")
    run = tf.function(lambda inputs: backbone(inputs), input_signature=[dict.fromkeys(names, ints)], autograph=False)
    for rows, source, target in [(1, 1, 1), (2, 7, 3), (3, 5, 9), (0, 4, 2)]:
        shapes = {"token_ids": (rows, source), "target_ids": (rows, target)}
        shapes |= {"segment_ids": (rows, source), "target_segment_ids": (rows, target)}
        inputs = {name: tf.ones(shape, tf.int32) for name, shape in shapes.items()}
        outputs = run(inputs)
        assert outputs["sequence"].shape == (rows, target, backbone.width)
        np.testing.assert_allclose(outputs["sequence"], backbone(inputs)["sequence"], atol=1e-5)
    inputs = inputs_of(golden(case))
    still = backbone(inputs)["sequence"].numpy()
    fast = tf.function(lambda inputs: backbone(inputs)["sequence"], jit_compile=True, autograph=False)
    real = inputs["target_segment_ids"] > 0
    np.testing.assert_allclose(
        fast({name: tf.constant(value) for name, value in inputs.items()}).numpy()[real], still[real], atol=1e-5
    )
    assert np.abs(backbone(inputs, training=True)["sequence"] - still).max() > 0.01
