"""Questions in the space of tokens: towers, stages bound by text, narrowed supersets, frames."""

import itertools

import numpy as np
import pytest
import torch
from clips import write_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from llm.tiny_plain import clip, letters, plain_model
from llm.tiny_towers import COLOURS, GREY, SIDE, fresh, pixels_of, save_tower, trained

from vidcomp import Pipeline, Stage, compressor, encoder, projector, read_frames, sampler
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.llm.queries import (
    bound,
    choose_frames,
    narrow,
    query_for,
    query_ids,
    text_features,
    word_features,
)
from vidcomp.llm.towers import JOINT, TextTower, WordRows
from vidcomp.types import Frames, Grid, QueryFeatures, QueryIds, VideoTokens

KINDS = ("clip", "siglip")
every_kind = pytest.mark.parametrize("kind", KINDS)
ASKING = {
    "cdpruner": {"embedding": JOINT, "relevance": "similar"},
    "partition": {"embedding": JOINT, "weight": "query", "sharpness": 6.0},
    "longvu_query": {"frame_features": JOINT, "frame_threshold": 2.0},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_tower(trained(kind), tmp_path_factory.mktemp(kind)) for kind in KINDS}


def dense(rows, t=6):
    start = torch.arange(t) / 1.0
    return VideoTokens.from_grid(rows, Grid(t, 2, 2), torch.stack([start, start + 1], dim=1))


def noise(dim=24, t=6, seed=0):
    return torch.randn(t * 4, dim, generator=torch.Generator().manual_seed(seed))


@every_kind
def test_texts_are_what_the_model_makes_of_them(kind):
    tower = TextTower(fresh(kind), letters(None))
    found = text_features(tower, ["a cat", "two dogs"]).embedding
    made = letters(None)(
        ["a cat", "two dogs"],
        padding=True if kind == "clip" else "max_length",
        max_length=None if kind == "clip" else 16,
        return_tensors="pt",
    )
    inputs = {"input_ids": made["input_ids"]}
    if kind == "clip":
        inputs["attention_mask"] = made["attention_mask"]
    with torch.no_grad():
        expected = fresh(kind).get_text_features(**inputs).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.shape == (2, tower.dim)
    words = word_features(tower, "a cat").embedding
    assert words.shape == (5, tower.dim)
    assert (words[0] - words[3]).abs().max() > 1e-3  # the two a's stand in other places


@every_kind
@settings(deadline=None, max_examples=20)
@given(text=st.text("abc  ", min_size=1, max_size=60).filter(str.strip))
def test_no_word_of_a_long_text_is_lost(kind, text):
    tower = TextTower(fresh(kind), letters(None))
    if any(len(word) > 16 for word in text.split()):
        with pytest.raises(ConfigError, match="shorten it"):
            tower.rows(text)
        return
    parts = tower._parts(text)
    assert " ".join(parts).split() == text.split()
    assert all(len(part) <= 16 for part in parts)
    assert len(parts) == 1 or all(
        len(f"{a} {b.split()[0]}") > 16 for a, b in itertools.pairwise(parts)
    )
    assert len(tower.rows(text)) == len(parts)


