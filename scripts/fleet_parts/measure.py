"""Measures what one video costs here: decode, encode, compress, write, and the engine around it.

All are CPU seconds of one thread, which a busy machine changes less than wall time, but for what
waits on the disk or on a process to start.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from _bench import cpu_s, machine, write_video
from numpy.typing import NDArray
from safetensors import safe_open

from vidcomp.api import Gathered, Prepared, encode_stream, prepare
from vidcomp.config import identity, load_recipe
from vidcomp.pipelines.extraction.run_options import Options
from vidcomp.pipelines.extraction.worker import Worker
from vidcomp.pipelines.inputs import Item, source_id
from vidcomp.sample.decode import stream_frames
from vidcomp.sample.decode.isolate import DecodeWorker
from vidcomp.store import CacheWriter
from vidcomp.store.storage import open_storage

from .costs import Costs, fit_decode

__all__ = ["measure"]

FPS, GOP_S, BASE_S = 25, 2, 8
RECIPE = "embedded"


def measure(
    *,
    heights: tuple[int, ...] = (360, 720, 1080),
    repeats: tuple[int, ...] = (1, 4, 16, 64),
    rounds: int = 3,
    num_tiny: int = 150,
) -> Costs:
    """The costs of the recipe ``embedded`` on clips that are written for it.

    Args:
        heights: of the pictures, 16:9.
        repeats: lengths of the clips, in multiples of ``BASE_S`` seconds, rising.
        rounds: of which the median counts.
        num_tiny: videos of the run that tells the engine's overhead.
    """
    torch.set_num_threads(1)
    prepared = prepare(load_recipe(RECIPE), batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        points, clips = {}, {}
        for height in heights:
            clips[height] = [_clip(scratch, height, BASE_S * times, times) for times in repeats]
            points[height] = {
                float(BASE_S * times): _median(partial(_decode, prepared, path), rounds)
                for times, path in zip(repeats, clips[height], strict=True)
            }
        video = _gathered(prepared, clips[heights[0]][0])
        encode = _median(lambda: prepared.encode(_frames(prepared, clips[heights[0]][0])), 5)
        stored = _store(prepared, video, scratch)
        return Costs(
            recipe=RECIPE,
            num_frames=video.num_frames,
            frame_bytes=_frames(prepared, clips[heights[0]][0])[0].data[0].nbytes,
            decode={height: fit_decode(found) for height, found in points.items()},
            encode_per_frame_s=encode / video.num_frames,
            compress_s=_median(video.reduce, 5),
            overhead_s=_overhead(prepared, scratch, num_tiny),
            meta_nbytes=_meta_nbytes(prepared, clips[heights[0]][0], scratch),
            child_start_s=_child_start(prepared, clips[heights[0]][0]),
            details={
                "machine": machine(),
                "clips": f"H.264, {FPS} frames/s, a key frame every {GOP_S} s, moving blocks",
                "decode_cpu_s_by_height_and_length": points,
                "rounds": rounds,
            },
            **stored,
        )


def _median(run: Callable[[], object], rounds: int) -> float:
    """CPU seconds of one call."""
    run()
    seconds = []
    for _ in range(rounds):
        before = cpu_s()
        run()
        seconds.append(cpu_s() - before)
    return statistics.median(seconds)


def _decode(prepared: Prepared, path: Path) -> int:
    path.touch()  # a file that changed is scanned anew
    return sum(len(chunk) for chunk in stream_frames(prepared.request(path)))


def _frames(prepared: Prepared, path: Path) -> list[Any]:
    return list(stream_frames(prepared.request(path)))


def _gathered(prepared: Prepared, path: Path) -> Gathered:
    request = prepared.request(path)
    return encode_stream(prepared, stream_frames(request), request)


# -- clips ---------------------------------------------------------------------------------------


def _clip(scratch: Path, height: int, length_s: int, times: int) -> Path:
    """A clip of that length: the first one coded, longer ones its packets over and over."""
    base = scratch / f"{height}.mp4"
    if not base.exists():
        write_video(base, _pictures(height), fps=FPS)
    if times == 1:
        return base
    path = scratch / f"{height}_{length_s}.mp4"
    with av.open(str(path), "w") as output:
        stream: Any = None
        for turn in range(times):
            with av.open(str(base)) as source:
                track: Any = source.streams.video[0]
                stream = stream or output.add_stream_from_template(track)
                shift = int(turn * BASE_S / track.time_base)
                for packet in source.demux(track):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = stream
                    output.mux(packet)
    return path


def _pictures(height: int) -> Iterator[NDArray[np.uint8]]:
    """Coarse noise that moves, as the other benchmarks have it."""
    width = height * 16 // 9 // 2 * 2
    rng = np.random.default_rng(height)
    side = max(8, height // 20)
    coarse = rng.integers(0, 255, (height // side + 1, width // side + 1, 3), dtype=np.uint8)
    base = coarse.repeat(side, 0).repeat(side, 1)[:height, :width]
    for t in range(BASE_S * FPS):
        yield np.roll(base, (2 * t, 5 * t), axis=(0, 1))


# -- the store and the engine --------------------------------------------------------------------


def _store(prepared: Prepared, video: Gathered, scratch: Path) -> dict[str, float]:
    """Adding records, and making them visible."""
    small, out, count = video.reduce(), scratch / "store", 2000
    writer = CacheWriter(
        out, identity=identity(prepared.recipe), weights={}, settings=prepared.recipe.store
    )
    about = {"seconds": 8.0, "num_frames": 32, "tokens_in": video.num_tokens}
    with writer:
        before = cpu_s()
        for i in range(count):
            writer.add(f"folder/of/videos/{i:08}.mp4", small, about, None)
        write = (cpu_s() - before) / count
        commits = []
        for i in range(9):
            writer.add(f"another/{i:08}.mp4", small, about, None)
            before = time.perf_counter()
            writer.seal()
            commits.append(time.perf_counter() - before)
    return {"write_s": write, "commit_s": statistics.median(commits[1:])}


def _overhead(prepared: Prepared, scratch: Path, count: int) -> float:
    """CPU seconds a tiny video takes in the whole job beyond its own decode, encode and write.

    The slope between a short and a long run: starting costs both the same.
    """
    tiny = scratch / "tiny.mp4"
    picture = np.full((32, 32, 3), 90, np.uint8)
    write_video(tiny, [picture, picture + 60], fps=10)

    def job(number: int, turn: int) -> float:
        items = [Item(key=f"{i}", path=str(tiny)) for i in range(number)]
        storage = open_storage(scratch / f"job{number}_{turn}")
        before = cpu_s()
        with Worker(storage, prepared.recipe, Options(workers=1)) as worker:
            assert sum(receipt.status == "ok" for receipt in worker.run(items)) == number
        return cpu_s() - before

    def alone() -> None:
        video = _gathered(prepared, tiny)
        video.reduce()

    slopes = [(job(count + 10, turn) - job(10, turn)) / count for turn in range(3)]
    return max(0.0, statistics.median(slopes) - _median(alone, 21))


def _meta_nbytes(prepared: Prepared, path: Path, scratch: Path) -> int:
    """Of the JSON that the job writes into a record."""
    item = Item(key="folder/of/videos/00000000.mp4", path=str(path), source=source_id(str(path)))
    storage = open_storage(scratch / "meta")
    with Worker(storage, prepared.recipe, Options(workers=1, isolation="thread")) as worker:
        list(worker.run([item]))
    (shard,) = (scratch / "meta" / "shards").iterdir()
    with safe_open(shard, "pt") as file:
        return len(bytes(file.get_tensor(f"{item.key}/meta").tolist()).rstrip())


def _child_start(prepared: Prepared, path: Path) -> float:
    """Wall seconds from starting a decode process to its first frames, less those of decoding."""
    seconds = []
    for _ in range(3):
        with DecodeWorker() as worker:
            times = []
            for _ in range(2):
                before = time.perf_counter()
                for _ in worker.frames(prepared.request(path)):
                    pass
                times.append(time.perf_counter() - before)
            seconds.append(max(0.0, times[0] - times[1]))
    return statistics.median(seconds)
