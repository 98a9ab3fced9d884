"""Tiny random image tokenizers, for ``tiny_models.save_tiny`` and the encoder ``hf_ids``."""

from collections.abc import Callable
from typing import Any

from tiny_models import CLIP_COLORS, HALF, SCALE, SWITCHES, TRUNK, single
from torch import nn

_CODEBOOK_PIXELS = {
    "codebook_do_resize": True,
    "codebook_size": 32,
    "codebook_resample": 1,
    "codebook_do_center_crop": True,
    "codebook_crop_size": 32,
    "codebook_do_map_pixels": True,
    "codebook_do_normalize": True,
    "codebook_image_mean": [0.0, 0.0, 0.0],
    "codebook_image_std": [1.0, 1.0, 1.0],
}
_CODEBOOK = {"hidden_size": 8, "vocab_size": 300, "num_blocks_per_group": 1}
_VQ: dict[str, Any] = {
    "embed_dim": 6,
    "latent_channels": 8,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2],
    "num_res_blocks": 1,
}
_LLM = {
    **TRUNK,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _lively(model: nn.Module) -> nn.Module:
    """Weights as large as they come out of training, so that ids differ from patch to patch."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            nn.init.normal_(parameter, std=4 / parameter[0].numel() ** 0.5)
    return model


def _dvae() -> tuple[nn.Module, dict[str, Any]]:
    model = _lively(single("FlavaImageCodebook", "", **_CODEBOOK))
    processor = {"feature_extractor_type": "FlavaFeatureExtractor", "crop_size": 16, "size": 16}
    return model, {**processor, "resample": 3, **SWITCHES, **CLIP_COLORS, **_CODEBOOK_PIXELS}


def _flava() -> tuple[nn.Module, dict[str, Any]]:
    """The whole model, of which only the codebook is used."""
    trunk = {**TRUNK, "num_hidden_layers": 1}
    model = single(
        "Flava",
        "ForPreTraining",
        image_config={**trunk, "image_size": 16, "patch_size": 8},
        text_config={**trunk, "vocab_size": 50},
        multimodal_config=trunk,
        image_codebook_config=_CODEBOOK,
        hidden_size=32,
        projection_dim=8,
    )
    _lively(model.image_codebook)
    return model, _dvae()[1]


def _chameleon() -> tuple[nn.Module, dict[str, Any]]:
    processor = {
        "image_processor_type": "ChameleonImageProcessor",
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 1,
        "size": {"shortest_edge": 32},
        "rescale_factor": 0.0078,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [1.0, 1.0, 1.0],
        **SWITCHES,
    }
    vq = {**_VQ, "num_embeddings": 300, "resolution": 32, "attn_resolutions": [8]}
    names = {"<image>": 5, "IMGIMGA": 6}
    return single("Chameleon", vq_config=vq, vocabulary_map=names, **_LLM), processor


def _janus() -> tuple[nn.Module, dict[str, Any]]:
    processor = {
        "image_processor_type": "JanusImageProcessor",
        "min_size": 14,
        "resample": 3,
        "size": {"height": 32, "width": 32},
        **SCALE,
        **HALF,
    }
    return single("JanusVQVAE", "", num_embeddings=300, num_patches=8, **_VQ), processor


def _emu3() -> tuple[nn.Module, dict[str, Any]]:
    processor = {
        "image_processor_type": "Emu3ImageProcessor",
        "min_pixels": 24 * 24,
        "max_pixels": 40 * 40,
        "spatial_factor": 4,
        "resample": 3,
        **SCALE,
        **HALF,
    }
    vq = {**_VQ, "embed_dim": 4, "latent_channels": 4, "attn_resolutions": [2], "hidden_size": 64}
    return single("Emu3VQVAE", "", codebook_size=300, **vq), processor


TOKENIZERS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "dvae": _dvae,
    "flava": _flava,
    "chameleon": _chameleon,
    "janus": _janus,
    "emu3": _emu3,
}
"""For the encoder ``hf_ids``; ``flava`` and ``chameleon`` are whole models with a tokenizer."""
