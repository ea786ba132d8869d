"""Clusters as environments describe them, and the one line that each mistake gets."""

import json
import socket

import pytest

from training.cluster import Cluster, expand_hosts, expand_tasks, host_and_port, resolve

PAIR = ["a:1", "b:2"]


def tf_config(cluster, task) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def refused(environment, match):
    with pytest.raises(ValueError, match=match) as error:
        resolve(environment)
    assert "\n" not in str(error.value)


def test_tf_config():
    cluster = resolve(tf_config({"worker": PAIR}, {"type": "worker", "index": 1}))
    assert (cluster.addresses, cluster.index, cluster.address) == (("a:1", "b:2"), 1, "b:2")
    assert cluster.name(0) == "worker 0 (a:1)"
    assert resolve({"TF_CONFIG": cluster.to_tf_config()}) == cluster


@pytest.mark.parametrize(("task", "index"), [({"type": "chief", "index": 0}, 0), ({"type": "worker", "index": 1}, 2)])
def test_a_chief_is_the_first(task, index):
    jobs = {"chief": ["c:1"], "worker": PAIR}
    cluster = resolve(tf_config(jobs, task))
    assert (cluster.addresses, cluster.index) == (("c:1", "a:1", "b:2"), index)
    assert json.loads(cluster.to_tf_config()) == {"cluster": jobs, "task": task}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("no JSON", r"^TF_CONFIG is not JSON .*expected \{"),
        ("[1]", "expected a cluster and a task"),
        ("{}", '"cluster" is missing'),
        ('{"cluster": {}, "task": {"type": "worker", "index": 0}}', '"cluster" is {}'),
        ('{"cluster": {"worker": ["a:1"]}}', '"task" is missing'),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', 'the task has no "index"'),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "x"}}', 'index is "x"'),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "is worker 1, and the cluster has 1",
        ),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}', "is worker -1"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
            "is chief 0, and the cluster has 0",
        ),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "several .* address a:1"),
        ('{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}', '"a" is not an address'),
        ('{"cluster": {"worker": ["a:99999"]}, "task": {"type": "worker", "index": 0}}', '"a:99999" is not an address'),
        ('{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}', "expected a list of addresses"),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
            'no "ps" tasks here',
        ),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}', 'no "evaluator" tasks here'),
        ('{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}', "one chief at most, got 2"),
    ],
)
def test_a_tf_config_that_is_none(text, match):
    refused({"TF_CONFIG": text}, match)


def test_no_cluster():
    refused({}, "no cluster in the environment; start the workers with garden launch")


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("login", ["login"]),
        ("node[01-03,7]", ["node01", "node02", "node03", "node7"]),
        ("a[08-10].x,b", ["a08.x", "a09.x", "a10.x", "b"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
    ],
)
def test_lists_of_nodes(nodes, hosts):
    assert expand_hosts(nodes) == hosts


@pytest.mark.parametrize("nodes", ["n[", "n[1-", "n[a]", "]", "n[3-1]", "n[]"])
def test_lists_of_nodes_that_are_none(nodes):
    with pytest.raises(ValueError, match="is not a list of nodes, such as"):
        expand_hosts(nodes)


def test_slurm():
    given = {"SLURM_PROCID": "3", "SLURM_NTASKS": "5", "SLURM_JOB_NODELIST": "n[08-10]", "GARDEN_PORT": "7000"}
    given |= {"SLURM_STEP_TASKS_PER_NODE": "2(x2),1", "SLURM_NODEID": "1"}
    cluster = resolve(given)
    assert cluster.addresses == ("n08:7000", "n08:7001", "n09:7000", "n09:7001", "n10:7000")
    assert (cluster.index, cluster.kind) == (3, "Slurm")
    assert resolve({**given, "SLURM_STEP_NODELIST": "x[1-3]"}).address == "x2:7001", "a step may have some of the nodes"
    assert expand_tasks("2(x3),1") == [2, 2, 2, 1]
    refused({**given, "SLURM_NODEID": "2"}, "task 3 is on node 2, not 1; use srun --distribution=block")
    refused({**given, "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}, "on 3 nodes")
    refused({**given, "SLURM_STEP_TASKS_PER_NODE": "2x"}, '"2x" is not a number of tasks by node')
    refused({**given, "GARDEN_PORT": "x"}, 'GARDEN_PORT is "x"')
    refused({**given, "GARDEN_PORT": "70000"}, "a port of 1 to 65535, got 70000")
    refused({**given, "SLURM_JOB_NODELIST": ""}, "start the workers with srun")
    refused({"SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "a"}, "SLURM_NTASKS is not set")


def test_kubernetes():
    given = {"GARDEN_WORKERS": "2", "JOB_COMPLETION_INDEX": "1", "JOBSET_NAME": "bert", "REPLICATED_JOB_NAME": "w"}
    assert resolve(given).addresses == ("bert-w-0-0.bert:2222", "bert-w-0-1.bert:2222")
    assert resolve(given).index == 1
    job = {"GARDEN_WORKERS": "2", "JOB_COMPLETION_INDEX": "0", "GARDEN_HOSTS": "p-{index}.p", "GARDEN_PORT": "9"}
    assert resolve(job).addresses == ("p-0.p:9", "p-1.p:9")
    assert resolve({"GARDEN_HOSTS": "x, y:5", "GARDEN_INDEX": "1"}).addresses == ("x:2222", "y:5")
    refused({**given, "JOB_COMPLETION_INDEX": "2"}, "this is worker 2, and the cluster has 2")
    refused({"GARDEN_WORKERS": "2", "JOB_COMPLETION_INDEX": "1"}, "neither JOBSET_NAME nor GARDEN_HOSTS")
    refused({"GARDEN_WORKERS": "2", "JOBSET_NAME": "bert"}, "JOB_COMPLETION_INDEX .* is not set")
    refused({**given, "GARDEN_WORKERS": "two"}, 'GARDEN_WORKERS is "two"')


def test_addresses():
    assert host_and_port("[::1]:80") == ("::1", 80)
    assert host_and_port("a-b.c:65535") == ("a-b.c", 65535)
    for address in ("a", "a:", ":1", "a:0", "a b:1", "::1:80", "http://a:1"):
        with pytest.raises(ValueError, match="is not an address"):
            host_and_port(address)


def test_a_port_that_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        cluster = Cluster(addresses=(f"127.0.0.1:{port}",), index=0, kind="TF_CONFIG")
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1:{port}, this process's own, cannot be used"):
            cluster.check_port()
    cluster.check_port()
