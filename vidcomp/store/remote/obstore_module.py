"""obstore of this process: a forked one gets a copy of its own.

Threads of obstore's runtime do not survive a fork, and what is left of it shares its poll
descriptor with the parent: a child that used it would wait for ever and disturb its parent.
So a child loads the library once more, from other bytes, and leaves the inherited one alone.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from vidcomp.errors import MissingExtraError

__all__ = ["load_obstore"]

_NAME = "obstore"
_LIBRARY = "obstore._obstore"

_lock = threading.Lock()
_inherited: list[ModuleType] = []
"""Never let go: the end of their objects would reach into the parent's runtime."""
_owner = os.getpid()
"""The process that the modules in ``sys.modules`` belong to."""


def load_obstore() -> ModuleType:
    """The package, safe to be used in this process, with ``store`` and ``exceptions``.

    Raises:
        MissingExtraError: it is not installed.
    """
    with _lock:
        if _owner != os.getpid():
            _renew()
        try:
            package = importlib.import_module(_NAME)
            for name in ("store", "exceptions"):
                importlib.import_module(f"{_NAME}.{name}")
        except ImportError as error:
            raise MissingExtraError(
                f"object stores need obstore, which is not installed ({error}): "
                f"pip install 'vidcomp[s3]'"
            ) from error
        return package


def _renew() -> None:
    global _owner
    library = sys.modules.get(_LIBRARY)
    if library is not None:
        for name in [n for n in sys.modules if n == _NAME or n.startswith(f"{_NAME}.")]:
            _inherited.append(sys.modules.pop(name))
        sys.modules[_LIBRARY] = _load_copy(Path(str(library.__file__)))
    _owner = os.getpid()


def _load_copy(library: Path) -> ModuleType:
    """Load a shared library from a copy, as the loader knows files by their identity."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(_NAME)  # stays open: the next fork reads it by this name
        with library.open("rb") as source, open(fd, "wb", closefd=False) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return _load(f"/proc/self/fd/{fd}")
    fd, path = tempfile.mkstemp(suffix=library.suffix)
    os.close(fd)
    try:
        shutil.copyfile(library, path)
        return _load(path)
    finally:
        with suppress(OSError):
            Path(path).unlink()


def _load(path: str) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(_LIBRARY, path)
    spec = importlib.util.spec_from_file_location(_LIBRARY, path, loader=loader)
    if spec is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # the old one may be held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
