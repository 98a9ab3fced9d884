"""Tiny models are written once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tiny_models import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """``tiny("clip")`` is the folder of that tiny model, ``"vlm/qwen3_vl"`` of a video
    language model; nobody may write to it."""

    @cache
    def folder(name: str) -> str:
        if name.startswith("vlm/"):
            from llm.tiny_folders import save_folder

            name = name.removeprefix("vlm/")
            return str(save_folder(name, tmp_path_factory.mktemp("vlms") / name))
        return str(save_tiny(name, tmp_path_factory.mktemp("models") / name))

    return folder


@pytest.fixture
def own_copy(tmp_path: Path) -> Callable[[str], Path]:
    """A tiny model to spoil."""
    return lambda name: save_tiny(name, tmp_path / name)
