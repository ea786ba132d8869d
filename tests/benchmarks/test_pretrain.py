"""The benchmark of pre-training: rows are full and masked as they should be; stand-ins play the other sides."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import pretrain, reference
from benchmarks.masked_rows import MaskedRows, grouped, masked_places
from benchmarks.stepping import Stepping

SPECIAL = [0, 1, 2]


def rows(**options):
    draw = np.random.default_rng(1)
    texts = [[1, *draw.integers(10, 100, draw.integers(1, 30)), 2] for _ in range(50)]
    made = grouped(
        texts,
        **{"rows": 64, "length": 32, "rate": 0.15, "seed": 1, **options},
        mask_id=3,
        special_ids=SPECIAL,
        vocabulary_size=100,
    )
    return made, np.concatenate(texts)


def test_rows_are_the_texts_with_masks():
    made, ids = rows()
    restored = made.token_ids.copy()
    np.put_along_axis(restored, made.mask_positions, made.mask_ids, axis=1)
    np.testing.assert_array_equal(restored.ravel(), np.resize(ids, 64 * 32))
    assert made.mask_positions.shape == (64, masked_places(32, 0.15)) == (64, 5)
    assert not np.isin(made.mask_ids, SPECIAL).any()
    assert all(len(set(row)) == 5 for row in made.mask_positions)
    hidden = np.take_along_axis(made.token_ids, made.mask_positions, axis=1)
    assert 0.7 < (hidden == 3).mean() < 0.9
    assert 0.05 < (hidden == made.mask_ids).mean() < 0.2
    again, _ = rows()
    assert all(np.array_equal(getattr(made, name), value) for name, value in vars(again).items())
    assert not np.array_equal(rows(seed=2)[0].mask_positions, made.mask_positions)


def test_segments_are_texts_and_positions_count_inside_them():
    made, _ = rows()
    assert (made.segment_ids[:, 0] == 1).all()
    assert (made.positions[:, 0] == 0).all()
    begins = np.diff(made.segment_ids, axis=1) == 1
    np.testing.assert_array_equal(made.positions[:, 1:] == 0, begins)
    np.testing.assert_array_equal(np.diff(made.positions, axis=1)[~begins], 1)


def test_rows_are_kept_and_come_in_batches(tmp_path):
    made, _ = rows()
    made.save(tmp_path / "rows.npz")
    batches = MaskedRows.load(tmp_path / "rows.npz").batches(24)
    first, second, third = (next(batches) for _ in range(3))
    np.testing.assert_array_equal(second.token_ids, made.token_ids[24:48])
    np.testing.assert_array_equal(third.mask_ids, first.mask_ids)


def test_useful_operations_are_counted_by_hand():
    # One layer: keys and values of 8 tokens, all else at 2 places.
    sizes = {"layers": 1, "width": 4, "inner_width": 16, "vocabulary_size": 10}
    everywhere, at_masks, attention = 2 * 16, 2 * 16 + 2 * 64 + 16 + 40, 2 * 12 * 8 * 4
    counted = pretrain.useful_operations(**sizes, tokens=8, length=8, masked=2)
    assert counted == 6 * (everywhere * 8 + at_masks * 2) + attention


class Slow(Stepping):
    """Trains on nothing, and says that it did 100 tokens a second."""

    variants = ("slow", "slower")

    def __init__(self, *, precision, threads, **options):
        super().__init__(**options)

    def stepper(self, variant):
        return lambda: None

    def turn(self, *, steps):
        return {"seconds": 1.0, "tokens": 100, "tokens_per_second": 100.0}


class LocalWorker:
    """A `Worker` without a process; the sides of other environments are `Slow`."""

    software = {"python": "3", "packages": {"torch": "0"}}
    pid = 1

    def __init__(self, name, python, target, **options):
        module, _, kind = target.partition(":")
        ours = module == pretrain.OURS
        self.side = (getattr(importlib.import_module(module), kind) if ours else Slow)(**options)

    def call(self, method, **arguments):
        # Through JSON, as between processes.
        return json.loads(json.dumps(getattr(self.side, method)(**json.loads(json.dumps(arguments)))))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.mark.slow
def test_a_run_reports_all_sides(monkeypatch, tmp_path, tiny_bert, tiny_data, capsys):
    from benchmarks import side_garden_pretraining as side

    monkeypatch.setattr(pretrain, "Worker", LocalWorker)
    # TensorFlow's threads and this process's cores are left alone.
    monkeypatch.setattr(side, "use_threads", lambda threads: None)
    monkeypatch.setattr(side, "use_one_core", lambda: None)
    monkeypatch.setattr(side, "PRODUCT", 64)
    pythons = " ".join(f"--{name}-python {sys.executable}" for name in pretrain.SIDES)
    code = pretrain.main(
        f"--size 1x64 --length 16 --precision float32 --tokens 128 --turns 2 --steps 2 --warm-up 3 --settle 0 "
        f"--tokenizer {tiny_bert} --texts {tiny_data['train']} {pythons} --record {tmp_path}".split()
    )
    printed = capsys.readouterr().out
    assert code == 0, printed
    (file,) = tmp_path.glob("pretrain-*.json")
    result = json.loads(file.read_text())
    (measured,) = result["cases"]
    names = [pretrain.HUGGING_FACE, pretrain.KERAS_HUB, pretrain.MODEL_GARDEN, pretrain.GARDEN, pretrain.RAW]
    assert list(measured["turns"]) == names
    medians = measured["median_tokens_per_second"]
    assert measured["garden_is_faster"][pretrain.KERAS_HUB] == pytest.approx(medians[pretrain.GARDEN] / 100)
    assert all(turn["tokens"] == 2 * 128 for name in names[3:] for turn in measured["turns"][name])
    assert measured["useful_share_of_float32_products"] > 0
    assert result["pipeline"]["16"]["tokens_per_second"] > 0
    assert file.with_suffix(".md").read_text() in printed
    assert "## Input pipeline" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size 4x100", "whole heads"),
        ("--size 4", "such as 4x256"),
        ("--length 8192", "--tokens"),
        ("--against pytorch", "keras-hub"),
        ("--mask-rate 2", "between 0 and 1"),
    ],
)
def test_options_that_cannot_be_are_said(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        pretrain.parse(arguments.split())
    assert message in capsys.readouterr().err


def test_an_environment_that_is_missing_is_said(monkeypatch, tmp_path, tiny_data, capsys):
    monkeypatch.setattr(reference, "HERE", tmp_path)
    assert pretrain.main(["--texts", str(tiny_data["train"]), "--tokenizer", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert ".reference-venv: not set up" in error
    with pytest.raises(FileNotFoundError, match="--setup keras-hub"):
        reference.interpreter(None, "keras-hub")
