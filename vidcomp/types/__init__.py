"""The values that pass between stages.

Frames (pixels with times) become VideoTokens (rows with positions, times, mass and provenance);
many VideoTokens make a TokenBatch (packed) and, only on the way into a model, PaddedTokens.
"""

from vidcomp.types.batch import PaddedTokens, TokenBatch
from vidcomp.types.frames import Frames, Source
from vidcomp.types.query import Query, QueryFeatures, QueryIds
from vidcomp.types.tokens import Grid, VideoTokens

__all__ = [
    "Frames",
    "Grid",
    "PaddedTokens",
    "Query",
    "QueryFeatures",
    "QueryIds",
    "Source",
    "TokenBatch",
    "VideoTokens",
]
