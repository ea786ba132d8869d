"""The counting that predicts what steps take on many devices."""

import pytest

from benchmarks.cost_model import A100, BERT_LARGE, TPU_V4, local_step_seconds, ring_seconds, step_seconds

KNOWN = {"fixed": 0.01, "a_row": 0.03, "work": 0.1, "wait": 0.02}


def test_one_worker_sends_nothing():
    assert local_step_seconds(24, 1, 2, **KNOWN) == pytest.approx(0.01 + 24 * 0.03)


def test_workers_with_cores_of_their_own_wait_for_each_other():
    assert local_step_seconds(24, 2, 2, **KNOWN) == pytest.approx(0.01 + 12 * 0.03 + 0.1 + 0.02)


def test_workers_that_share_a_core_take_turns():
    alone = 0.01 + 6 * 0.03 + 0.1 * 2 * 3 / 4
    assert local_step_seconds(24, 4, 2, **KNOWN) == pytest.approx(2 * alone)


def test_a_ring_sends_nearly_twice_the_bytes():
    assert ring_seconds(1e9, 64, 1e9, 0) == pytest.approx(2 * 63 / 64)


@pytest.mark.parametrize("machine", [A100, TPU_V4])
def test_more_devices_take_longer_steps_and_do_more(machine):
    steps = [sum(step_seconds(BERT_LARGE, machine, tokens=8192, devices=count).values()) for count in (1, 8, 64, 512)]
    assert steps == sorted(steps)
    speeds = [count / seconds for count, seconds in zip((1, 8, 64, 512), steps, strict=True)]
    assert speeds == sorted(speeds)
