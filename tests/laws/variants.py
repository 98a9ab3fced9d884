"""Settings under which each compressor has to keep the laws, beside its defaults."""

import torch

from vidcomp.compress.base import QueryAware
from vidcomp.compress.pipeline import Pipeline
from vidcomp.config import Stage
from vidcomp.registry import COMPRESSORS
from vidcomp.types import QueryFeatures

__all__ = ["STAGES", "keeps_means", "keeps_raster_order", "kind_of"]

_GRID = [{"axes": "space"}, {"axes": "time"}, {"h": 2}, {"t": 1, "w": 1}]

VARIANTS = {
    "cdpruner": [
        {"relevance": "similar"},
        {"mode": "published", "frame_tokens": 1},
        {"mode": "published", "frame_tokens": 10},
    ],
    "chat_univi": [
        {"event_rate": 0.5, "levels": (2, 1)},
        {"event_rate": 1.0, "levels": (1,), "neighbours": (2,)},
        {"mode": "published", "levels": (4, 2, 1)},
        {"mode": "published", "levels": (2, 2), "event_rate": 0.5},
    ],
    "divprune": [{"mode": "published"}, {"mode": "published", "retention": 0.25}],
    "dpc_knn": [
        {"scope": "video", "neighbours": 2},
        {"scope": "frame"},
        {"segment_tokens": 9},
        {"mode": "published"},
    ],
    "simple_cluster": [{"rounds": 1, "theta": None}, {"direct": 1}, {"theta": 100.0}],
    "ustc": [
        {"importance": "norm", "similarity": 0.0},
        {"segment_tokens": 9, "context": 0.0},
        {"context": 1.0},
    ],
    "prunevid": [
        {"threshold": 0.2, "neighbours": 2},
        {"threshold": -1.0, "frame_features": "pooled"},
        {"mode": "published", "retention": 0.1},
    ],
    "holitom": [
        {"threshold": 0.3, "neighbours": 2},
        {"threshold": -1.0, "contextual": 0.5, "importance": "norm"},
        {"threshold": 0.0, "max_frames": 2, "contextual": 1.0, "importance": "norm"},
        {"mode": "published", "retention": 0.2, "importance": "norm"},
    ],
    "fastvid": [
        {"num_segments": 1, "threshold": -1.0, "max_frames": 2, "frame_features": "pooled"},
        {"context": 1.0, "stride": 1, "importance": "norm"},
        {"context": 0.0, "stride": 2, "importance": "norm", "neighbours": 1},
        {"mode": "published", "retention": 0.3, "importance": "norm"},
        {"mode": "published", "retention": 0.35, "stride": 1, "importance": "norm"},
    ],
    "flashvid": [
        {"num_segments": 1, "threshold": -1.0, "link": -1.0, "max_frames": 2},
        {"num_segments": 2, "threshold": -1.0, "selection": "event", "importance": "norm"},
        {"salient": 0.0, "selection": "diversity", "link": 0.2, "neighbours": 1},
        {"salient": 1.0, "selection": "diversity"},
        {"mode": "published", "retention": 0.2, "importance": "norm"},
        {"mode": "published", "retention": 0.2, "selection": "event", "num_segments": 2},
        {"mode": "published", "retention": 0.2, "selection": "diversity", "threshold": -1.0},
    ],
    "dycoke": [{"drop": 1.0}, {"mode": "published", "drop": 0.95}],
    "longvu": [
        {"frame_threshold": 2.0, "chunk": 2},
        {"frame_threshold": -1.0, "window": 2, "frame_features": "pooled"},
        {"mode": "published", "frame_threshold": 2.0, "chunk": 2},
        {"mode": "published", "frame_threshold": 0.1, "window": 3, "threshold": 0.0},
    ],
    "longvu_query": [
        {"coarse": 0.1, "chunk": 2, "frame_threshold": 2.0},
        {"coarse": 1.0, "window": 2, "frame_threshold": -1.0},
    ],
    "prumerge": [
        {"importance": "norm", "plus": True},
        {"metric": "keys", "neighbors": 2},
        {"mode": "published"},
        {"mode": "published", "importance": "norm"},
    ],
    "scissor": [
        {"first": 1.0},
        {"mode": "published", "threshold": -0.2},
        {"mode": "published", "threshold": 0.6},
    ],
    "sttm": [
        {"heads": 2},
        {"mode": "published", "spatial": -0.5, "temporal": -0.2},
        {"mode": "published", "spatial": -1.0, "temporal": None, "root_level": 0},
        {"mode": "published", "spatial": 0.2, "temporal": 0.0, "weighted": True},
    ],
    "visionzip": [
        {"importance": "norm"},
        {"metric": "keys", "dominant": 0.3},
        {"mode": "published"},
        {"mode": "published", "importance": "norm", "dominant": 0.0},
    ],
    "adaptive_pool": _GRID,
    "avg_pool": _GRID,
    "bilinear_pool": _GRID,
    "max_pool": _GRID,
    "stride": _GRID,
    "moviechat": [{"short": 2, "merged": 1}, {"mode": "published", "short": 3, "merged": 1}],
    "dtd": [
        {"reference": "last_kept"},
        {"share": 0.5},
        {"mode": "at_most", "threshold": 0.5},
        {"mode": "at_most", "threshold": 0.5, "reference": "last_kept"},
        {"mode": "at_most", "share": 0.75},
        {"mode": "published", "threshold": -0.5},
        {"mode": "published", "share": 0.9},
    ],
    "evs": [
        {"reference": "last_kept"},
        {"mode": "published", "pruning_rate": 0.9},
        {"mode": "published", "pruning_rate": 0.7, "reference": "last_kept"},
    ],
    "slowfast": [
        {"slow_frames": 2, "ratio": 2},
        {"mode": "published", "slow_frames": 1, "slow_pool": 2, "fast": 2},
    ],
    "llava_video_slowfast": [
        {"stride": 2},
        {"stride": 1},
        {"mode": "published", "stride": 3},
    ],
    "memory_bank": [{"mode": "published", "length": 2}, {"mode": "published", "length": 1}],
    "random": [{"seed": 7}],
    "static_average": [
        {"reference": "first"},
        {"reference": "mean"},
        {"mode": "at_most", "threshold": 0.5},
        {"mode": "at_most", "threshold": 0.0, "reference": "mean"},
        {"mode": "published", "threshold": -0.5},
        {"mode": "published", "threshold": -1.0, "reference": "first"},
    ],
    "partition": [
        {"weight": "saliency"},
        {"weight": "query", "sharpness": 2.0},
        {"segment_frames": 2},
        {"time_price": 3.0, "segment_frames": 8},
        {"time_price": 0.2, "segment_frames": 3},
        {"cut_below": 0.5, "cuts": (1, 4)},
        {"min_tokens_per_frame": 3},
    ],
    "tome": [
        {"window_tokens": 2},
        {"window_tokens": 9, "rounds": 4},
        {"scope": "video"},
        {"mode": "published"},
        {"scope": "frame"},
        {"scope": "clip", "clip_frames": 2},
        {"scope": "clip", "clip_frames": 2, "mode": "published"},
        {"metric": "keys"},
        {"metric": "keys", "heads": 2},
        {"rounds": 3},
    ],
    "unicomp": [
        {"metric": "keys", "frame_gap": 0.5},
        {"token_gap": 1.5, "frame_gap": 2.0},
        {"mode": "published", "token_gap": 0.5},
        {"mode": "published", "retention": 0.5, "token_gap": 0.0, "frame_gap": 1.0},
    ],
    "v_cast": [
        {"min_tokens": 0, "temperature": 0.1},
        {"mode": "published"},
        {"mode": "published", "min_tokens": 3, "retention": 0.1},
    ],
    "vidcom2": [
        {"temperature": 1.0},
        {"mode": "published"},
        {"mode": "published", "retention": 0.05},
    ],
}


