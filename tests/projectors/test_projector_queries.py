"""What projectors are asked by: one question a video, bound ones, and what a recipe refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from projector_cases import CASES, DIM_IN, DIM_OUT, dense, pruned, question
from tiny_models import save_tiny

from vidcomp.api import prepare
from vidcomp.config import Recipe, identity, load_recipe
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.pipelines.extraction.extract import extract
from vidcomp.pipelines.inputs import Item
from vidcomp.pipelines.recompress import recompress
from vidcomp.projectors.base import Projector
from vidcomp.registry import PROJECTORS
from vidcomp.store import CacheWriter
from vidcomp.types import Grid, QueryFeatures, QueryIds, TokenBatch

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
ASKING = sorted(case for case, (name, _) in CASES.items() if PROJECTORS[name].asks)


def unbound(case: str) -> Projector:
    name, own = CASES[case]
    built: Projector = PROJECTORS.make(name, dim_in=DIM_IN, dim_out=DIM_OUT, **own).build()
    return built


@pytest.mark.parametrize("case", ASKING)
def test_questions_of_every_length_are_answered_side_by_side(case: str) -> None:
    projector = unbound(case)
    some = [dense(Grid(t, 2, 4), t) for t in (3, 1, 2)]
    if "grid" not in case:
        some[1] = pruned(Grid(2, 3, 3), 4)
    asked = [question(case, length, seed) for length, seed in ((1, 1), (5, 2), (2, 3))]
    together = projector.many(TokenBatch.pack(some), queries=asked)
    for video, query, out in zip(some, asked, together, strict=True):
        alone = projector(video, query=query)
        torch.testing.assert_close(out.tokens, alone.tokens, **CLOSE)
        torch.testing.assert_close(out.positions, alone.positions, **CLOSE)


@pytest.mark.parametrize("case", ASKING)
def test_the_answer_depends_on_the_question(case: str) -> None:
    projector, video = unbound(case), dense(Grid(2, 2, 4))
    first, second = (projector(video, query=question(case, 4, seed)).tokens for seed in (1, 2))
    assert float((first - second).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("case", ASKING)
def test_a_bound_projector_asks_where_a_call_does_not(case: str) -> None:
    projector, video = unbound(case), dense(Grid(2, 2, 4))
    one, other = question(case, 3, 1), question(case, 4, 2)
    bound = projector.bind(one)
    assert projector.lacks_query
    assert not bound.lacks_query
    assert torch.equal(bound(video).tokens, projector(video, query=one).tokens)
    assert torch.equal(bound(video, query=other).tokens, projector(video, query=other).tokens)
    assert next(bound.parameters()) is next(projector.parameters())
    with pytest.raises(ConfigError, match=r"reads a Query\w+, got none: pass query=, or bind one"):
        projector(video)


def test_a_query_of_another_kind_is_refused() -> None:
    ids, features = QueryIds(ids=torch.tensor([1])), QueryFeatures(embedding=torch.ones(1, 7))
    with pytest.raises(ConfigError, match="reads a QueryIds, got QueryFeatures"):
        unbound("instruct_qformer").bind(features)
    with pytest.raises(ConfigError, match="reads no query, got QueryIds"):
        unbound("perceiver").bind(ids)
    with pytest.raises(ConfigError, match="reads a QueryFeatures, got QueryIds"):
        unbound("llama_vid")(dense(Grid(1, 2, 2)), query=ids)


@pytest.mark.parametrize("case", ASKING)
def test_the_video_without_a_question_is_named(case: str) -> None:
    batch = TokenBatch.pack([dense(Grid(t, 2, 4), t) for t in (3, 1, 2)])
    asked = [question(case), None, question(case, 2)]
    with pytest.raises(ConfigError, match=r"got none for video 2 of 3: pass query="):
        unbound(case)(batch, query=asked)
    with pytest.raises(ConfigError, match="got str: pass query=, or bind one"):
        unbound(case)(batch[0], query="what happens?")
    with pytest.raises(ConfigError, match="got str for video 1 of 3"):
        unbound(case)(batch, query="what happens?")
    first = question(case, 2, 5)
    out = unbound(case).bind(first)(batch, query=asked)  # None: what it was bound to
    alone = unbound(case)(batch[1], query=first)
    torch.testing.assert_close(out[1].tokens, alone.tokens, **CLOSE)


@pytest.mark.parametrize("case", ["instruct_qformer", "llama_vid", "qformer", "window_qformer"])
def test_what_is_no_video_is_named(case: str) -> None:
    video = dense(Grid(1, 2, 4))
    for wrong, kind in ((video.tokens, "Tensor"), ([video], "list"), (None, "NoneType")):
        with pytest.raises(ShapeError, match=f"VideoTokens or a TokenBatch, got {kind}"):
            unbound(case)(wrong)


def test_a_query_is_made_of_tensors() -> None:
    with pytest.raises(ShapeError, match="must be a tensor, got list: convert it"):
        QueryIds(ids=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="must be a tensor, got str"):
        QueryFeatures(embedding="what happens?")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (torch.zeros(6, dtype=torch.int64), "may have 5 token ids, got 6"),
        (torch.tensor([0, 9]), r"in 0..8, got 0 to 9"),
        (torch.tensor([-1, 3]), r"in 0..8, got -1 to 3"),
    ],
)
def test_ids_that_the_tables_do_not_have_are_named(ids: torch.Tensor, problem: str) -> None:
    with pytest.raises(ShapeError, match=problem):
        unbound("instruct_qformer")(dense(Grid(1, 2, 2)), query=QueryIds(ids=ids))


def test_features_of_another_text_encoder_are_named() -> None:
    with pytest.raises(ShapeError, match="dim_text=7 features, got 5"):
        unbound("llama_vid")(dense(Grid(1, 2, 2)), query=QueryFeatures(embedding=torch.ones(2, 5)))


def test_settings_tell_what_a_call_needs_before_anything_is_built() -> None:
    sizes = {"dim_in": 8, "dim_out": 8}
    two = {**sizes, "encoders": (("a", 8), ("b", 4))}
    assert PROJECTORS.make("perceiver", **sizes).needs == ""
    assert PROJECTORS.make("llama_vid", **sizes).needs == "a question"
    assert PROJECTORS.make("meq_former", **two).needs == "a question and the tokens of 2 encoders"
    PROJECTORS.make("perceiver", **sizes).check_needs()
    with pytest.raises(ConfigError, match="needs a question, which belongs to no recipe"):
        PROJECTORS.make("llama_vid", **sizes).check_needs()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Tiny, with a projector that reads a question."""
    folder: Path = tmp_path_factory.mktemp("siglip")
    save_tiny("siglip", folder)
    loaded = load_recipe("perceiver-64", [f"encode.model={folder}", "project.dim_in=32"])
    project: dict[str, Any] = {"name": "llama_vid", "dim_in": 32, "dim_out": 24, "dim_text": 7}
    return Recipe.parse({**loaded.dump(), "project": project})


def test_extract_refuses_a_projector_that_reads_a_question(recipe: Recipe, tmp_path: Path) -> None:
    item = Item(key="a", path=str(tmp_path / "a.mp4"))
    with pytest.raises(ConfigError, match="projector 'llama_vid' of this recipe needs a question"):
        extract([item], tmp_path / "cache", recipe)


def test_a_prepared_recipe_is_refused_unless_its_projector_is_bound(recipe: Recipe) -> None:
    prepared = prepare(recipe)
    with pytest.raises(ConfigError, match="needs a question"):
        prepared.check_query()
    assert prepared.projector is not None
    asked = prepared.projector.bind(QueryFeatures(embedding=torch.ones(2, 7)))
    bound = replace(prepared, projector=asked)
    bound.check_query()
    assert len(bound.reduce(dense(Grid(3, 2, 2), dim=32), 3, 3.0)) == 6


def test_recompress_refuses_such_a_recipe_too(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    plain = recipe.model_copy(update={"project": None})
    source = tmp_path / "source"
    with CacheWriter(source, identity=identity(plain), weights={}, settings=plain.store):
        pass
    with pytest.raises(ConfigError, match="needs a question"):
        recompress(source, tmp_path / "out", recipe=str(file))
