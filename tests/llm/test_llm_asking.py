"""One call from files and questions to answers, and tokens that a cache keeps for it."""

from dataclasses import replace

import pytest
import torch
from clips import moving_square, write_clip
from llm.tiny_folders import save_folder

import vidcomp as vc
from vidcomp.errors import BudgetError, ConfigError, DecodeError, StoreMissError
from vidcomp.llm.cached import fitting, identity_of, narrowed, recipe_of
from vidcomp.llm.plan import Plan
from vidcomp.llm.queries import bound
from vidcomp.llm.towers import WordRows
from vidcomp.store import CacheWriter, open_cache

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own classes
SHORT = {"max_new_tokens": 5}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return write_clip(folder / "square.mp4", moving_square(24, 90, 120), fps=10)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made = {}

    def load(name):
        if name not in made:
            made[name] = vc.VideoLLM.load(save_folder(name, tmp_path_factory.mktemp(name) / "m"))
        return made[name]

    return load


def test_one_call_is_load_encode_ask(models, file):
    model = models("qwen3_vl")
    answer = vc.ask(file, "what happens?", model=model.name, budget=64, **SHORT)
    video = model.encode(file, compressor=vc.compressor("partition"), budget=64)
    expected = model.ask("what happens?", [video], do_sample=False, **SHORT)
    assert str(answer) == answer.text == expected.text
    assert (answer.num_video, answer.num_prompt) == (64, expected.num_prompt)
    assert vc.ask(video, "what happens?", model=model, budget=None, **SHORT).text == answer.text


def test_several_questions_and_videos(models, file):
    model = models("qwen3_vl")
    said = vc.ask(file, ["why?", "what happens?"], model=model, budget="10%", **SHORT)
    alone = [vc.ask(file, q, model=model, budget="10%", **SHORT) for q in ("why?", "what happens?")]
    assert [one.text for one in said] == [one.text for one in alone]
    both = vc.ask([file, file], "same?", model=model, budget=20, method="uniform", **SHORT)
    assert both.num_video == 40
    halves = [vc.Clip(path=file, end_s=1.2), vc.Clip(path=file, start_s=1.2)]
    assert vc.ask(halves, "same?", model=model, budget=20, **SHORT).num_video == 40


def test_ranges_are_of_the_file(models, file):
    model = models("qwen3_vl")
    part = vc.ask(file, "?", model=model, budget=None, start_s=1, end_s=2, **SHORT)
    clip = model.encode(vc.Clip(path=file, start_s=1, end_s=2))
    assert part.num_video == len(clip)
    assert clip.spans[:, 0].min() >= 0.9
    with pytest.raises(ConfigError, match="start_s and end_s cut files"):
        vc.ask(clip, "?", model=model, start_s=1)


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llava"])
def test_questions_choose_their_own_tokens(name, models, file):
    model = models(name)
    dense = model.encode(file)
    fixed = model.prompt("?", [dense]).visuals[0].num_structural
    budget, questions = fixed + 6, ["what moves?", "why?"]
    said = vc.ask(file, questions, model=model, budget=budget, method="cdpruner", **SHORT)
    words = WordRows(model.adapter.model, model.text.tokenizer)
    chosen = [bound(vc.compressor("cdpruner"), text, words)(dense, 6) for text in questions]
    assert not torch.equal(chosen[0].assign, chosen[1].assign)
    for text, video, answer in zip(questions, chosen, said, strict=True):
        alone = model.ask(text, [video], do_sample=False, **SHORT)
        assert (answer.text, answer.num_video) == (alone.text, budget)
    again = vc.ask(dense, questions, model=model, budget=budget, method="cdpruner", **SHORT)
    assert [one.text for one in again] == [one.text for one in said]


def test_what_cannot_be_is_told_in_a_sentence(models, file, tmp_path):
    model = models("qwen3_vl")
    with pytest.raises(ConfigError, match="needs a method"):
        vc.ask(file, "?", model=model, method=None)
    with pytest.raises(ConfigError, match="no compressor is called"):
        vc.ask(file, "?", model=model, method="partitoin")
    with pytest.raises(ConfigError, match="an empty one"):
        vc.ask(file, " ", model=model)
    with pytest.raises(ConfigError, match="an empty list"):
        vc.ask([], "?", model=model)
    with pytest.raises(DecodeError, match="there is no file"):
        vc.ask(tmp_path / "no.mp4", "?", model=model)
    with pytest.raises(ConfigError, match="no folder"):
        vc.ask(file, "?", model=tmp_path / "no")
    with pytest.raises(BudgetError, match="an answer that is shorter"):
        vc.ask(file, "?", model=model, max_new_tokens=4096)
    with pytest.raises(BudgetError, match="more than 0"):
        vc.ask(file, "?", model=model, budget=0)


