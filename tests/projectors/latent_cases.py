"""Projectors with latents that the laws run on."""

from collections.abc import Mapping
from typing import Any

__all__ = ["LATENT_CASES"]

SMALL = {"dim_latent": 12, "cross_dim_head": 6, "latent_heads": 2, "latent_dim_head": 4}
QWEN = {"num_latents": 4, "latent_grid": (2, 2), "dim_head": 2}

LATENT_CASES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "idefics2": (
        "idefics2",
        {
            "num_latents": 3,
            "hidden": 16,
            "depth": 2,
            "heads": 4,
            "key_heads": 2,
            "dim_head": 3,
            "ff_mult": 2,
            "frames_per_clip": 2,
            "max_frames": 2,
        },
    ),
    "perceiver_io": (
        "perceiver_io",
        {
            **SMALL,
            "num_outputs": 3,
            "dim_query": 8,
            "num_latents": 4,
            "depth": 2,
            "tie_layers": True,
            "decoder_ff": True,
            "freq_bands": 2,
        },
    ),
    "perceiver_iterative": (
        "perceiver_iterative",
        {**SMALL, "num_latents": 3, "depth": 3, "tie_layers": True, "frames_per_clip": 3},
    ),
    "perceiver_hf": (
        "perceiver_hf",
        {
            "num_latents": 3,
            "dim_latent": 12,
            "depth": 1,
            "num_blocks": 2,
            "cross_heads": 1,
            "latent_heads": 2,
            "freq_bands": 1,
            "max_frames": 3,
        },
    ),
    "set_transformer": (
        "set_transformer",
        {"num_latents": 3, "dim_hidden": 16, "num_inds": 4, "frames_per_clip": None},
    ),
    "set_seeds": (
        "set_transformer",
        {
            "num_latents": 3,
            "dim_hidden": None,
            "heads": 1,
            "encoder_depth": 0,
            "decoder_depth": 1,
            "norm": True,
            "frames_per_clip": 2,
            "max_frames": 2,
        },
    ),
    "qwen_vl": ("qwen_vl", {**QWEN, "frames_per_clip": 3, "max_frames": 3}),
    "minicpmv": ("minicpmv", {"num_latents": 3, "dim_head": 2}),
    "minicpmv_3d": ("minicpmv_3d", {"num_latents": 3, "dim_head": 2, "frames_per_clip": 3}),
    "mqt": (
        "mqt",
        {
            "num_latents": 9,
            "latent_grid": (3, 3),
            "heads": 1,
        },
    ),
    "qformer_light_full": (
        "qformer_light",
        {
            "num_latents": 3,
            "dim": 16,
            "heads": 2,
            "ff_mult": 2,
            "order": "pre",
            "self_attention": True,
            "positions": True,
            "frames_per_clip": 2,
        },
    ),
}
"""Name in the registry and settings, by a name of the case."""
