"""Networks of pytorchvideo: what stands before their heads must give what the heads get."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import PYTORCHVIDEO_MODELS, random_frames
from torch import Tensor, nn

from vidcomp.encode import _pytorchvideo
from vidcomp.encode.networks import make_network
from vidcomp.encode.pytorchvideo import PyTorchVideo
from vidcomp.encode.weights import convert_checkpoint
from vidcomp.errors import ConfigError, MissingExtraError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.types import Frames


def network_of(name: str, folder: str) -> Any:
    settings = PYTORCHVIDEO_MODELS[name]
    network = make_network(settings["architecture"], settings["kwargs"])
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return network.eval()


def clip_of(frames: Frames) -> Tensor:
    """[1, 3, F, H, W] as pytorchvideo's transforms make it."""
    return ((frames.data.float() / 255 - 0.45) / 0.225).transpose(0, 1)[None]


class Seen(nn.Module):
    """Takes a head's place and remembers what it got."""

    def forward(self, got: Any) -> Any:
        self.got = list(got) if isinstance(got, list) else got
        return got


def before_head(network: Any, inputs: Any) -> Any:
    seen = Seen()
    if hasattr(network, "head"):
        network.head = seen
    else:
        network.blocks = nn.ModuleList([*network.blocks[:-1], seen])
    with torch.no_grad():
        network(inputs)
    return seen.got


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["x3d", "slow"])
def test_stages_before_the_head(name: str, tiny):
    encoder = PyTorchVideo(model=tiny(name)).build()
    frames = random_frames(4, 64, 64)
    maps = before_head(network_of(name, tiny(name)), clip_of(frames))
    video = encoder(frames)
    assert video.grid == (4, 2, 2)
    assert close(video.tokens, maps[0].flatten(1).T)


def test_mvit_without_its_class_token(tiny):
    encoder = PyTorchVideo(model=tiny("mvit")).build()
    frames = random_frames(4, 32, 32)
    rows = before_head(network_of("mvit", tiny("mvit")), clip_of(frames))
    video = encoder(frames)
    assert video.grid == (2, 4, 4)
    assert encoder.tubelet == 2
    assert close(video.tokens, rows[0, 1:])


def test_slowfast_joins_the_fast_pathway_averaged_to_the_slow_grid(tiny):
    encoder = PyTorchVideo(model=tiny("slowfast")).build()
    frames = random_frames(8, 64, 64)
    network = network_of("slowfast", tiny("slowfast"))
    network.blocks = network.blocks[:-1]  # now pooling stands last
    clip = clip_of(frames)
    slow, fast = before_head(network, [clip[:, :, [0, 7]], clip])
    pooled = fast.unflatten(2, (2, 4)).mean(dim=3)
    video = encoder(frames)
    assert video.grid == (2, 2, 2)
    assert encoder.tubelet == 4
    assert close(video.tokens, torch.cat([slow, pooled], dim=1)[0].flatten(1).T)
    assert torch.allclose(video.spans.unique(dim=0), torch.tensor([[0.0, 1.9], [2.0, 3.9]]))


def test_convolutions_take_other_sizes_and_positions_do_not(tiny):
    assert PyTorchVideo(model=tiny("x3d")).build()(random_frames(4, 96, 128)).grid == (4, 3, 4)
    with pytest.raises(ShapeError, match="32 x 32 pixels, got 64 x 64"):
        PyTorchVideo(model=tiny("mvit")).build()(random_frames(4, 64, 64))
    with pytest.raises(ConfigError, match="32 x 32"):
        PyTorchVideo(model=tiny("mvit"), resize=Resize(height=64, width=64)).build()


def test_pictures_are_sized_as_in_its_own_transforms(tiny):
    resize = PyTorchVideo(model=tiny("mvit")).build().resize
    assert (resize.mode, resize.height, resize.short_side) == ("crop", 32, 32)
    assert (resize.antialias, resize.convention) == (False, "pytorchvideo")


