"""Importing pytorchvideo's models where torchvision is missing or made for another torch.

pytorchvideo imports torchvision for one class of its detection heads, which are not used here, and
does not declare it.  If the import fails, empty stand-ins take torchvision's place while the models
are imported and are removed again, so that whoever looks for torchvision later sees the truth.
"""

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

from torch import nn

from vidcomp.errors import MissingExtraError

__all__ = ["import_models"]


def import_models(module: str, name: str) -> Any:
    """``pytorchvideo.models.<module>.<name>``.

    Raises:
        MissingExtraError: pytorchvideo is not installed or cannot be imported.
    """
    path = f"pytorchvideo.models.{module}"
    try:
        with warnings.catch_warnings():
            # Its own use of torch.jit is old; nobody here can change that.
            warnings.simplefilter("ignore", DeprecationWarning)
            return getattr(_import(path), name)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise MissingExtraError(
            f"the encoder 'pytorchvideo' needs the package pytorchvideo, which cannot be imported "
            f"({error}): run `pip install pytorchvideo`"
        ) from error


def _import(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except (ImportError, RuntimeError):
        if _works("torchvision"):
            raise
        return _import_without_torchvision(path)


def _import_without_torchvision(path: str) -> ModuleType:
    _forget("pytorchvideo")
    _forget("torchvision")
    stand_in, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    unused: Any = type("RoIAlign", (nn.Module,), {"__doc__": "Stand-in; detection heads only."})
    ops.RoIAlign = unused  # type: ignore[attr-defined]  # a module made here
    stand_in.ops = ops  # type: ignore[attr-defined]  # a module made here
    sys.modules |= {"torchvision": stand_in, "torchvision.ops": ops}
    try:
        return importlib.import_module(path)
    finally:
        for name in ("torchvision", "torchvision.ops"):
            sys.modules.pop(name, None)


def _works(package: str) -> bool:
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError):
        return False
    return True


def _forget(package: str) -> None:
    """Drop what a failed import left behind."""
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        del sys.modules[name]
