"""vidcomp turns videos into a small, exact number of tokens for a language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "ask": "vidcomp.api",
    "compress": "vidcomp.compress",  # a package that can be called
    "compressor": "vidcomp.api",
    "encoder": "vidcomp.api",
    "prepare": "vidcomp.api",
    "projector": "vidcomp.api",
    "sampler": "vidcomp.api",
    "selector": "vidcomp.api",
    "Budget": "vidcomp.budget",
    "apportion": "vidcomp.budget",
    "Pipeline": "vidcomp.compress.pipeline",
    "Recipe": "vidcomp.config",
    "Stage": "vidcomp.config",
    "load_recipe": "vidcomp.config",
    "Resize": "vidcomp.functional.resize",
    "read_frames": "vidcomp.sample.decode",
    "stream_frames": "vidcomp.sample.decode",
    "probe": "vidcomp.sample.decode.probe",
    "Clip": "vidcomp.llm.model",
    "VideoLLM": "vidcomp.llm.model",
    "open_cache": "vidcomp.store",
    "Frames": "vidcomp.types",
    "Grid": "vidcomp.types",
    "QueryFeatures": "vidcomp.types",
    "QueryIds": "vidcomp.types",
    "Source": "vidcomp.types",
    "TokenBatch": "vidcomp.types",
    "VideoTokens": "vidcomp.types",
}

__all__ = ["__version__", *sorted(_PLACES)]

if TYPE_CHECKING:
    from vidcomp.api import ask as ask
    from vidcomp.api import compress as compress
    from vidcomp.api import compressor as compressor
    from vidcomp.api import encoder as encoder
    from vidcomp.api import prepare as prepare
    from vidcomp.api import projector as projector
    from vidcomp.api import sampler as sampler
    from vidcomp.api import selector as selector
    from vidcomp.budget import Budget as Budget
    from vidcomp.budget import apportion as apportion
    from vidcomp.compress.pipeline import Pipeline as Pipeline
    from vidcomp.config import Recipe as Recipe
    from vidcomp.config import Stage as Stage
    from vidcomp.config import load_recipe as load_recipe
    from vidcomp.functional.resize import Resize as Resize
    from vidcomp.llm.model import Clip as Clip
    from vidcomp.llm.model import VideoLLM as VideoLLM
    from vidcomp.sample.decode import read_frames as read_frames
    from vidcomp.sample.decode import stream_frames as stream_frames
    from vidcomp.sample.decode.probe import probe as probe
    from vidcomp.store import open_cache as open_cache
    from vidcomp.types import Frames as Frames
    from vidcomp.types import Grid as Grid
    from vidcomp.types import QueryFeatures as QueryFeatures
    from vidcomp.types import QueryIds as QueryIds
    from vidcomp.types import Source as Source
    from vidcomp.types import TokenBatch as TokenBatch
    from vidcomp.types import VideoTokens as VideoTokens


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vidcomp' has no attribute {name!r}")
    module = import_module(_PLACES[name])
    value = module if name == "compress" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