def test_nothing_is_decoded_that_cannot_fit(models, file, monkeypatch):
    model = models("qwen3_vl")
    monkeypatch.setattr(type(model), "encode", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(BudgetError, match="prompt and the answer"):
        vc.ask(file, "?", model=model, max_new_tokens=5000)
    make = Plan.check
    monkeypatch.setattr(Plan, "check", lambda self: make(replace(self, free_bytes=10)))
    with pytest.raises(BudgetError, match="are free"):
        vc.ask(file, "?", model=model, budget=8)


def kept(model, file, folder, method="partition", budget=64, **settings):
    """A cache with that file as ``ask`` writes it."""
    parsed = vc.Budget.parse(budget) if budget else None
    compressor = vc.compressor(method) if budget else None
    recipe = recipe_of(model, model.request(vc.Clip(path=file)).sampler, compressor, parsed)
    video = model.encode(file, compressor=compressor, budget=parsed)
    store = recipe.store.model_copy(update=settings)
    weights = {"encode": model.weights_hash}
    with CacheWriter(
        folder, identity=identity_of(model, recipe), weights=weights, settings=store
    ) as writer:
        writer.add("v", video)
    return video


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llava", "llava_onevision", "glm4v"])
@pytest.mark.parametrize("budget", [None, 30])
def test_cached_tokens_answer_as_fresh_ones(name, budget, models, file, tmp_path):
    model = models(name)
    video = kept(model, file, tmp_path / "c", budget=budget)
    found = fitting(model, open_cache(tmp_path / "c"), "v")
    assert torch.equal(found.tokens, video.tokens)
    assert torch.equal(found.assign, video.assign)
    assert set(found.extras) == set(video.extras)
    assert set(found.frame_extras) == set(video.frame_extras)
    again, fresh = (model.ask("?", [v], do_sample=False, **SHORT) for v in (found, video))
    assert (again.text, again.num_prompt) == (fresh.text, fresh.num_prompt)


@pytest.mark.parametrize("name", ["qwen3_vl", "video_llava", "llava_onevision"])
def test_a_superset_is_narrowed_to_slots(name, models, file, tmp_path):
    model = models(name)
    kept(model, file, tmp_path / "c", budget=60)
    found = fitting(model, open_cache(tmp_path / "c"), "v")
    small = narrowed(model, found, vc.compressor("uniform"), vc.Budget(tokens=40))
    fixed = model.plan(found).num_video - len(found)
    assert len(small) == 40 - fixed
    assert model.ask("?", [small], **SHORT).num_video == 40
    assert narrowed(model, found, vc.compressor("uniform"), vc.Budget(tokens=60)) is found
    assert narrowed(model, found, None, None) is found


def test_tokens_that_do_not_fit_are_refused(models, file, tmp_path):
    model, other = models("qwen3_vl"), models("qwen2_vl")
    kept(model, file, tmp_path / "c")
    cache = open_cache(tmp_path / "c")
    with pytest.raises(StoreMissError, match="no record 'w'"):
        fitting(model, cache, "w")
    with pytest.raises(ConfigError, match="other weights or preprocessor files than"):
        fitting(other, cache, "v")
    kept(model, file, tmp_path / "bare", extras=(), frame_extras=(), assign=False)
    with pytest.raises(ConfigError, match=r"without provenance, deepstack.0, deepstack.1, pts_s"):
        fitting(model, open_cache(tmp_path / "bare"), "v")
    recipe = vc.load_recipe("embedded")
    with CacheWriter(tmp_path / "dct", identity=recipe.dump()) as writer:
        writer.add("v", vc.compress(file, budget=8))
    with pytest.raises(ConfigError, match="tokens of the encoder 'dct'"):
        fitting(model, open_cache(tmp_path / "dct"), "v")


def test_what_extract_makes_is_what_ask_makes(models, file, tmp_path):
    """The recipe in a cache of ``ask`` is one that ``vc.compress`` runs to the same tokens."""
    model = models("qwen3_vl")
    sampler = model.request(vc.Clip(path=file)).sampler
    recipe = recipe_of(model, sampler, vc.compressor("partition"), vc.Budget(tokens=64))
    video = model.encode(file, compressor=vc.compressor("partition"), budget=64)
    found = vc.compress(file, recipe=recipe)
    assert torch.equal(found.assign, video.assign)
    torch.testing.assert_close(found.tokens, video.tokens, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(
        found.extras["deepstack.1"], video.extras["deepstack.1"], atol=2e-5, rtol=1e-4
    )
