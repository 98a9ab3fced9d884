"""Before the language model reads anything, a long video needs no more memory than a short one."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from llm.tiny_folders import save_folder
from llm.tiny_llms import CONFIGS

TESTS = Path(__file__).parents[1]
CHILD = """
import sys, torch, vidcomp as vc
from pathlib import Path
torch.set_num_threads(1)
model = vc.VideoLLM.load(sys.argv[1])
sampler = vc.sampler("fps", fps=4)
warm = vc.Clip(path=sys.argv[2], end_s=10, sampler=sampler)
stage = vc.compressor(sys.argv[3])
model.encode(warm, compressor=stage, budget=256)
def highest():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
Path("/proc/self/clear_refs").write_text("5")
before = highest()
video = model.encode(vc.Clip(path=sys.argv[2], sampler=sampler), compressor=stage, budget=256)
print("TOKENS", len(video), video.grid.t, "PEAK", highest(), "BEFORE", before)
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own classes
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts as Linux does"),
]


def waves(seconds):
    """Four pictures a second that never repeat."""
    y, x = np.mgrid[:120, :160]
    for i in range(4 * seconds):
        level = 127 + 100 * np.sin(x / (7 + i % 13) + i) * np.cos(y / (5 + i % 11))
        yield np.repeat(level.astype(np.uint8)[..., None], 3, axis=2)


WIDTH, PATCHES = 2048, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with tokens as wide as in a small real one."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    made = save_folder("internvl", tmp_path_factory.mktemp("vlm") / "model")
    config = CONFIGS["internvl"]
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32}
    text = {**config["text_config"], **heads, "hidden_size": WIDTH, "num_hidden_layers": 1}
    whole = CONFIG_MAPPING["internvl"](**{**config, "text_config": text})
    AutoModelForImageTextToText.from_config(whole).save_pretrained(made)
    return made


def peak(folder, path, method):
    """Frames of the grid, and most memory of a process of its own, in kB."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(folder), str(path), method],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
        timeout=500,
    )
    found = re.search(r"TOKENS (\d+) (\d+) PEAK (\d+)", done.stdout)
    assert found is not None, done.stderr[-2000:]
    assert int(found[1]) == 256
    return int(found[2]), int(found[3])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["partition", "evs"])
def test_ten_minutes_need_what_one_minute_needs(method, folder, tmp_path):
    taken = {}
    for minutes in (1, 10):
        frames = np.stack(list(waves(60 * minutes)))
        path = write_clip(tmp_path / f"{minutes}.mp4", frames, fps=4, preset="ultrafast")
        steps, taken[minutes] = peak(folder, path, method)
        assert steps == 240 * minutes
    assert taken[10] <= 1.2 * taken[1], taken
    all_tokens_kB = (2400 - 240) * PATCHES * WIDTH * 4 // 1024
    assert taken[10] - taken[1] < all_tokens_kB / 2, taken
