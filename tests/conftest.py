"""Fixtures that every test may use."""

import os
import tempfile
from pathlib import Path

# Tests are small: threads would wait for each other more than they compute, all the more if the
# cores are busy otherwise.  Before torch is imported; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

_MATERIAL = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    """Write a VP8 clip before anything imports decord.

    Decord shows its older libvpx to the whole process, and PyAV's encoders bind to it unless they
    have been used before.
    """
    from clips import moving_square, write_clip

    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder) / "first.webm", moving_square(2, 32, 32), codec="libvpx")


@pytest.fixture(scope="session")
def videos() -> Path:
    """Folder of real and awkward clips; tests that need it skip without it."""
    folder = _MATERIAL / "videos"
    if not folder.is_dir():
        pytest.skip("the folder of real clips is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of recorded reference outputs; tests that need it skip without it."""
    folder = _MATERIAL / "golden"
    if not folder.is_dir():
        pytest.skip("the folder of reference outputs is not beside this checkout")
    return folder
