"""Files for clusters: what is rendered is what Kubernetes, JobSet and Slurm take, and starts the run that was asked for."""

import dataclasses
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from garden.cli import run_command
from training.cluster import resolve
from training.config import make_config
from training.deploy import Deployment, name_of, render

SCHEMA = json.loads(Path(__file__).with_name("jobset_schema.json").read_text(encoding="utf-8"))


def config(**training):
    return make_config(
        {
            "task": "masked-lm",
            "model": {"pretrained": "models/bert"},
            "data": {"train": "train.jsonl"},
            "training": {"batch_size": 64, "checkpoint_steps": 500, **training},
            "output": "runs/BERT base",
        }
    )


def deployment(**options) -> Deployment:
    return Deployment(**{"name": "bert", "workers": 8, "image": "registry.example.com/garden:1.0", **options})


def documents(directory: Path) -> dict[str, dict]:
    loaded = yaml.safe_load_all((directory / "jobset.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in loaded}


def test_a_jobset_conforms_to_its_schema(tmp_path):
    paths = render("kubernetes", config(), deployment(gpus=4), tmp_path)
    assert [path.name for path in paths] == ["jobset.yaml", "config.yaml"]
    given = documents(tmp_path)
    assert set(given) == {"ConfigMap", "PersistentVolumeClaim", "JobSet"}
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(given["JobSet"], SCHEMA)
    job = given["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 8
    pod = job["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pod["terminationGracePeriodSeconds"] == 120
    assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["FailJob", "Ignore", "Ignore"]
    assert job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [69, 75]


def test_the_schema_refuses(tmp_path):
    render("kubernetes", config(), deployment(), tmp_path)
    for place, value in (("replicatedJob", []), ("failurePolicy", {"maxRestarts": -1}), ("replicatedJobs", [])):
        wrong = documents(tmp_path)["JobSet"]
        wrong["spec"][place] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA)


def test_the_pods_find_their_cluster(tmp_path):
    render("kubernetes", config(), deployment(), tmp_path)
    jobset = documents(tmp_path)["JobSet"]
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    cluster = resolve({**environment, "JOB_COMPLETION_INDEX": "7"})
    assert cluster.address == "bert-workers-0-7.bert:2222"
    assert jobset["spec"]["network"]["subdomain"] == "bert"
    assert pod["containers"][0]["ports"][0]["containerPort"] == 2222


def test_the_config_goes_along(tmp_path):
    render("kubernetes", config(), deployment(), tmp_path)
    given = documents(tmp_path)
    read = make_config(yaml.safe_load(given["ConfigMap"]["data"]["config.yaml"]))
    assert read == dataclasses.replace(config(), strategy="multi_worker", output="/runs/bert")
    names = {volume["name"] for volume in pod_of(given)["volumes"]}
    assert {mount["name"] for mount in pod_of(given)["containers"][0]["volumeMounts"]} == names
    volume = next(each for each in pod_of(given)["volumes"] if each["name"] == "runs")
    assert volume["persistentVolumeClaim"]["claimName"] == given["PersistentVolumeClaim"]["metadata"]["name"]
    render("kubernetes", config(), deployment(claim="shared"), tmp_path)
    assert "PersistentVolumeClaim" not in documents(tmp_path)


def pod_of(given: dict) -> dict:
    return given["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.fixture
def script(tmp_path) -> Path:
    render("slurm", config(), deployment(image=None, gpus=2, partition="gpu", memory="64Gi"), tmp_path / "a b")
    return tmp_path / "a b" / "job.sbatch"


def test_a_batch_script_is_bash_and_has_its_options(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script.read_text(), flags=re.M))
    assert options["nodes"] == options["ntasks"] == "8"
    assert options["signal"] == "TERM@120"
    assert options["requeue"] == ""
    assert (options["mem"], options["gpus-per-node"], options["partition"]) == ("64G", "2", "gpu")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(0, 0, False), (75, 0, True), (69, 3, True), (2, 0, False), (75, 10, False)]
)
def test_a_batch_script_queues_itself_again_when_that_helps(script, tmp_path, code, restarts, requeued):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("srun", f'echo "$GARDEN_PORT $@"; exit {code}'), ("scontrol", 'echo "scontrol $@"')):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(stat.S_IRWXU)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "123456",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("scontrol requeue 123456" in done.stdout) == requeued
    assert done.stdout.startswith("23456 --label")
    assert f"garden train {script.with_name('config.yaml')} --progress\n" in done.stdout


def test_an_image_runs_through_pyxis(tmp_path):
    render("slurm", config(), deployment(), tmp_path)
    text = (tmp_path / "job.sbatch").read_text()
    assert "--container-image=registry.example.com/garden:1.0 --container-mounts" in text
    assert subprocess.run(["bash", "-n", str(tmp_path / "job.sbatch")], check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "Bert"}, 'name: "Bert" cannot be one; expected something like bert-base'),
        ({"name": "b" * 60}, "a host's name at most 63"),
        ({"image": "a b"}, 'image: "a b" cannot be one'),
        ({"image": "a\nb"}, "image: "),
        ({"memory": "lots"}, 'memory: "lots"'),
        ({"time": "tomorrow"}, 'time: "tomorrow"'),
        ({"partition": "a;b"}, 'partition: "a;b"'),
        ({"workers": 0}, "workers: expected at least 1, got 0"),
        ({"restarts": -1}, "restarts: expected at least 0"),
    ],
)
def test_values_that_no_cluster_takes(options, message):
    with pytest.raises(ValueError, match=message):
        deployment(**options)


def test_runs_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="64 examples are not the same number for each of 24 replicas"):
        render("slurm", config(), deployment(gpus=3), tmp_path / "none")
    with pytest.raises(ValueError, match="image: Kubernetes needs a container image"):
        render("kubernetes", config(), deployment(image=None), tmp_path / "none")
    with pytest.raises(ValueError, match='expected one of kubernetes, slurm, got "nomad"'):
        render("nomad", config(), deployment(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_run_without_checkpoints_is_warned_of(tmp_path, caplog):
    render("slurm", config(checkpoint_steps=None), deployment(), tmp_path)
    assert "checkpoint_steps is not set" in caplog.text


def test_the_command(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(config().to_yaml(), encoding="utf-8")
    arguments = ["launch", "--workers", "4", "--config", str(path), "--render", "kubernetes", "--image", "garden"]
    assert run_command([*arguments, "--to", str(tmp_path / "files"), "training.seed=7", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(tmp_path / "files" / name) for name in ("jobset.yaml", "config.yaml")]
    assert name_of(config()) == "bert-base"
    assert documents(tmp_path / "files")["JobSet"]["metadata"]["name"] == "bert-base"
    assert "seed: 7" in Path(files[1]).read_text()
    assert run_command([*arguments, "--to", str(tmp_path / "files"), "--name", "X"]) == 2
