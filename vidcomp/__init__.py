"""vidcomp turns videos into a small, exact number of tokens for a language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "Budget": "vidcomp.budget",
    "apportion": "vidcomp.budget",
    "Recipe": "vidcomp.config",
    "Stage": "vidcomp.config",
    "load_recipe": "vidcomp.config",
    "Frames": "vidcomp.types",
    "Grid": "vidcomp.types",
    "Source": "vidcomp.types",
    "TokenBatch": "vidcomp.types",
    "VideoTokens": "vidcomp.types",
}

__all__ = ["__version__", *sorted(_PLACES)]

if TYPE_CHECKING:
    from vidcomp.budget import Budget as Budget
    from vidcomp.budget import apportion as apportion
    from vidcomp.config import Recipe as Recipe
    from vidcomp.config import Stage as Stage
    from vidcomp.config import load_recipe as load_recipe
    from vidcomp.types import Frames as Frames
    from vidcomp.types import Grid as Grid
    from vidcomp.types import Source as Source
    from vidcomp.types import TokenBatch as TokenBatch
    from vidcomp.types import VideoTokens as VideoTokens


def __getattr__(name: str) -> Any:  # PEP 562: a name of any kind
    if name not in _PLACES:
        raise AttributeError(f"module 'vidcomp' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
