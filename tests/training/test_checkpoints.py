"""Checkpoints on the disk: whole or not there, retained as asked, and checked before they are believed."""

import errno
import json
import logging
import resource
import threading

import numpy as np
import pytest
import tensorflow as tf

from training import checkpoints as saving
from training.checkpoints import Checkpoints, read_checkpoint


class Network:
    """What `Checkpoints` asks of a model: a few variables."""

    def __init__(self, size=1000):
        self.weights = [tf.Variable(tf.zeros([size]), name="kernel"), tf.Variable(0.0, name="bias")]
        self.optimizer = type("Optimizer", (), {"variables": [tf.Variable(0, dtype=tf.int64, name="iterations")]})()
        self.metrics, self.averages = [], None

    def learn(self, step):
        for index, variable in enumerate([*self.weights, *self.optimizer.variables]):
            variable.assign(tf.cast(tf.fill(variable.shape, step + index), variable.dtype))

    def knows(self, step):
        variables = [*self.weights, *self.optimizer.variables]
        return all(np.all(variable.numpy() == step + index) for index, variable in enumerate(variables))


def saved(directory, *steps, best=(), **options):
    """Checkpoints of a network that learnt until the last of the steps."""
    network = Network()
    checkpoints = Checkpoints(network, directory, **options)
    for step in sorted({*steps, *best}):
        network.learn(step)
        if step in steps:
            checkpoints.save_state(step)
        if step in best:
            checkpoints.save_best(step)
    checkpoints.wait()
    return checkpoints


def restored(directory, **options):
    """A new process's network and what it is told."""
    network = Network()
    return network, Checkpoints(network, directory, **options).restore_state()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_state_comes_back_with_what_was_told_of_it(tmp_path):
    network = Network()
    checkpoints = Checkpoints(network, tmp_path / "new" / "place", config={"task": "masked-lm"})
    assert checkpoints.restore_state() == {"step": 0}
    checkpoints.of(lambda: {"tokens": 7, "judgement": None})
    network.learn(5)
    checkpoints.save_state(5)
    network.learn(6)  # while it is written
    checkpoints.wait()
    again, facts = restored(tmp_path / "new" / "place")
    assert again.knows(5)
    assert (facts["step"], facts["tokens"], facts["config"]) == (5, 7, {"task": "masked-lm"})


@pytest.mark.parametrize(
    ("options", "steps", "best", "left"),
    [
        ({}, (1, 2, 3), (), ["step-2", "step-3"]),
        ({"keep": 1}, (1, 2, 10), (), ["step-10"]),
        ({"keep": 1, "keep_every": 2}, (2, 3, 4, 5), (), ["step-2", "step-4", "step-5"]),
        # A run that goes on after step 4 has not seen the weights of step 5 yet.
        ({"keep": 1}, (4, 8), (3, 5, 6), ["best-6", "step-8"]),
        ({"keep": 2}, (4, 8), (3, 5, 6), ["best-3", "best-6", "step-4", "step-8"]),
        ({"keep": 2}, (4,), (3, 5, 6), ["best-3", "best-6", "step-4"]),
    ],
)
def test_what_stays(tmp_path, options, steps, best, left):
    saved(tmp_path, *steps, best=best, **options)
    assert names(tmp_path) == left


def test_the_best_weights_are_those_of_their_step(tmp_path):
    checkpoints = saved(tmp_path, 4, best=(2, 3))
    assert checkpoints.has_best(3)
    assert not checkpoints.has_best(4)
    network = Network()
    Checkpoints(network, tmp_path).restore_best(3)
    assert np.all(network.weights[0].numpy() == 3)
    with pytest.raises(ValueError, match=r"best-9: the best weights are missing"):
        checkpoints.restore_best(9)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "state.safetensors").write_bytes((path / "state.safetensors").read_bytes()[:-9]),
        lambda path: (path / "state.safetensors").write_bytes(b"\0" * (path / "state.safetensors").stat().st_size),
        lambda path: (path / "state.safetensors").unlink(),
        lambda path: (path / "state.json").write_text('{"step": 3'),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: (path / "state.json").unlink(),
    ],
    ids=["shorter", "zeros", "no arrays", "cut facts", "other facts", "no facts"],
)
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path, caplog, damage):
    saved(tmp_path, 1, 2, 3)
    damage(tmp_path / "step-3")
    with caplog.at_level(logging.WARNING):
        network, facts = restored(tmp_path)
    assert facts["step"] == 2
    assert network.knows(2)
    assert "step-3: damaged (" in caplog.text
    assert "going on from step-2, the one before" in caplog.text
    assert names(tmp_path) == ["step-2", "step-3.damaged"]
    # It is not taken for a newer one.
    saved(tmp_path, 3, keep=1)
    assert restored(tmp_path)[0].knows(3)


