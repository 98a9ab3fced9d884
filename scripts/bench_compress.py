"""Quality, time and growth of every registered compressor.

    python scripts/bench_compress.py quality --videos DIR [--clips "*.mp4"]
    python scripts/bench_compress.py time
    python scripts/bench_compress.py scale
    python scripts/bench_compress.py hour

``quality``  on real clips at 1, 2, 5, 10 and 25 % of the tokens, by two encoders
``time``     32 frames of 27 x 27 tokens to 10 %, against an encoder and the published algorithms
``scale``    256, 900 and 3,600 frames of 14 x 14 tokens to 8,192: seconds, exponent, memory
``hour``     3,600 frames of 14 x 14 tokens of 1,152 features in bfloat16 to 8,192: seconds, memory

Each method runs in a process of its own with a time limit; what fails is listed below the table.
Linux only: the peak of memory is the kernel's.  Several parts may be given.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

# Read when torch loads its OpenMP: threads that wait must not take the cores of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from bench_compress_parts.hour import bench_hour
from bench_compress_parts.judging import bench_quality
from bench_compress_parts.scaling import bench_scale
from bench_compress_parts.timing import bench_time

PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "quality": bench_quality,
    "time": bench_time,
    "scale": bench_scale,
    "hour": bench_hour,
}

CLIPS = ("bbb_720p_30s_vp8.webm", "bikes_cuts.mp4", "flower_vp8.webm", "slides_1080p_122s.mp4")
"""A film with cuts, a race with cuts, a still camera, and slides that hardly change."""


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--videos", type=Path, help="folder of clips, for quality")
    parser.add_argument("--clips", nargs="+", default=CLIPS, help="their names, or patterns")
    parser.add_argument("--frames", type=int, help="sampled (quality: 16) or made (time: 32)")
    parser.add_argument(
        "--methods", nargs="+", default=["all"], help="names, with settings after colons"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--timeout", type=float, help="seconds for one method")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--trial", action="store_true", help="print, but do not publish")
    options = parser.parse_args()
    options.trial = options.trial or options.quick
    if options.device == "cpu":
        torch.set_num_threads(1)
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
