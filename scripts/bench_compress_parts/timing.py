"""Time of all methods, against an encoder's and that of the published algorithm."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from _memory import Peak
from torch import Tensor

from bench_compress_parts.features import asked, drifting_video, needed_extras
from bench_compress_parts.isolated import Outcome, run_isolated
from bench_compress_parts.published import PUBLISHED
from bench_compress_parts.published_clusters import PUBLISHED_CLUSTERS
from bench_compress_parts.report import Table, publish_table
from vidcomp.compress.base import Compressor
from vidcomp.pipelines.comparison import parse_methods, timed
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["bench_time", "clock", "encoder_seconds"]

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
TRANSCRIBED = PUBLISHED | PUBLISHED_CLUSTERS
_TIMEOUT_S = 1200.0
"""For ours and the published algorithm of one method: some take minutes."""
_LONG_ROUND_S = 12.0
"""A round of both that takes longer is the only one."""
_ROUNDS_S = 20.0
"""What further rounds may take."""


def bench_time(options: argparse.Namespace) -> None:
    """Seconds of every method, as a share of the encoder's."""
    grid = Grid(options.frames or 32, *((9, 9) if options.quick else (27, 27)))
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    frame_s = encoder_seconds(options.device, dtype, quick=options.quick)
    encoder_s = frame_s * grid.t
    print(f"encoder: {frame_s:.4g} s a frame", flush=True)
    labels = [method.label for method in parse_methods(options.methods)]
    timeout_s = options.timeout or _TIMEOUT_S
    arguments = (grid, 1152, dtype, options.device)
    threads = 1 if options.device == "cpu" else None
    outcomes = run_isolated(clock, labels, arguments, timeout_s=timeout_s, threads=threads)
    rows = [_row(outcome, encoder_s) for outcome in outcomes]
    rows.sort(key=lambda row: (row[2] is None, row[2] or 0.0))
    missing = " ".join(f"{o.label}: {o.reason}." for o in outcomes if o.reason)
    where = "one thread, " if options.device == "cpu" else ""
    one = "frame" if options.device == "cpu" else "of 32 frames"
    header = ("method", "scaling", "s", "% of the encoder", "MiB", "times faster than published")
    publish_table(
        options,
        Table(
            "time",
            "Compressors: time against the encoder's",
            header,
            rows,
            f"{grid.t} x {grid.h} x {grid.w} tokens of 1152 features in {_name(dtype)} to 10 %, "
            f"{where}median of 3 calls (of one that takes more than "
            f"2 s: that one). The encoder has the shape of SigLIP-so400m (384 pixels, patches of "
            f"14) and random weights: {frame_s:.4g} s, measured for one {one}, and multiplied by "
            f"{grid.t}, is {encoder_s:.4g} s. Published: the algorithm transcribed as its authors "
            f"describe it (scripts/bench_compress_parts/published*.py), on the same tokens in "
            f"float32, called in turn with ours, in seconds of the processor: median of 2 to 15 "
            f"rounds (of one that takes more than {_LONG_ROUND_S:g} s: that one). MiB: at the "
            f"peak, above the input. "
            f"{missing}",
        ),
    )


def clock(
    label: str, grid: Grid, dim: int, dtype: torch.dtype, device: str
) -> Iterator[dict[str, float]]:
    """Seconds and memory of one method; then the ratio to the published algorithm."""
    (method,) = parse_methods([label])
    extras = needed_extras(label)
    small = drifting_video(Grid(4, 4, 4), 64, extras).to(device)
    timed(lambda: asked(method.stage, small)(small, 20), small.tokens.device, 1)  # imports
    video = drifting_video(grid, dim, extras, dtype).to(device)
    stage, budget = asked(method.stage, video), grid.num_patches // 10
    with Peak(device) as peak:
        _, seconds = timed(lambda: stage(video, budget), video.tokens.device, 3)
    yield {"seconds": seconds, "mib": peak.mib}
    if method.stage.name in TRANSCRIBED:
        # In float32: some of the originals overflow or are not there in half precision.
        if dtype != torch.float32:
            video = drifting_video(grid, dim, extras).to(device)
            stage = asked(method.stage, video)
        yield {"ratio": _published_ratio(stage, TRANSCRIBED[method.stage.name], video, budget)}


def _published_ratio(
    stage: Compressor, theirs: Callable[[VideoTokens, int], Tensor], video: VideoTokens, budget: int
) -> float:
    """Times by which ours is faster than the transcription: median over interleaved rounds."""

    def a_round() -> tuple[float, float]:
        ours_s = _seconds(lambda: stage(video, budget), video.tokens.device)
        theirs_s = _seconds(lambda: theirs(video, budget), video.tokens.device)
        return theirs_s / ours_s, ours_s + theirs_s

    ratio, seconds = a_round()
    if seconds > _LONG_ROUND_S:
        return ratio
    num_rounds = min(15, max(2, int(_ROUNDS_S / seconds)))  # the first one only warmed up
    return statistics.median(a_round()[0] for _ in range(num_rounds))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call; on a processor those that it computes, whatever else the machine does."""
    if device.type != "cpu":
        return timed(call, device, 1)[1]
    started = time.process_time()
    with torch.no_grad():
        call()
    return time.process_time() - started


def encoder_seconds(device: str, dtype: torch.dtype, *, quick: bool) -> float:
    """Seconds that a SigLIP-so400m-shaped tower with random weights needs for one frame."""
    import transformers

    shape = SO400M | ({"num_hidden_layers": 2} if quick else {})
    config = transformers.SiglipVisionConfig(**shape)
    with torch.device("meta"):
        model = transformers.SiglipVisionModel(config)
    model = model.to_empty(device=device).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)  # what it is does not matter, but it must be a normal number
        for name, buffer in model.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.numel(), device=device).view(buffer.shape))
        num = 1 if device == "cpu" else 32
        pixels = torch.randn(num, 3, 384, 384, dtype=dtype, device=device)
        seconds = []
        for _ in range(2 if device == "cpu" else 5):
            if device != "cpu":
                torch.cuda.synchronize()
            started = time.perf_counter()
            model(pixel_values=pixels)
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return min(seconds) / num


def _row(outcome: Outcome, encoder_s: float) -> list[object]:
    found = {key: value for part in outcome.values for key, value in part.items()}
    seconds = found.get("seconds")
    return [
        outcome.label,
        COMPRESSORS[outcome.label.split(":")[0]].about.scaling,
        seconds,
        None if seconds is None else 100 * seconds / encoder_s,
        None if "mib" not in found else round(found["mib"]),
        found.get("ratio"),
    ]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
