"""Where the unfinished shards of a remote store lie: a folder of this machine, one a store."""

import hashlib
import os
import re
import sys
from pathlib import Path

__all__ = ["default_staging", "staging_folder", "store_slug"]


def default_staging() -> Path:
    """The user's folder for the staging of all remote stores.

    It is the one for state and not the one for caches: what lies there was promised to survive.
    """
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state")
    return base / "vidcomp" / "staging"


def staging_folder(url: str, staging: Path | None) -> Path:
    """The folder of the store at ``url``, the same in every process.

    Args:
        url: without a slash at its end.
        staging: of all stores; ``None`` for the user's own.
    """
    return (staging or default_staging()).absolute() / store_slug(url)


def store_slug(url: str) -> str:
    """A file name for a URL: its end for people, and a hash of all of it."""
    end = re.sub(r"[^A-Za-z0-9._-]+", "-", url.rsplit("/", 1)[-1]).strip("-.")[:40] or "store"
    return f"{end}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
