"""What a run was made with: versions, machine, device."""

import os
import platform
import re
import socket
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["git_commit", "machine", "process_started", "versions", "without_secrets"]

_PACKAGES = ("vidcomp", "torch", "transformers", "av", "decord")
_DRIVER = Path("/proc/driver/nvidia/version")
_USER = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?#]*)[?#]\S*")


def versions() -> dict[str, str]:
    """Library versions that touched the numbers: provenance, not part of the fingerprint."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def machine(device: str) -> dict[str, Any]:
    """Where a run happens, in plain JSON values.

    Args:
        device: of the encoder, as given to torch.
    """
    import torch

    found = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "pid": os.getpid(),
        "process_started": process_started(os.getpid()),
        "cores": os.cpu_count(),
        "device": device,
        "device_name": None,
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "ffmpeg": _ffmpeg(),
    }
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        found["device_name"] = torch.cuda.get_device_name(device)
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


def process_started(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start; tells it from a later one.

    Returns:
        ``None`` if there is no such process, or on systems that do not say.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def git_commit() -> str | None:
    """The commit of the checkout that vidcomp runs from; ``None`` for an installed package."""
    import vidcomp

    git = Path(vidcomp.__file__).parents[1] / ".git"
    with suppress(OSError, ValueError):
        if git.is_file():  # a further working tree of a repository
            git = (git.parent / git.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        return _commit_of(git, head.partition("ref:")[2].strip())
    return None


def without_secrets(text: str) -> str:
    """The text, its URLs without passwords and without queries, which may hold signatures."""
    return _QUERY.sub(r"\1?...", _USER.sub("...@", text))


def _commit_of(git: Path, name: str) -> str | None:
    shared = git
    if (git / "commondir").is_file():
        shared = (git / (git / "commondir").read_text().strip()).resolve()
    for folder in (git, shared):
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
    for line in (shared / "packed-refs").read_text().splitlines():
        if line.endswith(f" {name}"):
            return line.split()[0]
    return None


def _driver() -> str | None:
    """Version of NVIDIA's driver, where Linux tells it."""
    try:
        first = _DRIVER.read_text().partition("\n")[0]
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d+[\d.]*)\s", first)
    return found[1] if found else None


def _ffmpeg() -> dict[str, str]:
    """Versions of the FFmpeg libraries that PyAV is linked to."""
    import av

    return {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