def test_with_none_whole_the_run_does_not_start_anew(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / f"step-{step}" / "state.safetensors").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"step-2: damaged .*; no other one is whole: remove .*, and the run starts anew"
    ):
        restored(tmp_path)


def test_another_networks_state_is_not_taken(tmp_path):
    saved(tmp_path, 1)
    network = Network(size=3)
    with pytest.raises(ValueError, match=r"kernel:0 has shape \(1000,\), expected \(3,\)"):
        Checkpoints(network, tmp_path).restore_state()
    network.weights.append(tf.Variable(0.0, name="more"))
    with pytest.raises(ValueError, match="another network's or optimiser's state"):
        Checkpoints(network, tmp_path).restore_state()


def test_a_full_disk_costs_nothing_but_that_checkpoint(tmp_path, caplog):
    saved(tmp_path, 1)
    network = Network(size=1000)
    checkpoints = Checkpoints(network, tmp_path)
    network.learn(2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # files end here, as on a disk that is full
    try:
        with caplog.at_level(logging.WARNING):
            checkpoints.save_state(2)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "step-2: not saved (" in caplog.text
    assert "older ones that stay: step-1; the run goes on" in caplog.text
    assert names(tmp_path) == ["step-1"]
    checkpoints.save_state(2)
    checkpoints.wait()
    assert restored(tmp_path)[0].knows(2)


def test_a_directory_that_cannot_be_written_to_is_told_of(tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file")
    with caplog.at_level(logging.WARNING):
        saved(tmp_path / "checkpoints", 1)
    assert f"{tmp_path}/checkpoints/step-1: not saved (" in caplog.text


def test_training_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    go, save_file = threading.Event(), saving.save_file

    def slow(arrays, path):
        assert go.wait(60)
        save_file(arrays, path)

    monkeypatch.setattr(saving, "save_file", slow)
    network = Network()
    checkpoints = Checkpoints(network, tmp_path)
    network.learn(1)
    checkpoints.save_state(1)
    network.learn(2)
    assert not (tmp_path / "step-1").exists()
    go.set()
    checkpoints.save_state(2)
    checkpoints.wait()
    assert names(tmp_path) == ["step-1", "step-2"]
    assert restored(tmp_path)[0].knows(2)
    assert np.all(read_checkpoint(tmp_path / "step-1")[1]["weights/00000/kernel:0"] == 1)


def test_what_a_killed_process_left_is_removed_by_who_writes(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / ".writing-x" / "step-2").mkdir(parents=True)
    Checkpoints(Network(), tmp_path, active=False)
    assert ".writing-x" in names(tmp_path)
    Checkpoints(Network(), tmp_path)
    assert names(tmp_path) == ["step-1"]


def test_workers_that_do_not_write_only_read(tmp_path):
    saved(tmp_path, 1)
    saved(tmp_path, 2, best=(2,), active=False)
    assert names(tmp_path) == ["step-1"]
    assert restored(tmp_path, active=False)[1]["step"] == 1


def test_an_error_of_the_disk_is_in_words(tmp_path, caplog, monkeypatch):
    def full(arrays, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with caplog.at_level(logging.WARNING):
        saved(tmp_path, 1)
    assert "step-1: not saved (No space left on device); older ones that stay: none" in caplog.text
    assert names(tmp_path) == []


def test_facts_are_json_that_anyone_reads(tmp_path):
    saved(tmp_path, 3, config={"training": {"steps": 3}})
    facts = json.loads((tmp_path / "step-3" / "state.json").read_text())
    assert facts["step"] == 3
    assert facts["arrays"] == 3
    assert facts["config"]["training"] == {"steps": 3}
