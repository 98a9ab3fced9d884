"""A handful of small clips and a way to call the command."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from clips import moving_square, write_clip
from warm_command import Warm

from vidcomp.pipelines.cli import main

SMALL = ["--set", "encode.resize={mode: stretch, height: 56, width: 56}", "--budget", "20"]
"""Settings that make the embedded recipe quick."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Whatever machine this is, it is no task of a cluster's job."""
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Folder of five clips of 4 to 20 frames and several sizes."""
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(4, 64, 96), (20, 96, 64), (9, 64, 64), (12, 48, 80), (16, 90, 120)]
    for i, (count, height, width) in enumerate(sizes):
        write_clip(folder / f"clip{i}.mp4", moving_square(count, height, width, seed=i))
    return folder


@pytest.fixture(scope="session")
def many_clips(tmp_path_factory):
    """Folder of twelve small clips."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(12):
        write_clip(folder / f"{i:02}.mp4", moving_square(8 + i, seed=i))
    return folder


@pytest.fixture(scope="session")
def warm():
    """Starts the command in processes of its own that can be killed, interrupted or starved."""
    if sys.platform != "linux":
        pytest.skip("looks for processes in /proc")
    with Warm() as warm:
        yield warm


@pytest.fixture
def vidcomp():
    """Calls the command in this process; gives its code, out, err and json."""

    def call(*args, stdin=None):
        result = CliRunner().invoke(main, [str(a) for a in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        parsed = json.loads(result.stdout) if "--json" in args and result.stdout else None
        return SimpleNamespace(
            code=result.exit_code, out=result.stdout, err=result.stderr, json=parsed
        )

    return call


@pytest.fixture
def extract(vidcomp):
    """``extract(inputs..., out, *options)`` with quick settings and readers in this process."""

    def call(*args, isolation="thread"):
        return vidcomp("extract", *args, *SMALL, "--isolation", isolation, "-q")

    return call
