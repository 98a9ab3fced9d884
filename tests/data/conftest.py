"""A store of the thirteen videos, which no test may change, and threads that must end."""

import pytest
from data_cases import KEYS, VIDEOS, readers, sampled, wait_for
from store_builders import write


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cache"), VIDEOS)


@pytest.fixture(scope="session")
def epochs(cache):
    """Keys of each batch of the first three epochs of ``sampled`` loaders."""
    sampler = sampled(cache).batch_sampler
    return [[tuple(KEYS[i] for i in batch) for batch in sampler] for _ in range(3)]


@pytest.fixture
def no_thread_is_left():
    yield
    wait_for(lambda: readers() == [])
