"""What ``vidcomp doctor`` looks at, one function a group."""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from vidcomp import __version__

from .probe import CODECS

__all__ = ["Check", "models", "packages", "system", "torch_and_devices", "video"]

_PROBE_LIMIT_S = 30
_MIN_GIB = 1

_CORE = (
    *("av", "click", "einops", "numpy", "pillow", "pydantic", "PyYAML", "safetensors", "tqdm"),
    *("transformers", "xxhash"),
)
_EXTRAS = {"accelerate": "train", "matplotlib": "report", "obstore": "s3", "ray": "ray"}
"""Optional packages and the extra that installs each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    group: str
    """What it belongs to: system, torch, packages, video or models."""
    name: str
    found: str
    status: Literal["ok", "missing", "problem"] = "ok"
    """``missing``: vidcomp works without it; ``problem``: something will fail."""
    advice: str = ""
    """What to do about it; empty if nothing need be done."""


def system() -> Iterator[Check]:
    """Python, cores, memory, disk, and whether one may write here."""
    where = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    is_new = sys.version_info >= (3, 11)
    yield _need("system", "python", where, ok=is_new, advice="install Python 3.11 or newer")
    yield Check(group="system", name="vidcomp", found=__version__)
    yield Check(group="system", name="cores", found=str(_num_cores()))
    yield from _memory()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield _need(
        "system",
        "disk",
        f"{free:.0f} GiB free in {Path.cwd()}",
        ok=free >= _MIN_GIB,
        advice="free some space, or write caches elsewhere with --out",
    )
    reason = _why_not_writable()
    yield _need(
        "system",
        "this folder",
        reason or "writable",
        ok=not reason,
        advice="work in another folder, or give --out a place that you may write",
    )


def torch_and_devices() -> Iterator[Check]:
    """torch, what it can do on the CPU, and GPUs."""
    torch, reason = _import("torch")
    if torch is None:
        advice = "pip install --force-reinstall torch"
        yield _need("torch", "torch", reason, ok=False, advice=advice)
        return
    threads = torch.get_num_threads()
    yield Check(group="torch", name="torch", found=f"{torch.__version__}, {threads} threads")
    is_fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    bf16 = "fast" if is_fast else "works, but slowly: keep encode.dtype=float32 there"
    yield Check(group="torch", name="bf16 on the CPU", found=bf16)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("Apple (--device mps)")
    advice = "the recipe 'embedded' needs none; large encoders are slow without"
    if shutil.which("nvidia-smi"):
        advice = "there is an NVIDIA driver: install a CUDA build of torch and pass --device cuda"
    found = ", ".join(names) or "none, the CPU is used"
    yield _wish("torch", "GPU", found, ok=bool(names), advice=advice)


def packages() -> Iterator[Check]:
    """Packages that are needed, and those that add something."""
    for name in _CORE:
        version = _version(name)
        found = version or "not installed"
        yield _need("packages", name, found, ok=bool(version), advice=f"pip install {name}")
    yield _importable("decord", "not needed: PyAV reads every file that decord reads")
    yield _importable(
        "pytorchvideo",
        "pip install pytorchvideo, for the encoders MViT, X3D and SlowFast",
        _import_pytorchvideo,
    )
    yield _importable(
        "torchcodec",
        "pip install 'vidcomp[torchcodec]', and FFmpeg's libraries, for --backend torchcodec",
    )
    yield _importable("pyarrow", "pip install pyarrow, for manifests in parquet")
    for name, extra in _EXTRAS.items():
        version = _version(name)
        found = version or f"not installed (extra vidcomp[{extra}])"
        yield _wish("packages", name, found, ok=bool(version))


def video() -> Iterator[Check]:
    """Decodes a tiny clip of every codec with every library that is there."""
    av, reason = _import("av")
    if av is None:
        advice = "pip install --force-reinstall av"
        yield _need("video", "PyAV", reason, ok=False, advice=advice)
        return
    versions = {k: ".".join(map(str, v)) for k, v in av.library_versions.items()}
    shown = ", ".join(f"{k} {versions[k]}" for k in ("libavcodec", "libavformat") if k in versions)
    yield Check(group="video", name="FFmpeg of PyAV", found=shown)
    readers = ["pyav", *(name for name in ("decord", "torchcodec") if _version(name))]
    with tempfile.TemporaryDirectory() as folder:
        written = _probe("write", folder)
        read = {reader: _probe(reader, folder) for reader in readers}
    for codec in CODECS:
        outcome = {name: read[name].get(codec, "no clip to read") for name in readers}
        yield _codec(codec, written[codec], outcome)


def models() -> Iterator[Check]:
    """Where model weights are kept, and whether they may be downloaded."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    num = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    yield Check(group="models", name="kept here", found=f"{num} models in {folder}")
    yield _wish(
        "models",
        "downloads",
        "off (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else "on",
        ok=not constants.HF_HUB_OFFLINE,
        advice="only models that are kept here, or local folders, can be used",
    )


