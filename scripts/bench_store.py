"""The token cache and its loader against bare copies, torch's loader and the peers.

    python scripts/bench_store.py [PART]... [--rounds N] [--dir DIR] [--size large|small|both]

``read``       random reads, warm and cold, against a memory map and a copy
``write``      writing and syncing, against an append to one file
``loader``     epochs of batches, against copies of the same bytes and torch's ``DataLoader``
``peers``      shuffled samples per second against LitData, WebDataset and MosaicML streaming, each
               in an environment below ``--peers`` (``scripts/bench_peers/setup.sh`` makes them)
``open``       opening a store of a million records: seconds and memory
``resume``     starting again in the middle of an epoch of 250,000 steps
``precision``  reading int8 and compressed stores, against bfloat16

All are ratios taken in one process round by round, but for ``open`` and ``resume``.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from bench_store_parts.loading import bench_loader
from bench_store_parts.opening import bench_open, child_open
from bench_store_parts.peers import bench_peers
from bench_store_parts.precision import bench_precision
from bench_store_parts.reading import bench_read
from bench_store_parts.resuming import bench_resume, child_resume
from bench_store_parts.writing import bench_write

PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "read": bench_read,
    "write": bench_write,
    "loader": bench_loader,
    "peers": bench_peers,
    "open": bench_open,
    "resume": bench_resume,
    "precision": bench_precision,
}


def main() -> None:
    """Run the parts that were asked for."""
    options = parsed()
    torch.set_num_threads(1)
    if options.child:
        if options.state:
            child_resume(options.child, options.dir, options.state)
        else:
            child_open(options.child, options.dir, options.records)
        return
    options.script = __file__
    folder = Path(tempfile.mkdtemp(dir=options.dir, prefix="bench_store-"))
    try:
        for part in options.parts or PARTS:
            PARTS[part](options, folder)
    finally:
        shutil.rmtree(folder)


def parsed() -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dir", type=Path, help="where files are written; by default a temporary")
    parser.add_argument("--size", choices=("large", "small", "both"), default="both")
    parser.add_argument("--large", type=int, default=160, help="large records")
    parser.add_argument("--small", type=int, default=2500, help="small records")
    parser.add_argument("--records", type=int, default=1_000_000, help="of the part open")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument("--passes", type=int, default=4, help="epochs a round, of loaders")
    parser.add_argument("--steps", type=int, default=250_000, help="of the part resume")
    parser.add_argument("--trial", action="store_true", help="print, but do not publish")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
