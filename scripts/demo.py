"""From real videos to a batch of tokens, as a first look at vidcomp.

    python scripts/demo.py [VIDEO...]

Without videos it first writes sample clips to ``demo/``.  Runs ``vidcomp extract`` with the recipe
``embedded`` (nothing is downloaded), then reads the cache back through a loader and prints one
batch.  A second run finds everything cached.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from make_clips import write_clips

from vidcomp.data import CachedTokenDataset, TokenLoader
from vidcomp.errors import StoreMissError
from vidcomp.store import open_cache
from vidcomp.types import TokenBatch

FOLDER = Path("demo")
BATCH_SIZE = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="*", help="your own files; by default sample clips")
    videos = parser.parse_args().videos or [str(path) for path in sample_clips()]
    cache = FOLDER / "cache"
    code = extract(videos, cache)
    if code not in (0, 3):  # 3: some videos failed, the others are there
        return code
    keys = kept(cache, [Path(video).name for video in videos])
    if not keys:
        print("None of these videos could be read, so there is no batch to show.")
        return code
    show_batch(cache, keys)
    program = shlex.quote(str(vidcomp_command()))
    print(f"\nTry next:  {program} show {shlex.quote(videos[0])} --out {FOLDER / 'map.png'}")
    print(f"           {program} cache ls {cache}\n           {program} doctor")
    return code


def sample_clips() -> list[Path]:
    """The sample clips, written on the first run."""
    if not FOLDER.exists():
        print(f"Writing sample clips to {FOLDER}/ ...")
    return write_clips(FOLDER)


def extract(videos: list[str], cache: Path) -> int:
    """Runs the main job as a user would, and says how."""
    arguments = ["extract", *videos, "--out", str(cache)]
    print(f"$ vidcomp {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "vidcomp.pipelines.cli", *arguments]
    return subprocess.run(command, check=False).returncode


def kept(cache: Path, keys: list[str]) -> list[str]:
    """Those of ``keys`` that have a record."""
    try:
        held = open_cache(cache)
    except StoreMissError:
        return []
    return [key for key in keys if key in held]


def vidcomp_command() -> Path:
    """The command of this environment, as short as it can be typed here."""
    path = Path(sys.executable).with_name("vidcomp")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def show_batch(cache: Path, keys: list[str]) -> None:
    """One batch of these videos, packed as training would take it."""
    dataset = CachedTokenDataset(cache, keys)
    print(f"\n>>> next(iter(TokenLoader({str(cache)!r}, batch_size={BATCH_SIZE})))")
    batch: TokenBatch = next(iter(TokenLoader(dataset, BATCH_SIZE)))
    print(f"{len(batch)} video{'s' * (len(batch) != 1)}: {', '.join(batch.keys)}")
    for name in ("tokens", "offsets", "positions", "spans", "mass"):
        value = getattr(batch, name)
        print(f"  {name:<10} {list(value.shape)!s:<12} {str(value.dtype).removeprefix('torch.')}")
    for key, video in zip(batch.keys, batch, strict=True):
        heaviest = int(video.mass.argmax())
        start, stop = video.spans[heaviest].tolist()
        print(
            f"  {key}: {len(video)} tokens; the heaviest stands for {video.mass[heaviest]:.0f} "
            f"patches, {start:.1f} to {stop:.1f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