class Asked:
    """A stage that is bound, each time, to a question as wide as the tokens that it is given."""

    def __init__(self, stage):
        self.stage = stage

    def __getattr__(self, name):
        return getattr(self.stage, name)

    def __repr__(self):
        return repr(self.stage)

    def __call__(self, video, budget):
        return self._bind(video)(video, budget)

    def plan(self, video, budget):
        return self._bind(video).plan(video, budget)

    def many(self, batch, budgets):
        return self._bind(batch).many(batch, budgets)

    def _bind(self, video):
        dim = video.tokens.shape[1] if video.tokens.ndim == 2 else 1
        draw = torch.Generator().manual_seed(3)
        return self.stage.bind(QueryFeatures(embedding=torch.randn(2, dim, generator=draw)))


def _all_stages():
    for name in COMPRESSORS.names():
        for settings in [{}, *VARIANTS.get(name, [])]:
            label = ",".join(f"{k}={v}" for k, v in settings.items())
            stage = COMPRESSORS.make(name, **settings)
            yield f"{name}({label})", Asked(stage) if isinstance(stage, QueryAware) else stage
    make = COMPRESSORS.make
    pipelines = [
        (Stage(make("norm_topk"), retention=0.7), Stage(make("tome"))),
        (Stage(make("avg_pool"), retention=0.5), Stage(make("uniform"))),
        (Stage(make("max_pool"), retention=0.6), Stage(make("tome"))),
        (Stage(make("tome"), retention=0.6), Stage(make("avg_pool"))),
        (
            Stage(make("static_average", mode="at_most", threshold=0.9), retention=0.9),
            Stage(make("stride"), retention=0.5),
            Stage(make("random", seed=3)),
        ),
    ]
    for stages in pipelines:
        names = " > ".join(s.compressor.name for s in stages)
        yield f"pipeline({names})", Pipeline(stages)


STAGES = dict(_all_stages())


_OVERLAP_AS_PUBLISHED = {"fastvid", "flashvid"}


def kind_of(stage):
    """The tokens of some merging methods overlap as published, so that provenance is soft."""
    soft = getattr(stage, "mode", "") == "published" and stage.name in _OVERLAP_AS_PUBLISHED
    return "resample" if soft else stage.kind


_ORDERED_AS_PUBLISHED = {
    "cdpruner",
    "divprune",
    "dtd",
    "evs",
    "static_average",
    "v_cast",
    "vidcom2",
}


def keeps_raster_order(stage):
    """Published modes return the original's order."""
    return getattr(stage, "mode", "") != "published" or stage.name in _ORDERED_AS_PUBLISHED


_NO_MEANS = {
    "flashvid",
    "holitom",
    "moviechat",
    "prumerge",
    "scissor",
    "sttm",
    "visionzip",
    "slowfast",
}


def keeps_means(stage):
    """The published values of some merging methods are sums or unweighted means, on purpose."""
    return getattr(stage, "mode", "") != "published" or stage.name not in _NO_MEANS
