"""Frames become what each family's encoder takes, in chunks as well as at once."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from clips import moving_square, write_clip
from llm.pixel_cases import FILES, IMAGE, NESTED, VIDEO, clip, pixels_of, sized, write
from llm.tiny_llms import CONFIGS, tiny_llm
from oracles.pixels import one_row, patch_rows, tubelet_rows, windows

from vidcomp.encode.vlm.families import FAMILIES
from vidcomp.encode.vlm.pixels import Pixels
from vidcomp.encode.vlm.pixels.patches import Gemma4, MiniCpmV, Molmo2, pooling_windows
from vidcomp.encode.vlm.pixels.processor import KINDS
from vidcomp.encode.vlm.pixels.settings import DEFAULTS
from vidcomp.encode.vlm.pixels.tubelets import Qwen2Vl, VideoLlama3
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.llm.adapter import Adapter
from vidcomp.llm.sampling import sampling_of
from vidcomp.sample.decode import read_frames
from vidcomp.types import Grid

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own arguments
every_family = pytest.mark.parametrize("name", FILES)


def encode(adapter, pixels, frames):
    chunk = pixels.prepare(frames)
    return chunk, adapter.encode(chunk.inputs, chunk.grid, chunk.spans, first_t=chunk.first_t)


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_give_the_tokens_of_the_whole(name, tmp_path):
    adapter, pixels = Adapter(tiny_llm(name)), pixels_of(name, write(name, tmp_path))
    frames = sized(pixels, clip(5, 40, 56))
    prepared, whole = encode(adapter, pixels, frames)
    assert prepared.grid == pixels.grid(56, 40, 5)
    assert whole.tokens.std() > 0.05
    for multiple in (1, 2):
        step = pixels.frames_multiple * multiple
        parts = [encode(adapter, pixels, frames[at : at + step]) for at in range(0, 5, step)]
        chunks, videos = zip(*parts, strict=True)
        assert [chunk.first_t for chunk in chunks] == list(range(0, whole.grid.t, multiple))
        assert torch.equal(torch.cat([chunk.pts_s for chunk in chunks]), prepared.pts_s)
        for field in ("positions", "spans"):
            parts_ND = torch.cat([getattr(video, field) for video in videos])
            assert torch.equal(parts_ND, getattr(whole, field))
        assert torch.allclose(torch.cat([v.tokens for v in videos]), whole.tokens, atol=1e-5)
        for of_video in ("extras", "frame_extras"):
            for key, rows in getattr(whole, of_video).items():
                parts_ND = torch.cat([getattr(video, of_video)[key] for video in videos])
                assert torch.allclose(parts_ND, rows, atol=1e-5)


@every_family
@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_the_grid_is_known_beforehand(name, num_frames, tmp_path):
    pixels = pixels_of(name, write(name, tmp_path))
    for height, width in [(40, 56), (90, 31), (28, 28)]:
        frames = sized(pixels, clip(num_frames, height, width))
        chunk = pixels.prepare(frames)
        assert chunk.grid == pixels.grid(width, height, num_frames)
        steps = -(-num_frames // pixels.frames_multiple)
        assert chunk.grid.t == steps == len(chunk.spans) == len(chunk.pts_s)


@every_family
def test_times_are_those_of_the_frames(name, tmp_path):
    pixels = pixels_of(name, write(name, tmp_path))
    chunk = pixels.prepare(sized(pixels, clip(3, 40, 56)))
    k = pixels.frames_multiple
    assert chunk.pts_s.dtype == torch.float64
    assert chunk.pts_s.tolist() == ([[0.0], [0.5], [1.0]] if k == 1 else [[0.0, 0.5], [1.0, 1.0]])
    assert chunk.spans.tolist() == (
        [[0.0, 0.5], [0.5, 1.0], [1.0, 1.5]] if k == 1 else [[0.0, 1.0], [1.0, 1.5]]
    )


@every_family
def test_plain_colours_are_scaled_as_the_file_says(name, tmp_path):
    pixels = pixels_of(name, write(name, tmp_path))
    colours = torch.tensor([3, 128, 250], dtype=torch.uint8)
    plain = colours[:, None, None].expand(2, 3, 40, 56)
    inputs = pixels.prepare(sized(pixels, replace(clip(2, 40, 56), data=plain))).inputs
    content = FILES[name][1]
    content = content.get("video_processor", content)
    mean, std = (content.get(f"image_{k}", content.get(f"norm_{k}")) for k in ("mean", "std"))
    wanted = [(int(c) / 255 - m) / s for c, m, s in zip(colours, mean, std, strict=True)]
    key = next(key for key in inputs if key.startswith("pixel_values"))
    found = [value for value in inputs[key].unique().tolist() if name != "gemma4" or value]
    for value in found:
        assert min(abs(value - want) for want in wanted) < 1e-5
    for want in wanted:
        assert min(abs(value - want) for value in found) < 1e-5


@every_family
def test_a_reader_resizes_as_the_file_says(name, tmp_path):
    pixels = pixels_of(name, write(name, tmp_path))
    policy = pixels.resize(56, 40, 2)
    if name == "nemotron_h_omni":
        assert policy.mode == "none"
        return
    content = FILES[name][1]
    number = content.get("video_processor", content).get("resample", 3)
    assert policy.interpolation == {1: "lanczos", 2: "bilinear", 3: "bicubic"}[number]
    assert policy.order == "torch"
    assert policy.antialias == (name != "molmo2")
    assert policy.mode == ("crop" if name in ("llava_next_video", "video_llava") else "stretch")


@every_family
def test_pixels_have_the_type_asked_for(name, tmp_path):
    write(name, tmp_path)
    frames = sized(pixels_of(name, tmp_path), clip(2, 40, 56))
    wide = pixels_of(name, tmp_path).prepare(frames).inputs
    half = pixels_of(name, tmp_path, dtype=torch.bfloat16).prepare(frames).inputs
    for key, value in wide.items():
        if not isinstance(value, torch.Tensor):
            assert half[key] == value
        elif value.is_floating_point():
            assert half[key].dtype == torch.bfloat16
            assert torch.equal(half[key], value.bfloat16())
        else:
            assert torch.equal(half[key], value)


@every_family
def test_all_of_it_is_on_the_device_asked_for(name, tmp_path):
    # A meta tensor meets no tensor of another device, like one on a GPU.
    write(name, tmp_path)
    frames = sized(pixels_of(name, tmp_path), clip(2, 40, 56))
    here = pixels_of(name, tmp_path).prepare(frames).inputs
    there = pixels_of(name, tmp_path, device="meta").prepare(frames)
    assert there.pts_s.device.type == there.spans.device.type == "cpu"
    for key, value in there.inputs.items():
        if isinstance(value, torch.Tensor):
            assert value.device.type == "meta"
            assert value.shape == here[key].shape


@every_family
def test_frames_are_never_written_to(name, tmp_path):
    pixels = pixels_of(name, write(name, tmp_path))
    frames = sized(pixels, clip(3, 28, 28))
    before = frames.data.clone()
    first, second = (pixels.prepare(frames).inputs for _ in range(2))
    assert torch.equal(frames.data, before)
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key])


def test_a_file_is_decoded_to_the_size_of_the_model(tmp_path):
    path = tmp_path / "a.mp4"
    write_clip(path, moving_square(20, 90, 120), fps=4)
    pixels = pixels_of("qwen3_vl", write("qwen3_vl", tmp_path))
    frames = read_frames(path, sampling_of(pixels), size=pixels.rule)
    assert len(frames) == 10
    assert pixels.prepare(frames).grid == pixels.grid(120, 90, 10) == Grid(5, 6, 9)


def test_flat_rows_are_those_of_plain_loops():
    pixels = torch.randn(4, 3, 8, 16)
    settings = {"temporal_patch_size": 2, "merge_size": 2, "patch_size": 2, "size": SIZE}
    inputs = Qwen2Vl(settings).inputs(pixels)
    assert torch.equal(
        inputs["pixel_values_videos"], torch.tensor(tubelet_rows(pixels, k=2, m=2, p=2))
    )
    assert inputs["video_grid_thw"].tolist() == [[2, 4, 8]]
    single = VideoLlama3({**settings, "temporal_patch_size": 1, "merge_size": 1}).inputs(pixels)
    assert single["pixel_values_videos"].tolist() == tubelet_rows(pixels, k=1, m=1, p=2)
    assert single["video_merge_sizes"].tolist() == [1]


SIZE = {"shortest_edge": 1, "longest_edge": 10_000}


def test_patches_with_places_are_those_of_plain_loops():
    pixels = torch.randn(2, 3, 8, 12)
    kind = Gemma4({"patch_size": 2, "pooling_kernel_size": 2, "max_soft_tokens": 7})
    inputs = kind.inputs(pixels)
    rows = inputs["pixel_values_videos"]
    assert rows.shape == (2, 28, 12)
    assert rows[:, :24].tolist() == patch_rows(pixels, 2)
    assert not rows[:, 24:].any()
    places = [[x, y] for y in range(4) for x in range(6)] + [[-1, -1]] * 4
    assert inputs["video_position_ids"].tolist() == [places, places]
    packed = MiniCpmV({"patch_size": 2, "stack_frames": 1, "downsample_mode": "4x"}).inputs(pixels)
    assert packed["pixel_values_videos"].tolist() == [one_row(pixels, 2)]
    assert packed["target_sizes_videos"].tolist() == [[4, 6], [4, 6]]


@pytest.mark.parametrize("side", [1, 4, 9, 27])
@pytest.mark.parametrize("pool", [(1, 1), (3, 3), (2, 3), (4, 2)])
def test_windows_are_those_of_plain_loops(side, pool):
    found, (rows, columns) = pooling_windows(side, pool)
    assert found.tolist() == windows(side, pool)
    assert len(found) == rows * columns
    seen = found[found >= 0].sort().values
    assert seen.tolist() == list(range(side * side))


def test_windows_of_later_frames_point_to_later_patches():
    size = {"height": 8, "width": 8}
    kind = Molmo2({"size": size, "resample": 2, "patch_size": 2, "pooling_size": [3, 3]})
    pixels = torch.randn(3, 3, 8, 8)
    inputs = kind.inputs(pixels)
    assert inputs["pixel_values_videos"].tolist() == patch_rows(pixels, 2)
    expected = [
        [place + 16 * frame if place >= 0 else -1 for place in window]
        for frame in range(3)
        for window in windows(4, (3, 3))
    ]
    assert inputs["video_token_pooling"].tolist() == expected


SAMPLING = {
    "llava_onevision": {"name": "uniform", "num_frames": 32},
    "llava_next_video": {"name": "uniform", "num_frames": 32},
    "video_llava": {"name": "uniform", "num_frames": 8},
    "perception_lm": {"name": "uniform", "num_frames": 32},
    "gemma3": {"name": "uniform", "num_frames": 8},
    "gemma4": {"name": "uniform", "num_frames": 32},
    "internvl": {"name": "segment_midpoint", "num_frames": 8},
    "smolvlm": {"name": "fps", "fps": 1.0, "max_frames": 64},
    "qwen2_vl": {"name": "smart_nframes", "fps": 2.0, "min_frames": 4, "max_frames": 768},
    "qwen3_vl": {"name": "smart_nframes", "fps": 2.0, "factor": 1, "short": "keep"},
    "video_llama_3": {"name": "fps", "fps": 1.0, "min_frames": 4, "max_frames": 180},
    "glm4v": {"name": "fps", "fps": 2.0, "max_frames": 600},
    "glm46v": {
        "name": "fps",
        "fps": 1.0,
        "by_length": [[30.0, 6.0], [300.0, 2.0]],
        "max_frames": 640,
    },
    "molmo2": {"name": "fps", "fps": 2.0, "max_frames": 64},
    "minicpmv4_6": {"name": "fps", "fps": 1.0, "max_frames": 128},
    "nemotron_h_omni": {"name": "fps", "fps": 2.0, "max_frames": 128},
}


@every_family
def test_sampling_is_the_rule_of_the_processor(name, tmp_path):
    kin = {"qwen2_5_vl": "qwen2_vl", "glm4v_moe": "glm4v"}
    said = sampling_of(pixels_of(name, write(name, tmp_path))).dump()
    as_wanted = SAMPLING[kin.get(name, "qwen3_vl" if name.startswith("qwen3") else name)]
    assert {key: said[key] for key in as_wanted} == as_wanted


def test_sampling_follows_the_settings(tmp_path):
    for name in FILES:
        write(name, tmp_path)
        changed = {"fps": 3}
        if "cap_pixels_per_frame" in DEFAULTS[name]:
            changed |= {"max_frames": 20}
        assert sampling_of(pixels_of(name, tmp_path, changed=changed)).dump() != (
            sampling_of(pixels_of(name, tmp_path)).dump()
        ) or name in ("gemma4", "glm46v")
        for file in (VIDEO, IMAGE, NESTED):
            (tmp_path / file).unlink(missing_ok=True)
    write("molmo2", tmp_path)
    few = sampling_of(pixels_of("molmo2", tmp_path, changed={"num_frames": 7})).dump()
    assert few["max_frames"] == 7


def test_files_are_read_in_the_order_of_transformers(tmp_path):
    def merged():
        return pixels_of("qwen2_vl", tmp_path).settings

    tall = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
    (tmp_path / IMAGE).write_text(json.dumps({**tall, "min_frames": 6, "max_pixels": 500}))
    assert merged()["min_frames"] == 6
    assert merged()["size"] == {"shortest_edge": 128 * 28 * 28, "longest_edge": 500}
    assert "max_pixels" not in merged()
    (tmp_path / VIDEO).write_text(json.dumps({**tall, "min_frames": 8, "resample": None}))
    assert merged()["min_frames"] == 8
    assert merged()["resample"] == 3
    (tmp_path / NESTED).write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
    assert merged()["min_frames"] == 8
    (tmp_path / NESTED).write_text(json.dumps({"video_processor": {**tall, "min_frames": 10}}))
    assert merged()["min_frames"] == 10


def test_smolvlm_reads_its_older_file(tmp_path):
    content = dict(FILES["smolvlm"][1])
    del content["size"]
    (tmp_path / IMAGE).write_text(json.dumps(content))
    settings = pixels_of("smolvlm", tmp_path).settings
    assert settings["size"] == {"longest_edge": 28}
    assert pixels_of("smolvlm", write("smolvlm", tmp_path)).settings["size"] == {
        "longest_edge": 112
    }


def test_what_does_not_fit_is_told(tmp_path):
    with pytest.raises(ConfigError, match="copy them"):
        pixels_of("qwen3_vl", tmp_path)
    pixels = pixels_of("qwen3_vl", write("qwen3_vl", tmp_path))
    with pytest.raises(ConfigError, match="max_frames"):
        pixels_of("qwen3_vl", tmp_path, changed={"max_frame": 3})
    with pytest.raises(ConfigError, match="one checkpoint"):
        pixels_of("qwen3_vl", tmp_path, changed={"patch_size": 5})
    with pytest.raises(ConfigError, match="shortest_edge"):
        pixels_of("qwen3_vl", tmp_path, changed={"size": {"height": 5}})
    with pytest.raises(ShapeError, match="multiples of 8"):
        pixels.prepare(clip(2, 41, 40))
    with pytest.raises(ShapeError, match="multiples of 2"):
        pixels.prepare(replace(clip(2, 40, 40), first_index=1))
    with pytest.raises(ShapeError, match="0 frames"):
        pixels.prepare(clip(2, 40, 40)[2:])
    with pytest.raises(ShapeError, match="at least one"):
        pixels.resize(40, 40, 0)
    with pytest.raises(ShapeError, match="aspect"):
        pixels.resize(4, 4000, 2)
    (tmp_path / "square").mkdir()
    square = pixels_of("molmo2", write("molmo2", tmp_path / "square"))
    with pytest.raises(ShapeError, match="28 x 28"):
        square.prepare(clip(2, 30, 28))


def test_a_size_that_is_not_the_tower_is_told(tmp_path):
    write("llava_onevision", tmp_path)
    vision = SimpleNamespace(image_size=42, patch_size=7)
    config = SimpleNamespace(vision_config=vision)
    with pytest.raises(ConfigError, match=r"28.*42"):
        Pixels.load(str(tmp_path), FAMILIES["llava_onevision"], config)


def test_colours_that_no_file_says_are_told(tmp_path):
    (tmp_path / VIDEO).write_text("{}")
    with pytest.raises(ConfigError, match="image_mean"):
        pixels_of("nemotron_h_omni", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("smolvlm", {"max_image_size": {"height": 28}}),
        ("smolvlm", {"size": {"width": 28}}),
        ("molmo2", {"size": {"longest_edge": 28}}),
        ("molmo2", {"pooling_size": 3}),
        ("qwen3_vl", {"patch_size": "four"}),
        ("gemma4", {"patch_size": [4, 4]}),
    ],
)
def test_files_of_something_else_are_told(name, file, tmp_path):
    (tmp_path / VIDEO).write_text(json.dumps(file))
    with pytest.raises(ConfigError, match="original checkpoint"):
        pixels_of(name, tmp_path)


def test_frames_drawn_into_one_picture_are_refused(tmp_path):
    write("minicpmv4_6", tmp_path)
    with pytest.raises(ConfigError, match="stack_frames"):
        pixels_of("minicpmv4_6", tmp_path, changed={"stack_frames": 3})


def test_more_tokens_than_a_frame_may_have_are_refused(tmp_path):
    pixels = pixels_of("gemma4", write("gemma4", tmp_path), changed={"do_resize": False})
    assert pixels.resize(200, 200, 1).mode == "none"
    with pytest.raises(ShapeError, match="at most 70"):
        pixels.prepare(clip(1, 80, 80))
    assert pixels.prepare(clip(1, 40, 40)).grid == Grid(1, 5, 5)


def test_every_family_has_its_kind():
    assert set(KINDS) == set(FAMILIES) == set(DEFAULTS) == set(FILES)
