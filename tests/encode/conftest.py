"""Tiny models are written once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tiny_models import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``tiny("clip")`` is the folder of that tiny model; nobody may write to it."""

    @cache
    def folder(name: str) -> str:
        return str(save_tiny(name, tmp_path_factory.mktemp("models") / name))

    return folder


@pytest.fixture
def own_copy(tmp_path: Path) -> Callable[[str], Path]:
    """A tiny model to spoil."""
    return lambda name: save_tiny(name, tmp_path / name)
