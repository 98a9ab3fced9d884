"""Towers against the models themselves, run plainly: eager attention, all hidden states."""

import json
from typing import Any

import pytest
import torch
from tiny_models import FRAME_MODELS, random_frames
from torch import Tensor

from vidcomp.encode.hf import Hf
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.registry import ENCODERS
from vidcomp.types import Frames

EXTRA = {  # tokens before the patches, from each model's documentation
    "siglip": 0,
    "clip": 1,
    "dinov2": 1,
    "dinov2_registers": 4,
    "dinov3": 5,
    "dinov3_convnext": 1,
    "aimv2": 0,
    "vit": 1,
    "beit": 1,
    "swin": 0,
}
LAYERED = [name for name in EXTRA if name not in ("dinov3_convnext", "swin")]


def plain_model(folder: str) -> Any:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, attn_implementation="eager")
    return getattr(model, "vision_model", model).eval()


def plain_pixels(folder: str, frames: Frames) -> Tensor:
    from pathlib import Path

    settings = json.loads((Path(folder) / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(settings[k])[:, None, None] for k in ("image_mean", "image_std"))
    return (frames.data.float() / 255 - mean) / std


@torch.no_grad()
def plain(folder: str, frames: Frames, **kwargs: Any) -> Any:
    return plain_model(folder)(pixel_values=plain_pixels(folder, frames), **kwargs)


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=2e-5)


def native(encoder: Any, num: int = 2) -> Frames:
    return random_frames(num, encoder.resize.height, encoder.resize.width)


@pytest.mark.parametrize("name", EXTRA)
def test_the_last_hidden_state_is_the_models_own(name: str, tiny):
    encoder = Hf(model=tiny(name)).build()
    frames = native(encoder)
    wanted = plain(tiny(name), frames).last_hidden_state[:, EXTRA[name] :]
    assert close(encoder(frames).tokens, wanted.flatten(0, 1))


@pytest.mark.parametrize("layer", [0, 1, -2, -1, 3])
@pytest.mark.parametrize("name", LAYERED)
def test_layers_are_numbered_as_hidden_states(name: str, layer: int, tiny):
    encoder = Hf(model=tiny(name), layer=layer).build()
    frames = native(encoder)
    states = plain(tiny(name), frames, output_hidden_states=True).hidden_states
    assert len(states) == 4
    assert close(encoder(frames).tokens, states[layer][:, EXTRA[name] :].flatten(0, 1))


def test_blocks_after_the_layer_are_not_run(tiny, monkeypatch: pytest.MonkeyPatch):
    calls = count_fused(monkeypatch)
    Hf(model=tiny("clip"), layer=-2).build()(random_frames(1, 32, 32))
    assert len(calls) == 2


