"""The job against the naive loop, its engine against what the hardware allows, and its memory.

    python scripts/bench_extract.py [PART ...] [--clips DIR] [--rounds N]

``read``      CPU of decoding 32 frames and preparing them for SigLIP, against decord at full size
              followed by the model's own processor, over the files of ``--clips``.
``job``       wall time of the job, with an encoder that waits as a device would and with real ones
              on the CPU, against decode, encode, ``torch.save``, one video after another.
``engine``    the job's wall over that of its slower half, decoding or encoding, done alone.
``workers``   how a job that decodes only scales from one reader to two.
``overhead``  what a video costs beyond decoding and encoding it, with tiny videos.
``memory``    peak memory of decode and encode for 60 s and 60 min of video at 2 frames per second.
``flat``      memory of the job and its readers over 2000 videos.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does, before torch is loaded

import numpy as np
import torch
from _bench import cpu_s, interleaved, median_ratio, publish
from _extract_cases import WAIT_S, decoding, encoding, job_of, looping
from _extract_clips import FRAMES, RECIPE, Waiting, make_corpus, with_encoder, write_noise
from _extract_costs import bench_flat, bench_overhead
from _extract_speed import bench_engine, bench_workers, decode_on_demand

from vidcomp.api import Prepared, prepare
from vidcomp.config import Recipe
from vidcomp.encode.base import Encoder
from vidcomp.functional.resize import Resize
from vidcomp.pipelines.extraction.engine import Engine
from vidcomp.pipelines.inputs import expand
from vidcomp.sample.decode import DecodeRequest, stream_frames


def main() -> None:
    """Run the parts that were asked for."""
    parts = {
        "read": bench_read,
        "job": bench_job,
        "engine": bench_engine,
        "workers": bench_workers,
        "overhead": bench_overhead,
        "memory": bench_memory,
        "flat": bench_flat,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--clips", type=Path, help="folder of videos for the part read")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_of(options.peak)))
    elif options.decode:
        decode_on_demand(options.decode)
    else:
        for part in options.parts or parts:
            with tempfile.TemporaryDirectory() as folder:
                parts[part](options, Path(folder))


# -- reading -------------------------------------------------------------------------------------


def bench_read(options: argparse.Namespace, scratch: Path) -> None:
    """CPU of decode and preprocess for each file, ours and the usual way."""
    torch.set_num_threads(1)
    source = options.clips or make_corpus(scratch)
    files = [
        Path(shutil.copy(path, scratch))
        for path in sorted(source.iterdir())
        if path.is_file() and path.suffix != ".md"
    ]
    rows = []
    for path in files:
        cases = {"ours": reader_of(path), "usual": usual_reader_of(path)}
        try:
            if len({case() for case in cases.values()}) > 1:
                continue  # decord reports another number of frames (a cut transport stream)
        except Exception as error:  # noqa: BLE001  # decord raises what it likes
            print(f"left out {path.name}: {' '.join(str(error).split())[:80]}")
            continue
        seconds = interleaved(cases, rounds=options.rounds, clock=cpu_s)
        gain = median_ratio(seconds["usual"], seconds["ours"])
        rows.append((path.name, *(1000 * statistics.median(s) for s in seconds.values()), gain))
    gains = [row[3] for row in rows]
    publish(
        "read",
        "Decode and preprocess 32 frames for SigLIP at 224, CPU milliseconds",
        "python scripts/bench_extract.py read --clips DIR",
        ("clip", "vidcomp", "decord + HF processor", "gain"),
        rows,
        f"Median gain {statistics.median(gains):.2f}, smallest {min(gains):.2f}, "
        f"{len(rows)} files, one thread, medians of {options.rounds} interleaved rounds; each file "
        "is scanned anew each time.",
    )


def reader_of(path: Path) -> Callable[[], int]:
    """Ours: resized while decoding, uint8 all the way, normalised once."""
    request = DecodeRequest(path=str(path), sampler=Recipe(**RECIPE).sample, resize=Resize())

    def read() -> int:
        path.touch()  # a file that changed is scanned anew
        count = 0
        for frames in stream_frames(request):
            pixels = (frames.data.float() / 255 - 0.5) / 0.5
            count += len(pixels)
        return count

    return read


def usual_reader_of(path: Path) -> Callable[[], int]:
    """The usual way: full-size frames from decord, then the processor of transformers."""
    import decord
    from transformers import SiglipImageProcessor

    processor = SiglipImageProcessor(size={"height": 224, "width": 224})

    def read() -> int:
        reader = decord.VideoReader(str(path), num_threads=1)
        index = np.linspace(0, len(reader) - 1, min(FRAMES, len(reader))).astype(int)
        frames = reader.get_batch(index).asnumpy()
        return len(processor(images=list(frames), return_tensors="pt")["pixel_values"])

    return read


# -- the job -------------------------------------------------------------------------------------


def bench_job(options: argparse.Namespace, scratch: Path) -> None:
    """Wall of the job against the loop, and against what the hardware allows."""
    clips = make_corpus(scratch, count=40)
    plain = prepare(Recipe(**RECIPE))
    waiting = with_encoder(plain, Waiting(plain.encoder, WAIT_S))
    vit = with_encoder(plain, tiny_vit(scratch))
    rows = []
    for name, prepared, workers in (
        (f"waits {WAIT_S} s a clip", waiting, 2),
        ("dct on the CPU", plain, 2),
        ("small ViT on the CPU", vit, 2),
    ):
        rows.append((name, workers, *race(prepared, clips, workers, options.rounds, scratch)))
    publish(
        "job",
        "40 clips of 480x270 and 3 to 6 s: the job against the naive loop, wall seconds",
        "python scripts/bench_extract.py job",
        ("encoder", "workers", "loop", "job", "job / bound", "loop / job"),
        rows,
        "bound = max(decode / workers, encode), each measured alone; readers are warm; medians of "
        f"{options.rounds} interleaved rounds.",
    )


def race(
    prepared: Prepared, clips: Path, workers: int, rounds: int, scratch: Path
) -> tuple[float, float, float, float]:
    """Medians: (loop, job, job / bound, loop / job)."""
    items = expand([str(clips)])
    with Engine(workers=workers) as engine:
        cases = {
            "loop": looping(prepared, items, scratch),
            "job": job_of(engine, prepared, items, scratch),
            "decode": decoding(prepared, items),
            "encode": encoding(prepared, items),
        }
        cases["job"]()  # the readers start
        seconds = interleaved(cases, rounds=rounds)
    bound = [max(d / workers, e) for d, e in zip(seconds["decode"], seconds["encode"], strict=True)]
    medians = (statistics.median(seconds[name]) for name in ("loop", "job"))
    return (
        *medians,
        median_ratio(seconds["job"], bound),
        median_ratio(seconds["loop"], seconds["job"]),
    )


def tiny_vit(scratch: Path) -> Encoder:
    """A SigLIP of 4 layers and width 192 with random weights."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from vidcomp.api import encoder

    folder = scratch / "vit"
    if not folder.exists():
        torch.manual_seed(0)
        config = SiglipVisionConfig(
            hidden_size=192, intermediate_size=384, num_hidden_layers=4, num_attention_heads=3
        )
        SiglipVisionModel(config).save_pretrained(folder)
        size = {"height": 224, "width": 224}
        settings = {"image_processor_type": "SiglipImageProcessor", "size": size, "resample": 3}
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True}
        settings |= {"rescale_factor": 1 / 255, "do_normalize": True, "do_resize": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return encoder("hf", model=str(folder))


# -- memory --------------------------------------------------------------------------------------


def bench_memory(_: argparse.Namespace, scratch: Path) -> None:
    """Peak memory over length: the tokens are handed on chunk by chunk."""
    rows = []
    for name, seconds in (("60 s", 60), ("60 min", 3600)):
        path = scratch / f"{seconds}.mp4"
        write_noise(path, seconds)
        command = [sys.executable, __file__, "--peak", str(path)]
        peaks = [
            json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
            for _ in range(3)
        ]
        rows.append((name, peaks[0]["tokens"], statistics.median(p["peak_mb"] for p in peaks)))
    publish(
        "memory",
        "Peak memory of decode and encode at 2 frames per second, tokens handed on chunk by chunk",
        "python scripts/bench_extract.py memory",
        ("video", "tokens", "peak MB"),
        rows,
        f"60 min takes {rows[1][2] / rows[0][2]:.2f} times the memory of 60 s.",
    )


def peak_of(path: Path) -> dict[str, float]:
    """Decode and encode one video, dropping each chunk's tokens; peak of this process."""
    import resource

    recipe = Recipe(**{**RECIPE, "sample": {"name": "fps", "fps": 2}})
    prepared = prepare(recipe)
    request = prepared.request(path)
    tokens = sum(len(chunk) for chunk in prepared.encoder.stream(stream_frames(request)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tokens": tokens, "peak_mb": round(peak, 1)}


if __name__ == "__main__":
    main()
