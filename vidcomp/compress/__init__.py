"""Stages without weights that bring a video down to an exact number of tokens.

``vidcomp.compress`` is this package and the one-line call at once: ``vidcomp.compress("clip.mp4",
budget=196)`` is ``vidcomp.api.compress``.  A function of that name beside the package would be
hidden by whichever module is imported later.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # By name: the layer above is reached only when a user calls it.
        return import_module("vidcomp.api").compress(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
