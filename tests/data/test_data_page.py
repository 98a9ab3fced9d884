"""The page on data: its code runs, and every argument of the loader is explained."""

import inspect
import re
from pathlib import Path

import pytest
from store_builders import tiny, write

from vidcomp.data import TokenBatchSampler, TokenLoader

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
VIDEOS = {f"clip{i:02d}.mp4": tiny(1 + i * 37 % 200, 8, i, assign=None) for i in range(17)}


def run(blocks):
    scope = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, "docs/data.md", "exec"), scope)
    return scope


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("cache", VIDEOS)
    return tmp_path


def test_the_code_runs(place):
    blocks = [block for block in BLOCKS if "torchdata" not in block and "s3://" not in block]
    assert len(blocks) == 6
    scope = run(blocks)
    assert set(scope["seen"]) | set(scope["rest"]) == set(VIDEOS)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")
def test_the_code_with_torchdata_runs(place):
    pytest.importorskip("torchdata.stateful_dataloader")
    run([block for block in BLOCKS if "s3://" not in block])


def test_the_code_with_an_object_store_runs(place):
    fsspec = pytest.importorskip("fsspec")
    (block,) = [block for block in BLOCKS if "s3://" in block]
    fsspec.filesystem("memory").put("cache", "/bucket/cache", recursive=True)
    try:
        run([BLOCKS[0], block.replace("s3://", "memory://")])
    finally:
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_loader_and_sampler_take_the_same_arguments():
    loader, sampler = (
        inspect.signature(made).parameters for made in (TokenLoader, TokenBatchSampler)
    )
    shared = [name for name in loader if name in sampler]
    assert shared == [name for name in sampler if name != "dataset"]
    assert all(loader[name].default == sampler[name].default for name in shared)
    for made, names in ((TokenLoader, loader), (TokenBatchSampler, sampler)):
        assert [
            name
            for name in names
            if f"\n    {name}: " not in inspect.cleandoc(made.__doc__)
            and f"\n        {name}: " not in made.__doc__
        ] == []
    told = set(re.findall(r"`(\w+)[`=]", PAGE))
    assert set(loader) - told - {"source", "shuffle", "rank", "world_size", "seed"} == set()