def _need(group: str, name: str, found: str, *, ok: bool, advice: str) -> Check:
    if ok:
        return Check(group=group, name=name, found=found)
    return Check(group=group, name=name, found=found, status="problem", advice=advice)


def _wish(group: str, name: str, found: str, *, ok: bool, advice: str = "") -> Check:
    if ok:
        return Check(group=group, name=name, found=found)
    return Check(group=group, name=name, found=found, status="missing", advice=advice)


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> Iterator[Check]:
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[n].split()[0]) / 2**20 for n in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):  # not every system tells
        return
    advice = "close other programs, or use --workers 1 and a small --batch-frames"
    found = f"{free:.1f} of {total:.1f} GiB free"
    yield _need("system", "memory", found, ok=free >= _MIN_GIB, advice=advice)


def _why_not_writable() -> str:
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            return ""
    except OSError as error:
        return f"not writable ({error.strerror})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _import(package: str) -> tuple[Any, str]:
    """The module, or ``None`` and why not."""
    try:
        return importlib.import_module(package), ""
    except Exception as error:  # noqa: BLE001  # broken native libraries raise anything
        lines = str(error).strip().splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0][:120]}"


def _importable(
    package: str, advice: str, load: Callable[[str], tuple[Any, str]] = _import
) -> Check:
    version = _version(package)
    if not version:
        return _wish("packages", package, "not installed", ok=False, advice=advice)
    module, reason = load(package)
    return _wish("packages", package, reason or version, ok=module is not None, advice=advice)


def _import_pytorchvideo(_: str) -> tuple[Any, str]:
    from vidcomp.encode._pytorchvideo import import_models
    from vidcomp.errors import MissingExtraError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return import_models("x3d", "create_x3d"), ""
        except MissingExtraError as error:
            return None, str(error.__cause__)


def _codec(codec: str, written: str, outcome: dict[str, str]) -> Check:
    """What the readers made of one codec, given whether a clip of it could be written."""
    works = [name for name, result in outcome.items() if result == "ok"]
    fails = [name for name, result in outcome.items() if result != "ok"]
    if written != "ok":
        return _wish("video", codec, f"not tried: {written}", ok=False)
    reasons = "; ".join(f"{name}: {result}" for name, result in outcome.items())[:200]
    found = f"read by {', '.join(works)}" + (f", not by {', '.join(fails)}" if fails else "")
    return _need(
        "video",
        codec,
        found if works else "read by nothing",
        ok=bool(works),
        advice=f"pip install --force-reinstall av: it brings its own FFmpeg ({reasons})",
    )


def _probe(task: str, folder: str) -> dict[str, str]:
    """One child process; what ends it is the outcome for every codec."""
    command = [sys.executable, "-m", f"{__package__}.probe", task, folder]
    try:
        child = subprocess.run(
            command, capture_output=True, timeout=_PROBE_LIMIT_S, check=False, text=True
        )
        answer: dict[str, str] = json.loads(child.stdout)
    except subprocess.TimeoutExpired:
        return dict.fromkeys(CODECS, f"no answer within {_PROBE_LIMIT_S} s")
    except ValueError:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return dict.fromkeys(CODECS, f"ended with code {child.returncode}: {last[:100]}")
    return answer
