"""The tests that every family passes: transformers' numbers, packed against alone, saved against published.

A family's test file says where its golden folder is:

    class TestRoberta(FamilyTests):
        golden = "roberta"            # tests/golden/roberta/CASE/{config.json, weights, golden.npz}

golden.npz holds, for each BATCH of inputs, `BATCH.token_ids`, `BATCH.mask` and perhaps `.type_ids`, `.positions`,
`.target_ids`, `.target_mask`; and what the reference computes with them: `.hidden` (its last layers, or all of them),
`.source_hidden`, `.pooled`, `.logits` and, for one batch, `.loss` (mean cross-entropy of `.labels` or, without them, of each
token's successor) and `.gradient.NAME`. Numbers of padding are not compared.
Shapes: B batch, T length, D model width, C classes, V vocabulary.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

import garden
from garden.checkpoints import huggingface
from garden.checkpoints.weight_map import dump
from garden.models.backbone import Backbone, combined, family_of, load_weights, named_variables, open_weights

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = 1e-4  # of a tensor's largest magnitude
WITH_TARGETS = ("backbone", "seq2seq-lm")  # tasks that give the decoder something to read
ONCE_A_TEXT = "text-classification"


@dataclass(frozen=True)
class Case:
    """A folder of reference outputs."""

    directory: Path

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        return huggingface.read_config(self.directory)

    @property
    def family(self):
        """The family that serves it."""
        return family_of(self.config)

    @property
    def task(self) -> str:
        """The task of its head; "backbone" where it has none."""
        name = self.config["architectures"][0]
        tasks = {published: task for task, published in reversed(self.family.architectures.items())}
        # Saved for pre-training, a checkpoint has one more head, which tests of its task read.
        task = tasks.get(name, "backbone")
        return "masked-lm" if task == "masked-lm-with-pairs" else task

    @functools.cached_property
    def batches(self) -> dict[str, dict[str, np.ndarray]]:
        """golden.npz, by batch and then by name."""
        found: dict[str, dict[str, np.ndarray]] = {}
        with np.load(self.directory / "golden.npz") as arrays:
            for key in arrays.files:
                # One batch alone needs no name.
                batch, name = ("right", key) if "." not in key else key.split(".", 1)
                found.setdefault(batch, {})[name] = arrays[key]
        return found

    def inputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch in Garden's words."""
        names = {"token_ids": "token_ids", "mask": "segment_ids", "type_ids": "type_ids", "positions": "positions"}
        if self.task in WITH_TARGETS:
            names |= {"target_ids": "target_ids", "target_mask": "target_segment_ids"}
        return {ours: batch[theirs] for theirs, ours in names.items() if theirs in batch}

    def mask(self, batch: Mapping[str, np.ndarray], *, source: bool = False) -> np.ndarray:
        """Where `sequence`, or the source's, has no padding."""
        writes = "target_mask" in batch and self.task in WITH_TARGETS and not source
        return batch["target_mask" if writes else "mask"].astype(bool)


