"""Pieces of vLLM and SGLang that need no GPU, out of their packages or wheels.

The packages themselves take gigabytes, so nothing of them is imported: single files and functions
are compiled by themselves.
"""

import ast
import importlib.util
import os
import textwrap
import types
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

_QWEN = "sglang/srt/multimodal/processors/qwen_vl.py"
_BASE = "sglang/srt/multimodal/processors/base_processor.py"


def source(package: str, path: str) -> str:
    """The text of a file; the test is skipped where the package is not to be found."""
    spec = importlib.util.find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        return (Path(spec.submodule_search_locations[0]).parent / path).read_text()
    folder = os.environ.get("VIDCOMP_WHEELS")
    wheels = sorted(Path(folder).glob(f"{package}-*.whl")) if folder else []
    if not wheels:
        pytest.skip(f"{package} is neither installed nor a wheel in VIDCOMP_WHEELS")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        return wheel.read(path).decode()


def module(package: str, path: str) -> Any:
    """A file that imports nothing of its package."""
    made = types.ModuleType(path)
    exec(compile(source(package, path), path, "exec"), made.__dict__)
    return made


def embedding_fields() -> dict[str, set[str]]:
    """Fields of a video that vLLM's parsers ask for, by their class."""
    found: dict[str, Any] = {}
    for path in ("qwen2_vl", "qwen3_vl"):
        tree = ast.parse(source("vllm", f"vllm/model_executor/models/{path}.py"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("MultiModalDataParser"):
                found[node.name] = types.SimpleNamespace()
                for line in node.body:
                    if isinstance(line, ast.Assign) and line.targets[0].id == "embedding_fields":
                        value = eval(compile(ast.Expression(line.value), path, "eval"), dict(found))
                        found[node.name].embedding_fields = value
    return {name: set(one.embedding_fields["video"]) for name, one in found.items()}


def _function(path: str, name: str, **scope: Any) -> Any:
    """A method of a processor, as a function."""
    text = source("sglang", path)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            node.decorator_list = []
            node.returns = None
            for argument in node.args.args:
                argument.annotation = None
            exec(textwrap.dedent(ast.unparse(node)), scope)
            return scope[name]
    pytest.fail(f"{path} has no {name}")


@dataclass
class Item:
    """What SGLang keeps of a video."""

    modality: Any
    offsets: Any = None
    data: dict[str, Any] = field(default_factory=dict)

    def set(self, name: str, value: Any) -> None:
        self.data[name] = value

    def __getattr__(self, name: str) -> Any:
        return self.data[name]


def sglang_readers() -> Any:
    """SGLang's own functions: items of a dict, runs of placeholders, positions."""

    class Modality(str):
        @staticmethod
        def from_str(name: str) -> str:
            return name

    scope = {"torch": torch, "MultimodalDataItem": Item, "Modality": Modality, "dict": dict}
    collect = _function(
        _BASE, "collect_mm_items_from_processor_output", **scope, List=list, Optional=Any
    )
    value = _function(_QWEN, "_get_processor_output_value")
    mrope = _function(_QWEN, "_get_precomputed_mrope_from_output", torch=torch)
    offsets = _function(_BASE, "get_mm_items_offset", torch=torch)
    names = types.SimpleNamespace(
        ATTR_NAME_TO_MODALITY={}, FEATURE_NAMES=[], _get_processor_output_value=value
    )
    return types.SimpleNamespace(
        items=lambda data: collect(names, data),
        mrope=lambda data: mrope(names, data),
        offsets=offsets,
    )
