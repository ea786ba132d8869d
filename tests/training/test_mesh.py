"""Networks on meshes: the same numbers as one device's, the same checkpoints, and what is refused."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import garden
from garden.layers.mesh import Mesh, whole
from garden.models.t5 import T5Backbone, T5Config
from training.config import make_config
from training.mesh import mesh_of, sizes_of
from training.strategy import strategy

HERE = Path(__file__).parent


def output_of(script: str, *arguments: object) -> list[dict]:
    """Returns the lines of JSON that a worker printed."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=1_200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def assert_one_network(spread: dict) -> None:
    """Asserts that a mesh's numbers are one device's, and lie where they should."""
    assert spread["begin"] == 0
    for name in ("losses", "weights", "slots"):
        assert spread[name] < 1e-5, (name, spread)
    assert spread["predictions"] < 1e-4, spread  # logits, many times as large as weights
    for name in ("paths", "answers", "slots_beside"):
        assert spread[name], (name, spread)
    model, stage = map(int, spread["mesh"].split("x"))
    assert spread["devices"] == model * stage
    if spread["mesh"] == "2x1":
        assert spread["largest_share"] <= 0.55


def test_a_network_in_shards_and_stages_is_one_network(tiny_bert):
    (spread,) = output_of("mesh_worker.py", tiny_bert, "bert", 3, "2x2")
    assert_one_network(spread)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen3", "t5", "bart", "transformer"])
def test_every_mesh_gives_the_numbers_of_one_device(family, tiny_bert):
    meshes = ["2x1", "1x2", "2x2", "4x1"]
    lines = output_of("mesh_worker.py", tiny_bert, family, 20, *meshes)
    assert [line["mesh"] for line in lines] == meshes
    for line in lines:
        assert_one_network(line)


@pytest.mark.slow
def test_a_run_moves_from_four_devices_to_two_to_one(tiny_bert, tiny_data, tmp_path):
    (moved,) = output_of("mesh_run_worker.py", tiny_bert, tiny_data["train"], tmp_path)
    assert max(moved["weights"], moved["losses"]) < 1e-5
    assert moved["steps"] == 9
    assert moved["same_tensors"]


@pytest.mark.slow
def test_info_tells_the_bytes_of_each_device(tiny_bert):
    garden = str(Path(sys.executable).with_name("garden"))

    def info(mesh: str) -> subprocess.CompletedProcess:
        command = [garden, "info", "--mesh", mesh, "--json", str(tiny_bert)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    described = json.loads(info("model=2").stdout)
    assert list(described["bytes_by_device"]) == ["model 0, stage 0", "model 1, stage 0"]
    assert sum(described["bytes_by_device"].values()) == 4 * described["parameters"]
    refused = info("model=3")
    assert refused.returncode == 2
    assert refused.stderr == "garden: error: mesh: model: 3 devices do not divide the 2 heads of attention\n"


def test_new_networks_begin_with_one_device_s_weights():
    # T5's kernels are drawn from one sequence, others from seeds that they took when they were made.
    begun = []
    for scope in (contextlib.nullcontext(), Mesh.of(["/device:CPU:0"] * 4, model=4).scope()):
        keras.utils.set_random_seed(5)
        with scope:
            begun.append(T5Backbone(T5Config(vocab_size=300, d_model=16, d_kv=4, d_ff=8, num_layers=2, num_heads=4)))
    plain, spread = begun
    assert len(spread.weights) > len(plain.weights)
    for one, other in zip(plain.weights, whole(spread.weights), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)


def test_a_checkpoint_is_opened_and_saved_on_a_mesh(still_bert, tmp_path):
    # One device stands for two.
    with Mesh.of(["/device:CPU:0"] * 2, model=2).scope():
        spread = garden.Backbone.from_pretrained(still_bert)
    assert len(spread.weights) > len(whole(spread.weights))
    plain = garden.Backbone.from_pretrained(still_bert)
    ids = {"token_ids": [[2, 7, 9, 3]]}
    np.testing.assert_allclose(spread(ids)["sequence"], plain(ids)["sequence"], atol=1e-5)
    spread.save_pretrained(tmp_path / "saved")
    one, other = (load_file(path / "model.safetensors") for path in (still_bert, tmp_path / "saved"))
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def config(**changes):
    values = {
        "task": "masked-lm",
        "model": {"family": "bert", "tokenizer": "somewhere"},
        "data": {"train": "train.jsonl"},
        "strategy": "model_parallel",
        "output": "run",
    }
    return make_config(values | changes)


def test_configs_of_a_mesh():
    assert config(mesh={"model": 2}).mesh == {"model": 2}
    moved = config(mesh={"model": 2, "stage": 2})
    assert moved.same_run(config(strategy="one_device"))
    for problem, changes in {
        "mesh: strategy model_parallel needs one, such as": {},
        "mesh.width: no such key; known: model, stage": {"mesh": {"width": 2}},
        "mesh: expected a number of at least 1, got 0": {"mesh": {"model": 0}},
        "mesh: only for strategy model_parallel, and the strategy is one_device": {
            "mesh": {"model": 2},
            "strategy": "one_device",
        },
        "training.optimizer: lamb looks at whole weights": {"mesh": {"model": 2}, "training": {"optimizer": "lamb"}},
    }.items():
        with pytest.raises(ValueError, match=problem):
            config(**changes)


def test_sizes_on_the_command_line():
    assert sizes_of("model=2, stage=3") == {"model": 2, "stage": 3}
    for text in ("", "model", "model=0", "model=2,model=2", "pipe=2"):
        with pytest.raises(ValueError, match=r"--mesh: expected model=N,stage=M, such as model=2,stage=2"):
            sizes_of(text)


def test_more_devices_than_there_are():
    with pytest.raises(
        ValueError, match=r"mesh: model: 400, stage: 2 takes 800 devices, and there are \d+ CPUs; logical"
    ):
        mesh_of({"model": 400, "stage": 2})  # TensorFlow has started


def test_networks_without_attention_blocks_are_refused():
    from garden.models.backbone import family_called

    one = strategy("model_parallel", mesh={"model": 1})
    assert one.num_replicas_in_sync == 1
    family = family_called("lstm")
    with one.scope(), pytest.raises(ValueError, match='mesh: a network of the family "lstm" is not made of attention'):
        family.backbone(family.config(vocab_size=32))