@dataclass(frozen=True)
class Network:
    """A backbone and perhaps a head."""

    backbone: Backbone
    head: Any
    task: str

    @property
    def heads(self) -> dict:
        """As `combined` and `load_weights` want them."""
        return {"head": self.head} if self.head is not None else {}

    def logits(self, inputs: Mapping[str, np.ndarray], **options) -> tf.Tensor:
        """[B,C] for a head that answers once a text; else [B,T,...]."""
        if self.task == ONCE_A_TEXT:
            outputs = self.backbone(inputs, read_positions=self.read_places(inputs), **options)
            return self.head(outputs)[:, 0]
        return self.head(self.backbone(inputs, **options))

    def read_places(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[B,1]: where a head that answers once a text reads it."""
        mask = inputs["segment_ids"] > 0
        if self.head.reads == "first":
            return mask.argmax(axis=1)[:, None].astype(np.int32)
        if self.head.reads == "end":
            ends = mask & (inputs["token_ids"] == self.backbone.config.eos_token_id)
            mask = np.where(ends.any(axis=1, keepdims=True), ends, mask)
        return (mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1))[:, None].astype(np.int32)


def open_case(case: Case, dtype: str | None = None) -> Network:
    """A case's network with its weights."""
    family, task, values = case.family, case.task, case.config
    config = family.config.from_dict(values)
    with open_weights(case.directory, family) as weights:
        config = config.settled(weights)
        if task == "backbone":
            return Network(garden.Backbone.from_pretrained(case.directory, dtype=dtype), None, task)
        head_class = family.heads[task]
        backbone = family.backbone(config, dtype=dtype, **head_class.backbone_parts)
        options = [len(values["id2label"])] if "classification" in task else []
        options = [2] if task == "question-answering" else options
        head = head_class(backbone, *options, dtype=backbone.dtype_policy, name="head")
        load_weights(backbone, {"head": head}, weights, strict=True)
    return Network(backbone, head, task)


opened: Callable[[Case], Network] = functools.lru_cache(maxsize=64)(open_case)
"""A case's network in float32, opened once: tests do not change it."""


@functools.lru_cache(maxsize=64)
def bare(case: Case) -> Backbone:
    """A case's backbone alone, opened once: a checkpoint with a head serves too."""
    return garden.Backbone.from_pretrained(case.directory)


def assert_near(ours: Any, theirs: np.ndarray, name: str = "", tolerance: float = TOLERANCE) -> None:
    """Asserts that no difference is larger than a share of the largest magnitude."""
    ours = tf.cast(ours, tf.float32).numpy()
    assert ours.shape == theirs.shape, name
    scale = np.abs(theirs).max(initial=1e-3)
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=tolerance, err_msg=name)


def loss_of(logits: tf.Tensor, batch: Mapping[str, np.ndarray], mask: np.ndarray) -> tf.Tensor:
    """The mean cross-entropy that golden.npz has."""
    labels = batch.get("labels")
    if labels is None:
        labels, logits, mask = batch["token_ids"][:, 1:], logits[:, :-1], mask[:, 1:] & mask[:, :-1]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int32), logits)
    return tf.reduce_mean(losses if labels.ndim == 1 else tf.boolean_mask(losses, mask))


def packed_and_alone(case: Case, batch: Mapping[str, np.ndarray]) -> tuple[dict, list[dict], list[tuple]]:
    """A batch's rows two by two in rows of their own, the same texts one by one, and where each one's `sequence` is.

    Packed rows have padding at their end and no positions: they count from each text's beginning.
    """
    given = {name: array for name, array in case.inputs(batch).items() if name != "positions"}
    sides = {"": [name for name in given if not name.startswith("target")]}
    if "target_ids" in given:
        sides["target_"] = [name for name in given if name.startswith("target")]
    count = len(given["token_ids"])
    texts, packed = [{} for _ in range(count)], {}
    for side, names in sides.items():
        mask = given[f"{side}segment_ids"] > 0
        lengths = mask.sum(axis=1)
        rows = (count + 1) // 2
        width = max(sum(lengths[2 * row : 2 * row + 2]) for row in range(rows)) + 1
        packed |= {name: np.zeros((rows, width), np.int32) for name in names}
        places = []
        for text in range(count):
            row, second = divmod(text, 2)
            begin = lengths[text - 1] if second else 0
            end = begin + lengths[text]
            for name in names:
                alone = given[name][text][mask[text]]
                texts[text][name] = alone[None]
                packed[name][row, begin:end] = second + 1 if name.endswith("segment_ids") else alone
            places.append((row, begin, end))
    return packed, texts, places


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    """A directory's tensors, read."""
    with huggingface.open_weights(directory) as weights:
        return dict(weights)


