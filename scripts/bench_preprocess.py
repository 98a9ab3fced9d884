"""Pixels to what an encoder takes, against the model's own processor: CPU a frame, grey levels.

    python scripts/bench_preprocess.py [--rounds N]

Both get the same decoded frames of 540 x 960 and give float32 of 224 x 224.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from _bench import interleaved, median_ratio, publish
from numpy.typing import NDArray
from torch import Tensor

from vidcomp.encode.pixels import Normalize, read_processor, resize_of
from vidcomp.encode.weights import Checkpoint
from vidcomp.functional.resize import resize_frames

HEIGHT, WIDTH, FRAMES = 540, 960, 8
COMMON = {"do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
CROP = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS: dict[str, dict[str, Any]] = {
    "SigLIP": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
    "CLIP": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 224},
        "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        **CROP,
    },
    "DINOv2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 256},
        "resample": 3,
        **CROP,
        **IMAGENET,
    },
    "VideoMAE": {
        "image_processor_type": "VideoMAEImageProcessor",
        "size": {"shortest_edge": 224},
        "resample": 2,
        **CROP,
        **IMAGENET,
    },
}


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    frames = pictures()
    rows = [measure(name, settings, frames, rounds) for name, settings in PROCESSORS.items()]
    publish(
        "preprocess",
        "Preprocessing",
        "python scripts/bench_preprocess.py",
        ["model", "its own processor", "vidcomp", "times less CPU", "largest difference"],
        rows,
        f"CPU milliseconds for a frame of {HEIGHT} x {WIDTH}, one thread, median of {rounds} "
        f"interleaved rounds of {FRAMES} frames; ratio: median of the rounds' ratios; difference "
        f"in grey levels of 0..255.  Its own processor: transformers {transformers.__version__}, "
        f"Pillow backend.",
    )


def pictures() -> NDArray[np.uint8]:
    """[T, H, W, 3] with edges, gradients and noise, as a decoder gives them."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([np.sin(x / 30), np.cos(y / 17), np.sin((x + y) / 9)], axis=-1) * 90 + 128
    checks = ((x // 40 + y // 40) % 2 * 60)[..., None]
    noise = random.normal(0, 12, (FRAMES, HEIGHT, WIDTH, 3))
    shown: NDArray[np.uint8] = np.clip(waves + checks + noise, 0, 255).astype(np.uint8)
    return shown


def measure(
    name: str, settings: dict[str, Any], frames: NDArray[np.uint8], rounds: int
) -> list[object]:
    """One row of the table."""
    theirs, ours = both(settings)
    std = torch.tensor(settings["image_std"])[:, None, None]
    difference = ((theirs(frames) - ours(frames)).abs() * 255 * std).max()
    cases = {"theirs": lambda: theirs(frames), "ours": lambda: ours(frames)}
    seconds = interleaved(cases, rounds=rounds, clock=time.process_time)
    their_ms, our_ms = (statistics.median(seconds[k]) / FRAMES * 1e3 for k in ("theirs", "ours"))
    ratio = median_ratio(seconds["theirs"], seconds["ours"])
    return [name, their_ms, our_ms, ratio, round(float(difference), 3)]


def both(
    settings: dict[str, Any],
) -> tuple[Callable[[NDArray[np.uint8]], Tensor], Callable[[NDArray[np.uint8]], Tensor]]:
    """The model's own processor and ours, from the same file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps({**COMMON, **settings}))
        own = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        known = read_processor(Checkpoint(Path(folder), ()))
    resize, normalize = resize_of(known), Normalize.of(known, "cpu")

    def theirs(frames: NDArray[np.uint8]) -> Tensor:
        values: Tensor = own(images=list(frames), return_tensors="pt")["pixel_values"]
        return values.reshape(FRAMES, *values.shape[-3:])

    def ours(frames: NDArray[np.uint8]) -> Tensor:
        picture, _ = resize_frames(torch.from_numpy(frames).permute(0, 3, 1, 2), resize)
        return normalize(picture)

    return theirs, ours


if __name__ == "__main__":
    main()