@pytest.mark.slow
def test_the_model_zoo_is_known(tmp_path: Path):
    """Parameters in millions, as the papers count them, and the clip each was tested on."""
    from safetensors.torch import save_file

    zoo = {
        "mvit_base_16x4": (36.6, (8, 7, 7), 768),
        "x3d_s": (3.8, (13, 6, 6), 192),
        "slowfast_r50": (34.6, (8, 8, 8), 2304),
        "slow_r50": (32.5, (8, 8, 8), 2048),
    }
    for name, (millions, grid, dim) in zoo.items():
        network = make_network(name, {})
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(
            millions, abs=0.1
        )
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
        encoder = PyTorchVideo(model=str(tmp_path)).build()
        size = (encoder.resize.height, encoder.resize.width)
        assert encoder.grid(encoder.frames_multiple, *size) == grid
        assert encoder.dim == dim


def test_a_published_pickle_is_converted_once(tiny, tmp_path: Path):
    state = load_file(Path(tiny("x3d")) / "model.safetensors")
    torch.save({"model_state": state, "epoch": 300}, tmp_path / "X3D.pyth")
    convert_checkpoint(tmp_path / "X3D.pyth", tmp_path / "x3d")
    (tmp_path / "x3d" / "config.json").write_text(json.dumps(PYTORCHVIDEO_MODELS["x3d"]))
    one, two = (PyTorchVideo(model=m).build() for m in (str(tmp_path / "x3d"), tiny("x3d")))
    frames = random_frames(4, 64, 64)
    assert torch.equal(one(frames).tokens, two(frames).tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "x3d_z"}, "did you mean 'x3d"),
        ({"architecture": None}, "must name an architecture"),
        ({"kwargs": {**PYTORCHVIDEO_MODELS["x3d"]["kwargs"], "zoom": 1}}, "cannot build 'x3d'"),
        ({"kwargs": {"input_clip_length": 4}}, "must say resize"),
        ({"kwargs": {}}, "must say num_frames"),
        ({"num_frames": 0.5}, "must say num_frames"),
        ({"kwargs": {**PYTORCHVIDEO_MODELS["x3d"]["kwargs"], "width_factor": 2.0}}, "do not fit"),
        ({"resize": {"mode": "crop", "height": 64, "width": 64, "zoom": 2}}, "zoom"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(change: dict[str, Any], message: str, own_copy):
    folder = own_copy("x3d")
    config = {**PYTORCHVIDEO_MODELS["x3d"], **change}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        PyTorchVideo(model=str(folder)).build()


def test_frames_that_steps_do_not_share_are_refused(own_copy):
    folder = own_copy("slowfast")
    config = {**PYTORCHVIDEO_MODELS["slowfast"], "num_frames": 9}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, ShapeError), match="num_frames"):
        PyTorchVideo(model=str(folder)).build()


def test_the_stand_in_for_torchvision_is_gone_after_the_import(tiny):
    import importlib.util

    PyTorchVideo(model=tiny("mvit")).build()
    for name in ("torchvision", "torchvision.ops"):
        module = sys.modules.get(name)
        assert module is None or module.__spec__ is not None
    if importlib.util.find_spec("torchvision") is None:
        with pytest.raises(ImportError):
            importlib.import_module("torchvision")


def test_without_pytorchvideo_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tiny):
    folder = tiny("x3d")
    monkeypatch.setattr(_pytorchvideo, "_import", _not_installed)
    with pytest.raises(MissingExtraError, match="pip install pytorchvideo"):
        PyTorchVideo(model=folder).build()


def _not_installed(path: str) -> Any:
    raise ModuleNotFoundError(f"No module named {path!r}")


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from inside torch
def test_compiled_agrees(tiny):
    frames = random_frames(4, 32, 32)
    config = PyTorchVideo(model=tiny("mvit"))
    fast, slow = config.build(compile=True)(frames), config.build()(frames)
    assert torch.allclose(fast.tokens, slow.tokens, rtol=1e-4, atol=1e-4)
