"""Projectors whose queries read a window each, that the laws run on."""

from collections.abc import Mapping
from typing import Any

__all__ = ["WINDOWED_CASES"]

EDGETAM = {"num_latents": 2, "heads": 2, "dim_head": 4, "dim_ff": 24}

WINDOWED_CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "tokenpacker": ("tokenpacker", {"dim_hidden": 16, "heads": 2}),
    "tokenpacker_frames": (
        "tokenpacker",
        {"scale_factor": 3, "dim_hidden": 16, "heads": 1, "max_frames": 2},
    ),
    "molmo2": (
        "molmo2",
        {"dim_hidden": 12, "heads": 2, "key_heads": 2, "dim_head": 6, "dim_ff": 24},
    ),
    "molmo2_grouped": (
        "molmo2",
        {
            "pooling_size": (2, 3),
            "dim_hidden": 12,
            "heads": 4,
            "key_heads": 2,
            "dim_head": 3,
            "dim_ff": 24,
            "max_frames": 3,
        },
    ),
    "edgetam_perceiver": ("edgetam_perceiver", {**EDGETAM, "window_grid": (2, 3), "max_frames": 2}),
    "edgetam_perceiver_wide": (
        "edgetam_perceiver",
        {**EDGETAM, "window_grid": (3, 2), "dim_hidden": 16, "positions": "none", "depth": 1},
    ),
}
"""Name in the registry and settings, by a name of the case."""
