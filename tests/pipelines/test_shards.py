"""Parts of the inputs: together the whole, whoever says which is whose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.errors import ConfigError
from vidcomp.pipelines.extraction.shards import (
    Shard,
    choose_shard,
    parse_shard,
    shard_of_environment,
)


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 20))
def test_shards_together_are_the_whole_and_each_item_is_in_one(num_items, count, added):
    items = list(range(num_items))
    parts = [Shard(index=i, count=count).of(items) for i in range(count)]
    assert sorted(i for part in parts for i in part) == items
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    grown = list(range(num_items + added))
    for i, part in enumerate(parts):
        assert Shard(index=i, count=count).of(grown)[: len(part)] == part


@pytest.mark.parametrize("spec", ["2/2", "-1/2", "1", "a/b", "0/0", "1/2/3", "", "None"])
def test_a_wrong_shard_is_one_sentence(spec):
    with pytest.raises(ConfigError, match="a shard is i/n"):
        parse_shard(spec)


def step(index, count, **more):
    return {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(index),
        "SLURM_NTASKS": str(count),
        **more,
    }


def array(index, count, first=0, stride=1):
    return {
        "SLURM_ARRAY_TASK_ID": str(first + index * stride),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_MAX": str(first + (count - 1) * stride),
        "SLURM_ARRAY_TASK_STEP": str(stride),
    }


def torchrun(index, count):
    return {"RANK": str(index), "WORLD_SIZE": str(count)}


def told(environ):
    shard = shard_of_environment(environ)
    return None if shard is None else (shard.index, shard.count)


def test_the_environment_tells_the_part():
    assert told({}) is None
    assert told({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}) == (1, 4)
    assert told(step(3, 4)) == (3, 4)
    assert told(torchrun(2, 8)) == (2, 8)
    assert told(array(1, 4)) == (1, 4)
    assert told(array(1, 4, first=10, stride=5)) == (1, 4)
    assert shard_of_environment(torchrun(2, 8)).origin == "RANK and WORLD_SIZE"


def test_ranks_are_of_the_step_and_torchrun_counts_within_its_agents():
    assert told(step(1, 8, SLURM_STEP_NUM_TASKS="2")) == (1, 2)
    assert told(step(1, 2) | torchrun(5, 8)) == (5, 8)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 9), st.integers(1, 3))
def test_tasks_of_an_array_with_several_ranks_have_parts_of_their_own(tasks, ranks, first, stride):
    parts = [
        told(array(task, tasks, first, stride) | step(rank, ranks)) or (0, 1)
        for task in range(tasks)
        for rank in range(ranks)
    ]
    assert parts == [(i, tasks * ranks) for i in range(tasks * ranks)]


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # the batch script itself
        step(0, 4, SLURM_STEP_ID="4294967291"),
        step(0, 4, SLURM_STEP_ID="interactive"),
        {"SLURM_NTASKS": "4"},  # a shell of salloc
        {"WORLD_SIZE": "4"},
        step(0, 1),
        array(0, 1),
        {"SLURM_PROCID": "", "SLURM_NTASKS": ""},
    ],
)
def test_one_process_alone_does_all(environ):
    assert shard_of_environment(environ) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (torchrun("x", 4), "RANK should be a whole number, got 'x'"),
        (torchrun(4, 4), "part 4 of 4"),
        (array(0, 2) | {"SLURM_ARRAY_TASK_MAX": "6"}, "do not tell which part"),
        (array(0, 2) | {"SLURM_ARRAY_TASK_STEP": "0"}, "do not tell which part"),
    ],
)
def test_variables_without_sense_are_one_sentence(environ, message):
    with pytest.raises(ConfigError, match=message) as caught:
        shard_of_environment(environ)
    assert "--shard none" in str(caught.value)


def test_the_command_comes_before_the_environment():
    environ = torchrun(1, 2)
    assert str(choose_shard(None, environ)) == "1/2"
    assert str(choose_shard("0/3", environ)) == "0/3"
    assert choose_shard("none", environ) is None
    assert choose_shard("0/1", environ) is None