@pytest.mark.parametrize("name", [*LAYERED, "siglip2"])
def test_tokens_are_in_raster_order(name: str, tiny):
    """Embeddings of one patch depend on its pixels only."""
    encoder = Hf(model=tiny(name), layer=0).build()
    frames = random_frames(1, 32, 32)
    before = encoder(frames)
    for i, j in [(0, 1), (2, 3), (3, 0)]:
        changed = random_frames(1, 32, 32)
        changed.data[..., 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = 77
        moved = (encoder(changed).tokens - before.tokens).abs().sum(dim=1) > 1e-4
        assert before.positions[moved].tolist() == [[0.0, float(i), float(j)]]


@pytest.mark.parametrize("name", ["siglip", "clip", "vit", "beit"])
def test_other_sizes_interpolate_positions(name: str, tiny):
    encoder = Hf(model=tiny(name)).build()
    frames = random_frames(2, 24, 40)
    video = encoder(frames)
    assert video.grid == (2, 3, 5)
    wanted = plain(tiny(name), frames, interpolate_pos_encoding=True).last_hidden_state
    assert close(video.tokens, wanted[:, EXTRA[name] :].flatten(0, 1))


@pytest.mark.parametrize("name", ["dinov2", "dinov2_registers", "dinov3"])
def test_some_take_any_size_by_themselves(name: str, tiny):
    encoder = Hf(model=tiny(name)).build()
    frames = random_frames(2, 24, 40)
    wanted = plain(tiny(name), frames).last_hidden_state[:, EXTRA[name] :]
    assert close(encoder(frames).tokens, wanted.flatten(0, 1))


def test_fixed_positions_and_odd_sizes_are_refused(tiny):
    with pytest.raises(ShapeError, match="32 x 32 pixels, got 24 x 40"):
        Hf(model=tiny("aimv2")).build()(random_frames(1, 24, 40))
    with pytest.raises(ShapeError, match="resize to 24 x 40"):
        Hf(model=tiny("siglip")).build()(random_frames(1, 25, 43))
    with pytest.raises(ConfigError, match="fixed positions"):
        Hf(model=tiny("aimv2"), resize=Resize(height=64, width=64)).build()


def test_a_native_size_that_patches_do_not_divide_is_fine(own_copy):
    """As in so400m-patch14-384: 27 patches, 6 pixels left over."""
    folder = own_copy("siglip")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["image_size"] = 37
    (folder / "config.json").write_text(json.dumps(config))
    encoder = Hf(model=str(folder), resize=Resize(height=37, width=37)).build()
    assert encoder(random_frames(1, 37, 37)).grid == (1, 4, 4)
    bars = random_frames(1, 37, 37, content=(32, 0, 5, 37))
    assert len(encoder(bars)) == 0  # those pixels are in no patch


def test_naflex_agrees_with_its_own_processor(tiny):
    from PIL import Image
    from transformers import AutoImageProcessor

    frames = random_frames(1, 24, 40)  # 3 x 5 patches; the original would enlarge them
    encoder = Hf(model=tiny("siglip2"), saliency=True).build()
    processor = AutoImageProcessor.from_pretrained(tiny("siglip2"), backend="pil")
    image = Image.fromarray(frames.data[0].permute(1, 2, 0).numpy())
    inputs = processor(image, max_num_patches=16, do_resize=False, return_tensors="pt")
    num = int(inputs["pixel_attention_mask"].sum())
    with torch.no_grad():
        wanted = plain_model(tiny("siglip2"))(**inputs).last_hidden_state[:, :num]
    video = encoder(frames)
    assert tuple(inputs["spatial_shapes"][0]) == video.grid[1:]
    assert close(video.tokens, wanted[0])


def count_fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counting(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(query.shape[2])
        return fused(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    return calls


@pytest.mark.parametrize("layer", [None, -2, 1])
@pytest.mark.parametrize("name", ["clip", "dinov2", "dinov2_registers", "dinov3", "vit", "beit"])
def test_saliency_is_the_class_tokens_attention(
    name: str, layer: int | None, tiny, monkeypatch: pytest.MonkeyPatch
):
    encoder = Hf(model=tiny(name), layer=layer, saliency=True).build()
    frames = native(encoder)
    attentions = plain(tiny(name), frames, output_attentions=True).attentions
    calls = count_fused(monkeypatch)
    video = encoder(frames)
    last = {None: 2, -2: 1, 1: 0}[layer]
    wanted = attentions[last].mean(dim=1)[:, 0, EXTRA[name] :]
    assert torch.allclose(video.extras["saliency"], wanted.flatten(), rtol=1e-4, atol=1e-6)
    assert len(calls) == last + 1  # every block that runs is fused
    plain_tokens = Hf(model=tiny(name), layer=layer).build()(frames).tokens
    assert torch.equal(video.tokens, plain_tokens)


@pytest.mark.parametrize("layer", [None, -2, 0])
@pytest.mark.parametrize("name", ["siglip", "aimv2"])
def test_saliency_is_the_pooling_heads_attention(name: str, layer: int | None, tiny):
    encoder = Hf(model=tiny(name), layer=layer, saliency=True).build()
    frames = native(encoder)
    hidden = plain(tiny(name), frames).last_hidden_state
    head = plain_model(tiny(name)).head
    with torch.no_grad():
        if name == "siglip":
            probe = head.probe.expand(len(hidden), -1, -1)
            wanted = head.attention(probe, hidden, hidden, average_attn_weights=False)[1].mean(1)[
                :, 0
            ]
        else:
            keys = head.k_proj(hidden).unflatten(2, (4, 8)).transpose(1, 2)
            query = head.cls_token.view(1, 4, 1, 8)
            wanted = (query @ keys.mT / 8**0.5).softmax(-1).mean(1)[:, 0]
    video = encoder(frames)
    assert torch.allclose(video.extras["saliency"], wanted.flatten(), rtol=1e-4, atol=1e-6)
    assert close(video.tokens, Hf(model=tiny(name), layer=layer).build()(frames).tokens)


def test_saliency_follows_selections_and_is_off_by_default(tiny):
    frames = random_frames(2, 32, 32, content=(0, 0, 16, 32))
    video = Hf(model=tiny("clip"), saliency=True).build()(frames)
    assert video.extras["saliency"].shape == (2 * 2 * 4,)
    assert not Hf(model=tiny("clip")).build()(frames).extras


def test_saliency_in_half_precision_is_float32(tiny):
    video = Hf(model=tiny("dinov3"), saliency=True, dtype="bfloat16").build()(
        random_frames(1, 32, 32)
    )
    assert video.extras["saliency"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vjepa2", {}, "use the encoder 'hf_clip'"),
        ("videomae", {}, "use the encoder 'hf_clip'"),
        ("clip", {"layer": 4}, "layers -4 to 3"),
        ("clip", {"layer": -5}, "layers -4 to 3"),
        ("swin", {"layer": -1}, "no layers of one size"),
        ("swin", {"saliency": True}, "leave saliency out"),
        ("clip", {"saliency": True, "layer": 0}, "leave saliency out"),
    ],
)
def test_what_a_model_cannot_do_is_said(name: str, settings: dict[str, Any], message: str, tiny):
    with pytest.raises(ConfigError, match=message):
        Hf(model=tiny(name), **settings).build()


def test_models_without_a_grid_are_refused(tmp_path):
    import transformers

    mae = transformers.ViTMAEConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    mae.update({"intermediate_size": 16, "image_size": 32, "patch_size": 8})
    bert = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    for config, message in [(mae, "shuffles patches"), (bert, "no patch size")]:
        folder = tmp_path / config.model_type
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"size": {"height": 32, "width": 32}, "resample": 2, "do_normalize": False})
        )
        with pytest.raises(ConfigError, match=message):
            Hf(model=str(folder)).build()


def test_a_letterbox_gets_the_models_mean_colour(tiny):
    resize = Resize(mode="letterbox", height=32, width=32)
    assert Hf(model=tiny("clip"), resize=resize).build().resize.fill == (123, 117, 104)


def test_the_place_of_a_model_is_not_what_it_is(tiny):
    assert Hf.locations() == {"model", "revision"}
    one, other = (Hf(model=tiny(name)).build().weights_hash for name in ("clip", "vit"))
    assert len(one) == 64
    assert one != other


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch
@pytest.mark.parametrize("settings", [{}, {"layer": -2, "saliency": True}])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_compiled_agrees(name: str, settings: dict[str, Any], tiny):
    frames = random_frames(3, 32, 32)
    config = Hf(model=tiny(name), **settings)
    fast, slow = config.build(compile=True, batch_size=2)(frames), config.build()(frames)
    assert torch.allclose(fast.tokens, slow.tokens, rtol=1e-4, atol=1e-4)
    for key, value in slow.extras.items():
        assert torch.allclose(fast.extras[key], value, rtol=1e-4, atol=1e-5)


def test_every_tiny_model_is_covered():
    assert set(EXTRA) | {"siglip2"} == set(FRAME_MODELS)
    assert "hf" in ENCODERS.names()