@torch.no_grad()
def test_tokens_enter_the_space_as_the_model_lets_its_pooled_token_in():
    model, pictures = fresh("clip"), pixels_of(GREY, 3, 0)
    out = model.get_image_features(pixel_values=pictures)
    joint = TextTower(model, letters(None)).joint(out.last_hidden_state[:, 0])
    torch.testing.assert_close(joint, out.pooler_output, atol=1e-5, rtol=1e-4)

    from transformers import SiglipConfig, SiglipModel

    config = fresh("siglip").config.to_dict()
    config["vision_config"]["image_size"] = 8  # one patch a picture
    whole = SiglipModel(SiglipConfig(**config)).eval()
    out = whole.get_image_features(pixel_values=pictures[..., :8, :8])
    joint = TextTower(whole, letters(None)).joint(out.last_hidden_state[:, 0])
    torch.testing.assert_close(joint, out.pooler_output, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_frames_of_siglip_are_the_towers_own(folders):
    tower = TextTower.load(folders["siglip"])
    pixels = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    pts_s = torch.arange(3).double()
    frames = Frames(data=pixels, pts_s=pts_s, duration_s=torch.ones(3).double())
    video = tower.with_joint(encoder("hf", model=str(folders["siglip"]))(frames))
    own = tower.frames(frames)
    torch.testing.assert_close(video.frame_extras[JOINT], own, atol=2e-5, rtol=1e-4)
    some = tower.with_joint(video.select(torch.tensor([0, 5])))
    assert some.frame_extras[JOINT].abs().amax(dim=1).gt(0).tolist() == [True, True, False]


@every_kind
@pytest.mark.parametrize("name", ASKING)
def test_stages_keep_what_is_asked_for(kind, name):
    tower, rows = TextTower(fresh(kind), letters(None)), noise()
    aim = text_features(tower, "where is it?").embedding[0]
    wanted = rows[16:20].clone().requires_grad_()
    optimizer = torch.optim.Adam([wanted], lr=0.05)
    for _ in range(80):  # tokens of frame 4 that are what the text says
        optimizer.zero_grad()
        joint = TextTower.joint.__wrapped__(tower, wanted)
        (-torch.cosine_similarity(joint, aim[None]).mean()).backward()
        optimizer.step()
    rows[16:20] = wanted.detach()
    video = dense(rows)
    stage = compressor(name, **ASKING[name])
    kept = narrow(video, stage, "where is it?", 8, tower)
    assert len(kept) == 8
    per_frame = torch.bincount(kept.positions[:, 0].round().long(), minlength=6)
    assert int(per_frame.argmax()) == 4
    assert int(per_frame[4]) >= 3
    assert JOINT not in kept.extras
    assert JOINT not in kept.frame_extras
    # The same with what was computed before the tokens were stored.
    stored = narrow(tower.with_joint(video), stage, "where is it?", 8, tower)
    assert torch.equal(stored.tokens, kept.tokens)
    assert JOINT in stored.extras
    away = stage.bind(QueryFeatures(embedding=-aim[None]))(tower.with_joint(video), 8)
    assert int((away.positions[:, 0].round() == 4).sum()) < int(per_frame[4])


def test_pipelines_bind_all_that_ask(folders):
    tower = TextTower.load(folders["siglip"])
    stage = Pipeline(
        (
            Stage(compressor("uniform"), retention=0.75),
            Stage(compressor("cdpruner", embedding=JOINT)),
        )
    )
    assert len(narrow(dense(noise()), stage, "red", 5, tower)) == 5
    assert isinstance(query_for(stage, "red", tower), QueryFeatures)
    plain = Pipeline((Stage(compressor("uniform")),))
    assert query_for(plain, "red", tower) is None
    assert bound(plain, "red", tower) is plain
    with pytest.raises(ConfigError, match="asks nothing"):
        narrow(dense(noise()), plain, "red", 5, tower)
    with pytest.raises(ConfigError, match="asks nothing"):
        narrow(dense(noise()), compressor("partition"), "red", 5, tower)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_clip_is_asked_for_a_colour(colour, folders, tmp_path):
    order = ["red", "green", "blue"]
    frames = np.tile(np.array(GREY, dtype=np.uint8), (30, 64, 64, 1))
    for place, name in enumerate(order):  # a second each, from 0, 10 and 20 on
        frames[place * 10 + 4 : place * 10 + 6] = COLOURS[name]
    path = write_clip(tmp_path / "colours.mp4", frames, fps=2)
    first = 5 * order.index(colour) + 2  # seconds
    for kind in KINDS:
        tower = TextTower.load(folders[kind])
        picked = choose_frames(sampler("aks", num_frames=1), path, colour, tower)
        assert picked.times_s == tuple(range(15))
        chosen = read_frames(path, picked, size=SIDE)
        assert chosen.pts_s.tolist() == [first]
    tower = TextTower.load(folders["siglip"])
    whole = read_frames(path, sampler("fps", fps=1.0), size=SIDE)
    video = encoder("hf", model=str(folders["siglip"]))(whole)
    superset = compressor("uniform")(tower.with_joint(video), 45)
    kept = narrow(superset, compressor("cdpruner", **ASKING["cdpruner"]), colour, 1, tower)
    assert kept.spans[:, 0].tolist() == [first]


def test_words_of_the_language_model_are_compared_with_tokens_in_its_width():
    model = plain_model("llama")
    reader = WordRows(model, letters())
    words = text_features(reader, "why?").embedding
    assert words.shape == (4, 32)
    rows = noise(32)
    rows[8:12] = words * 6  # a frame that shows just these, as strong as others
    stage = compressor("partition", weight="query", sharpness=5.0)
    kept = narrow(dense(rows), stage, "why?", 8, reader)
    assert int((kept.positions[:, 0].round() == 2).sum()) >= 3
    with pytest.raises(ConfigError, match="empty text"):
        reader.rows("")


def test_projectors_get_what_they_read():
    asks_ids = projector(
        "instruct_qformer", dim_in=6, dim_out=8, num_latents=2, dim=16, heads=2, dim_ff=24
    )
    query = query_for(asks_ids, "why?", letters())
    assert isinstance(query, QueryIds)
    assert query.ids.tolist() == letters().encode("why?")
    reader = WordRows(plain_model("llama"), letters())
    with pytest.raises(ConfigError, match="give the tokenizer"):
        query_for(asks_ids, "why?", reader)
    asks_rows = projector("llama_vid", dim_in=6, dim_out=8, dim_text=32)
    features = query_for(asks_rows, "why?", reader)
    assert torch.equal(features.embedding, reader.words("why?"))
    assert len(bound(asks_rows, "why?", reader)(clip(6))) == 6
    with pytest.raises(ConfigError, match="give a TextTower"):
        query_for(asks_rows, "why?", letters())
    assert query_for(projector("linear", dim_in=6, dim_out=8), "why?", letters()) is None


def test_spaces_that_do_not_fit_are_told(folders, tmp_path):
    tower = TextTower.load(folders["siglip"])
    with pytest.raises(ShapeError, match="own vision tower, 24 features wide, got \\[24, 10\\]"):
        tower.with_joint(dense(noise(10)))
    with pytest.raises(ShapeError, match="10 features with a query of 24"):
        narrow(dense(noise(10)), compressor("cdpruner"), "red", 5, tower)
    with pytest.raises(ShapeError, match="'joint'"):
        narrow(dense(noise(10)), compressor("cdpruner", embedding=JOINT), "red", 5, tower)
    with pytest.raises(ConfigError, match="give a checkpoint of one"):
        TextTower(plain_model("llama"), letters())
    with pytest.raises(ConfigError, match="hub id"):
        TextTower.load(tmp_path)
    with pytest.raises(ConfigError, match="at least one text"):
        text_features(tower, [])
    with pytest.raises(ConfigError, match="empty text"):
        text_features(tower, " ")
    with pytest.raises(ShapeError, match="at least one"):
        query_ids(letters(), "")
    bare = TextTower(trained("siglip"), letters(None))
    with pytest.raises(ConfigError, match="without preprocessor_config"):
        _ = bare.resize
    pts_s = torch.zeros(1).double()
    big = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    with pytest.raises(ShapeError, match=r"tower\.resize"):
        tower.frames(Frames(data=big, pts_s=pts_s, duration_s=pts_s + 1))
