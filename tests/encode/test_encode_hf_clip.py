"""Video towers against the models themselves, run plainly clip by clip."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CLIP_MODELS, random_frames
from torch import Tensor

from vidcomp.encode.hf_clip import HfClip
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.types import Frames

CLIP = {"vjepa2": 8, "videomae": 4, "timesformer": 4, "vivit": 4}
TUBELET = {"vjepa2": 2, "videomae": 2, "timesformer": 1, "vivit": 2}


@torch.no_grad()
def plain(name: str, folder: str, clip: Frames, **kwargs: Any) -> Any:
    """The model's own output for one clip, eager attention."""
    from transformers import AutoModel

    eager = {} if name == "timesformer" else {"attn_implementation": "eager"}
    model = AutoModel.from_pretrained(folder, **eager).eval()
    kind = "video_preprocessor" if name == "vjepa2" else "preprocessor"
    settings = json.loads((Path(folder) / f"{kind}_config.json").read_text())
    mean, std = (torch.tensor(settings[k])[:, None, None] for k in ("image_mean", "image_std"))
    levels = clip.data.float() * settings.get("rescale_factor", 1 / 255)
    pixels = (levels - (1 if settings.get("offset") else 0) - mean) / std
    key = "pixel_values_videos" if name == "vjepa2" else "pixel_values"
    skip = {"skip_predictor": True} if name == "vjepa2" else {}
    return model(**{key: pixels[None]}, **skip, **kwargs)


def in_order(name: str, hidden: Tensor) -> Tensor:
    """[t * h * w, D] of a plain output [1, N, D]."""
    rows = hidden[0]
    if name in ("timesformer", "vivit"):
        rows = rows[1:]
    if name == "timesformer":  # time runs fastest
        rows = rows.reshape(4, 4, 4, -1).permute(2, 0, 1, 3).reshape(64, -1)
    return rows


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_each_clip_is_the_models_own(name: str, tiny):
    encoder = HfClip(model=tiny(name)).build()
    assert (encoder.frames_multiple, encoder.tubelet) == (CLIP[name], TUBELET[name])
    frames = random_frames(2 * CLIP[name], 32, 32)
    halves = [frames[: CLIP[name]], frames[CLIP[name] :]]
    wanted = [in_order(name, plain(name, tiny(name), h).last_hidden_state) for h in halves]
    assert close(encoder(frames).tokens, torch.cat(wanted))


@pytest.mark.parametrize("layer", [0, 2, -1])
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_layers_are_numbered_as_hidden_states(name: str, layer: int, tiny):
    encoder = HfClip(model=tiny(name), layer=layer).build()
    frames = random_frames(CLIP[name], 32, 32)
    states = plain(name, tiny(name), frames, output_hidden_states=True).hidden_states
    assert close(encoder(frames).tokens, in_order(name, states[layer]))


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_tokens_are_in_raster_order_of_time_and_place(name: str, tiny):
    """Embeddings of one tubelet depend on its pixels only."""
    encoder = HfClip(model=tiny(name), layer=0).build()
    frames = random_frames(2 * CLIP[name], 32, 32)
    before = encoder(frames)
    for t, i, j in [(0, 0, 1), (3, 2, 3), (CLIP[name] + 1, 3, 0)]:
        changed = random_frames(2 * CLIP[name], 32, 32)
        changed.data[t, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = 77
        moved = (encoder(changed).tokens - before.tokens).abs().sum(dim=1) > 1e-4
        assert before.positions[moved].tolist() == [[float(t // TUBELET[name]), float(i), float(j)]]


@pytest.mark.parametrize("name", CLIP_MODELS)
@pytest.mark.parametrize("num", [1, 3])
def test_a_short_clip_repeats_its_last_frame_and_drops_the_filling(name: str, num: int, tiny):
    encoder = HfClip(model=tiny(name)).build()
    frames = random_frames(num, 32, 32)
    video = encoder(frames)
    steps = -(-num // TUBELET[name])
    filled = steps * TUBELET[name] if name == "vjepa2" else CLIP[name]
    index = torch.arange(filled).clamp(max=num - 1)
    clip = replace(
        frames,
        data=frames.data[index],
        pts_s=frames.pts_s[index],
        duration_s=frames.duration_s[index],
    )
    wanted = in_order(name, plain(name, tiny(name), clip).last_hidden_state)
    assert video.grid == (steps, 4, 4)
    assert close(video.tokens, wanted[: len(video)])
    assert video.spans[-1, 1] == frames.spans[-1, 1]


def test_spans_are_the_union_of_a_tubelets_frames(tiny):
    frames = random_frames(5, 32, 32)  # each half second, shown for 0.4 s
    spans = HfClip(model=tiny("vjepa2")).build()(frames).spans.unique(dim=0)
    assert torch.allclose(spans, torch.tensor([[0.0, 0.9], [1.0, 1.9], [2.0, 2.4]]))


def test_vjepa2_takes_clips_of_other_lengths(tiny):
    encoder = HfClip(model=tiny("vjepa2"), clip_frames=4).build()
    frames = random_frames(8, 32, 32)
    assert encoder.frames_multiple == 4
    wanted = [
        plain("vjepa2", tiny("vjepa2"), part).last_hidden_state[0]
        for part in (frames[:4], frames[4:])
    ]
    assert close(encoder(frames).tokens, torch.cat(wanted))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vjepa2", {"clip_frames": 5}, "multiple of 2 frames"),
        ("videomae", {"clip_frames": 8}, "clips of 4 frames"),
        ("timesformer", {"layer": 9}, "layers -4 to 3"),
        ("clip", {}, "use the encoder 'hf'"),
    ],
)
def test_what_a_model_cannot_do_is_said(name: str, settings: dict[str, Any], message: str, tiny):
    with pytest.raises(ConfigError, match=message):
        HfClip(model=tiny(name), **settings).build()


def test_models_that_look_at_single_frames_are_sent_on(own_copy):
    folder = own_copy("timesformer")
    config = json.loads((folder / "config.json").read_text()) | {"attention_type": "space_only"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="one by one"):
        HfClip(model=str(folder)).build()


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_other_sizes_are_refused(name: str, tiny):
    with pytest.raises(ShapeError, match="32 x 32 pixels, got 24 x 40"):
        HfClip(model=tiny(name)).build()(random_frames(2, 24, 40))


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch
def test_compiled_agrees(tiny):
    frames = random_frames(8, 32, 32)
    config = HfClip(model=tiny("vjepa2"), layer=-2)
    fast, slow = config.build(compile=True)(frames), config.build()(frames)
    assert torch.allclose(fast.tokens, slow.tokens, rtol=1e-4, atol=1e-4)