class FamilyTests:
    """Base of the families' tests; a subclass states where its numbers are and what is peculiar to it."""

    golden: ClassVar[str]
    """The folder below tests/golden."""

    old: ClassVar[tuple[str, ...]] = ()
    """Cases whose files hold other names than are written today: they are opened, but what is saved differs."""

    unread: ClassVar[tuple[str, ...]] = ()
    """Tensors that the reference writes but never reads: their values are not to be compared."""

    other_fields: ClassVar[tuple[str, ...]] = ()
    """Fields of config.json that Garden writes otherwise."""

    by_longest: ClassVar[tuple[str, ...]] = ()
    """Cases whose numbers depend on the longest text of the batch, so that packing changes them."""

    small: ClassVar[str | None] = None
    """The case for tests that one case is enough for; default: the first one."""

    bfloat16: ClassVar[float] = 0.02
    """How far numbers in bfloat16 are off on average, as a share of the largest magnitude."""

    @classmethod
    def cases(cls) -> dict[str, Case]:
        """All cases, by name."""
        return {path.parent.name: _case(path.parent) for path in sorted((GOLDEN / cls.golden).glob("*/config.json"))}

    @classmethod
    def small_case(cls) -> Case:
        """The one for tests that one is enough for."""
        cases = cls.cases()
        return cases[cls.small or next(iter(cases))]

    def pytest_generate_tests(self, metafunc):
        """Gives tests with `case`, and perhaps `batch_name`, all cases; `loss_case` those with gradients."""
        cases = self.cases()
        if "batch_name" in metafunc.fixturenames:
            wanted = [
                (case, batch)
                for name, case in cases.items()
                for batch in case.batches
                if metafunc.function.__name__ != "test_logits" or "logits" in case.batches[batch]
            ]
            ids = [f"{case.directory.name}-{batch}" for case, batch in wanted]
            metafunc.parametrize(("case", "batch_name"), wanted, ids=ids)
        elif "case" in metafunc.fixturenames:
            metafunc.parametrize("case", list(cases.values()), ids=list(cases))
        elif "loss_case" in metafunc.fixturenames:
            wanted = {name: case for name, case in cases.items() if any("loss" in b for b in case.batches.values())}
            metafunc.parametrize("loss_case", list(wanted.values()), ids=list(wanted))

    # The reference's numbers.

    def test_hidden_states(self, case, batch_name):
        batch = case.batches[batch_name]
        outputs = bare(case)(case.inputs(batch), hidden_states=True)
        for name, states, source in (
            ("hidden", "hidden_states", False),
            ("source_hidden", "source_hidden_states", True),
        ):
            if name not in batch:
                continue
            real = case.mask(batch, source=source)
            ours = outputs[states][-len(batch[name]) :]
            assert len(ours) == len(batch[name])
            for layer, (mine, theirs) in enumerate(zip(ours, batch[name], strict=True)):
                assert_near(tf.boolean_mask(mine, real), theirs[real], f"{states} {layer}")
        if "hidden" in batch:
            np.testing.assert_array_equal(outputs["sequence"], outputs["hidden_states"][-1])
        assert "pooled" not in batch or "pooled" in outputs
        if "pooled" in batch:
            assert_near(outputs["pooled"], batch["pooled"], "pooled")

    def test_logits(self, case, batch_name):
        batch, network = case.batches[batch_name], opened(case)
        logits, theirs = network.logits(case.inputs(batch)), batch["logits"]
        if theirs.ndim == 3 or (case.task != ONCE_A_TEXT and theirs.ndim == 2):
            real = case.mask(batch)
            logits, theirs = tf.boolean_mask(logits, real), theirs[real]
        assert_near(logits, theirs, "logits")

    def test_gradients(self, loss_case):
        case, network = loss_case, opened(loss_case)
        name, batch = next((name, batch) for name, batch in case.batches.items() if "loss" in batch)
        variables, rules = combined(network.backbone, network.heads)
        with tf.GradientTape() as tape:
            loss = loss_of(network.logits(case.inputs(batch)), batch, case.mask(batch))
        gradients = tape.gradient(loss, [variables[rule.variable].value for rule in rules])
        np.testing.assert_allclose(loss, batch["loss"], rtol=1e-5)
        compared = set()
        for rule, gradient in zip(rules, gradients, strict=True):
            if gradient is None:
                assert not {f"gradient.{tensor}" for tensor in rule.tensors} & set(batch), rule.tensors
                continue
            for tensor, ours in zip(rule.tensors, rule.write(tf.convert_to_tensor(gradient).numpy()), strict=True):
                key = next(
                    (key for key in (f"gradient.{p}{tensor}" for p in ("", case.family.prefix)) if key in batch), None
                )
                assert key or not np.any(ours), f"{name}: no gradient of {tensor} to compare with"
                if key:
                    # Keys' biases change nothing: all of their gradient is rounding.
                    scale = max(np.abs(batch[key]).max(), 1e-3 * float(batch["loss"]))
                    np.testing.assert_allclose(ours / scale, batch[key] / scale, atol=5e-4, rtol=0, err_msg=tensor)
                    compared.add(key)
        assert compared == {key for key in batch if key.startswith("gradient.")}

    # Packing and parts.

    def test_packed_texts_get_what_they_get_alone(self, case):
        if case.directory.name in self.by_longest:
            return
        network = opened(case)
        packed, texts, places = packed_and_alone(case, case.batches["right"])
        together = network.backbone(packed)["sequence"]
        for text, (row, begin, end) in zip(texts, places, strict=True):
            alone = network.backbone(text)["sequence"]
            assert_near(together[row, begin:end], alone[0].numpy())

    def test_packed_texts_have_the_gradients_they_have_alone(self):
        case = self.small_case()
        backbone = opened(case).backbone
        packed, texts, places = packed_and_alone(case, case.batches["right"])
        variables = [variable.value for variable in backbone.trainable_variables]
        direction = np.random.default_rng(0).standard_normal((64, backbone.width)).astype(np.float32)

        def gradients(outputs: Callable[[], list[tf.Tensor]]) -> list[np.ndarray]:
            with tf.GradientTape() as tape:
                total = tf.add_n([tf.reduce_sum(output * direction[: len(output)]) for output in outputs()])
            found = tape.gradient(total, variables, unconnected_gradients="zero")
            return [tf.convert_to_tensor(gradient).numpy() for gradient in found]

        def together() -> list[tf.Tensor]:
            sequence = backbone(packed)["sequence"]
            return [sequence[row, begin:end] for row, begin, end in places]

        ours, theirs = gradients(together), gradients(lambda: [backbone(text)["sequence"][0] for text in texts])
        for variable, mine, wanted in zip(backbone.trainable_variables, ours, theirs, strict=True):
            scale = max(1.0, np.abs(wanted).max())
            np.testing.assert_allclose(mine / scale, wanted / scale, atol=2e-5, err_msg=variable.path)

    def test_read_positions_give_the_same_as_reading_everything(self):
        case = self.small_case()
        backbone, inputs = opened(case).backbone, case.inputs(case.batches["right"])
        everything = backbone(inputs)["sequence"]
        wanted = np.stack([np.arange(len(everything)) % 2, np.zeros(len(everything))], axis=1).astype(np.int32)
        some = backbone(inputs, read_positions=wanted)["sequence"]
        real = np.take_along_axis(case.mask(case.batches["right"]), wanted, axis=1)
        expected = tf.gather(everything, wanted, batch_dims=1)
        assert_near(tf.boolean_mask(some, real), expected.numpy()[real])

    def test_positions_are_counted_when_none_are_given(self):
        case = self.small_case()
        for name, batch in case.batches.items():
            given = case.inputs(batch)
            derived = {key: array for key, array in given.items() if key != "positions"}
            real = case.mask(batch)
            ours, theirs = (opened(case).backbone(inputs)["sequence"].numpy()[real] for inputs in (derived, given))
            np.testing.assert_array_equal(ours, theirs, err_msg=name)

    def test_what_stands_under_padding_changes_nothing(self):
        case = self.small_case()
        batch = case.batches["right"]
        dirty = dict(batch)
        for ids, mask in (("token_ids", "mask"), ("target_ids", "target_mask")):
            if ids in batch:
                dirty[ids] = np.where(batch[mask].astype(bool), batch[ids], 7)
        real = case.mask(batch)
        clean, other = (opened(case).backbone(case.inputs(b))["sequence"].numpy()[real] for b in (batch, dirty))
        np.testing.assert_array_equal(clean, other)

    # Types and graphs.

    def test_bfloat16_stays_close(self):
        case = self.small_case()
        for policy in ("mixed_bfloat16", "bfloat16"):
            network = open_case(case, policy)
            batch = case.batches["right"]
            sequence = network.backbone(case.inputs(batch))["sequence"]
            assert sequence.dtype == "bfloat16"
            real = case.mask(batch)
            ours = tf.boolean_mask(tf.cast(sequence, tf.float32), real).numpy()
            theirs = opened(case).backbone(case.inputs(batch))["sequence"].numpy()[real]
            off = np.abs(ours - theirs) / np.abs(theirs).max()
            assert off.mean() < self.bfloat16, policy
            assert off.max() < 5 * self.bfloat16, policy
            types = {variable.dtype for variable in network.backbone.trainable_variables}
            assert types == {"float32" if policy.startswith("mixed") else "bfloat16"}

    def test_runs_in_a_graph_of_any_length_and_compiles(self):
        case = self.small_case()
        backbone, given = opened(case).backbone, case.inputs(case.batches["right"])
        given = {name: tf.constant(array, tf.int32) for name, array in given.items() if name != "positions"}
        signature = {name: tf.TensorSpec([None, None], tf.int32) for name in given}
        run = tf.function(lambda inputs: backbone(inputs)["sequence"], input_signature=[signature])
        for rows, length in ((1, 1), (2, 7), (0, 4)):
            inputs = {name: tf.ones([rows, length], tf.int32) for name in given}
            assert run(inputs).shape == (rows, length, backbone.width)
        whole = backbone(given)["sequence"]
        assert_near(run(given), whole.numpy())
        compiled = tf.function(lambda inputs: backbone(inputs)["sequence"], jit_compile=True)
        assert_near(compiled(given), whole.numpy())

    def test_dropout_acts_in_training_only(self):
        case = self.small_case()
        backbone = opened(case).backbone
        if not any(getattr(layer, "rate", 0) for layer in backbone._flatten_layers()):
            rates = [name for name in case.family.config.__dataclass_fields__ if name.endswith(("dropout", "_pdrop"))]
            backbone = case.family.backbone(replace(backbone.config, **dict.fromkeys(rates, 0.2)))
        inputs = case.inputs(case.batches["right"])
        still = backbone(inputs)["sequence"].numpy()
        np.testing.assert_array_equal(backbone(inputs, training=False)["sequence"], still)
        assert np.abs(backbone(inputs, training=True)["sequence"] - still).max() > 1e-4

    # Saving and opening.

    def test_saved_tensors_have_the_references_names_and_values(self, case):
        if case.directory.name in self.old:
            return
        network = opened(case)
        variables, rules = combined(network.backbone, network.heads)
        own = {name for rule in (network.head.rules() if network.heads else ()) for name in rule.tensors}
        prefix = case.family.prefixes.get(case.task, case.family.prefix) if network.heads else ""
        ours = {name if name in own else prefix + name: array for name, array in dump(variables, rules)}
        theirs = tensors_of(case.directory)
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            if name not in self.unread:
                np.testing.assert_array_equal(ours[name], np.asarray(array, np.float32), err_msg=name)

    def test_a_saved_config_says_what_the_references_says(self, case, tmp_path):
        network, theirs = opened(case), case.config
        ours = json.loads(json.dumps(network.backbone.config_dict()))
        assert ours["model_type"] == theirs["model_type"]
        for name, value in ours.items():
            if name in theirs and name not in ("architectures", *self.other_fields):
                assert value == theirs[name], name
        again = case.family.config.from_dict(ours)
        assert again == network.backbone.config

    def test_what_is_saved_is_opened_again(self, case, tmp_path):
        backbone = opened(case).backbone
        backbone.save_pretrained(tmp_path)
        again = garden.Backbone.from_pretrained(tmp_path)
        assert type(again) is type(backbone)
        ours, theirs = named_variables(again), named_variables(backbone)
        assert ours.keys() == theirs.keys()
        for name, variable in theirs.items():
            np.testing.assert_array_equal(ours[name], variable, err_msg=name)
        inputs = case.inputs(case.batches["right"])
        np.testing.assert_array_equal(again(inputs)["sequence"], backbone(inputs)["sequence"])

    def test_keras_round_trips(self, tmp_path):
        case = self.small_case()
        backbone = opened(case).backbone
        again = type(backbone).from_config(json.loads(json.dumps(backbone.get_config())))
        assert again.config == backbone.config
        backbone.save_weights(tmp_path / "a.weights.h5")
        again.load_weights(tmp_path / "a.weights.h5")
        inputs = case.inputs(case.batches["right"])
        np.testing.assert_array_equal(again(inputs)["sequence"], backbone(inputs)["sequence"])


@functools.lru_cache(maxsize=256)
def _case(directory: Path) -> Case:
    return Case(directory)
