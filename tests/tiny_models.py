"""Tiny random models on disk, laid out like checkpoints of the hub; no network, a few kB each.

``save_tiny("siglip", folder)`` writes config.json, model.safetensors and the preprocessor's file,
in the spelling that the published checkpoints use (old ones write ``"size": 224``).  The same name
and seed give the same bytes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from vidcomp.types import Frames

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CLIP_COLORS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SWITCHES = {"do_resize": True, "do_normalize": True, "do_rescale": True}
SCALE = {"rescale_factor": 1 / 255, **SWITCHES}
TRUNK: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
_TEXT = {
    **TRUNK,
    "num_hidden_layers": 1,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _two_towers(family: str, vision: dict[str, Any], text: dict[str, Any]) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{family}Config")(vision_config=vision, text_config=text)
    return getattr(transformers, f"{family}Model")(config)


def single(family: str, model: str = "Model", **settings: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{family}Config")(**settings)
    return getattr(transformers, f"{family}{model}")(config)


def _siglip() -> tuple[nn.Module, dict[str, Any]]:
    vision = {**TRUNK, "image_size": 32, "patch_size": 8}
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 3,
        **SCALE,
        **HALF,
    }
    return _two_towers("Siglip", vision, _TEXT), processor


def _siglip2() -> tuple[nn.Module, dict[str, Any]]:
    vision = {**TRUNK, "num_patches": 16, "patch_size": 8}
    processor = {
        "image_processor_type": "Siglip2ImageProcessor",
        "max_num_patches": 16,
        "patch_size": 8,
        "resample": 2,
        **SCALE,
        **HALF,
    }
    return _two_towers("Siglip2", vision, _TEXT), processor


def _clip() -> tuple[nn.Module, dict[str, Any]]:
    vision = {**TRUNK, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    text = {**_TEXT, "projection_dim": 16}
    processor = {  # as in 2021: whole numbers for sizes, no rescale factor
        "feature_extractor_type": "CLIPFeatureExtractor",
        "crop_size": 32,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 3,
        "size": 32,
        **CLIP_COLORS,
    }
    return _two_towers("CLIP", vision, text), processor


def _dino_processor(size: int, crop: int) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "crop_size": {"height": crop, "width": crop},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "resample": 3,
        "size": {"shortest_edge": size},
        **SCALE,
        **IMAGENET,
    }


def _dinov2() -> tuple[nn.Module, dict[str, Any]]:
    settings = {k: v for k, v in TRUNK.items() if k != "intermediate_size"}
    # Trained at one size, used at another, as the published ones (518 and 224).
    model = single("Dinov2", image_size=48, patch_size=8, mlp_ratio=2, **settings)
    return model, _dino_processor(36, 32)


def _dinov2_registers() -> tuple[nn.Module, dict[str, Any]]:
    settings = {k: v for k, v in TRUNK.items() if k != "intermediate_size"}
    model = single(
        "Dinov2WithRegisters",
        image_size=48,
        patch_size=8,
        mlp_ratio=2,
        num_register_tokens=3,
        **settings,
    )
    return model, _dino_processor(36, 32)


def _dinov3() -> tuple[nn.Module, dict[str, Any]]:
    model = single("DINOv3ViT", image_size=32, patch_size=8, num_register_tokens=4, **TRUNK)
    processor = {
        "image_processor_type": "DINOv3ViTImageProcessorFast",
        "size": {"height": 32, "width": 32},
        "resample": 2,
        **SCALE,
        **IMAGENET,
    }
    return model, processor


def _dinov3_convnext() -> tuple[nn.Module, dict[str, Any]]:
    model = single("DINOv3ConvNext", hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])
    return model, {**_dinov3()[1], "size": {"height": 64, "width": 64}}


def _aimv2() -> tuple[nn.Module, dict[str, Any]]:
    import transformers

    config = transformers.Aimv2VisionConfig(image_size=32, patch_size=8, **TRUNK)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 3,
        "size": {"shortest_edge": 32},
        **SCALE,
        **CLIP_COLORS,
    }
    return transformers.Aimv2VisionModel(config), processor


def _vit() -> tuple[nn.Module, dict[str, Any]]:
    model = single("ViT", "ForImageClassification", image_size=32, patch_size=8, **TRUNK)
    processor = {"do_normalize": True, "do_resize": True, "size": 32, **HALF}
    return model, {"image_processor_type": "ViTImageProcessor", **processor}


def _beit() -> tuple[nn.Module, dict[str, Any]]:
    settings = {"image_size": 32, "patch_size": 8, "use_relative_position_bias": True}
    return single("Beit", **settings, **TRUNK), _siglip()[1]


def _swin() -> tuple[nn.Module, dict[str, Any]]:
    settings = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "window_size": 4}
    return single("Swin", depths=[1, 1, 1], num_heads=[2, 2, 2], **settings), _siglip()[1]


def _vjepa2() -> tuple[nn.Module, dict[str, Any]]:
    model = single(
        "VJEPA2",
        crop_size=32,
        patch_size=8,
        frames_per_clip=8,
        tubelet_size=2,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=3,
        mlp_ratio=2,
        num_pooler_layers=1,
        pred_hidden_size=16,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        pred_num_mask_tokens=2,
    )
    processor = {
        "video_processor_type": "VJEPA2VideoProcessor",
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 2,
        "size": {"shortest_edge": 36},
        **SCALE,
        **IMAGENET,
    }
    return model, processor


def _video_processor(kind: str) -> dict[str, Any]:
    return {
        "feature_extractor_type": kind,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "resample": 2,
        "size": 32,
        "crop_size": 32,
        **IMAGENET,
    }


def _videomae() -> tuple[nn.Module, dict[str, Any]]:
    settings = {"image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
    decoder = {"decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    model = single("VideoMAE", use_mean_pooling=False, **settings, **decoder, **TRUNK)
    return model, _video_processor("VideoMAEFeatureExtractor")


def _timesformer() -> tuple[nn.Module, dict[str, Any]]:
    settings = {"image_size": 32, "patch_size": 8, "num_frames": 4}
    model = single("Timesformer", **settings, **TRUNK)
    return model, _video_processor("VideoMAEFeatureExtractor")


def _vivit() -> tuple[nn.Module, dict[str, Any]]:
    settings = {"image_size": 32, "tubelet_size": [2, 8, 8], "num_frames": 4}
    processor = {
        "image_processor_type": "VivitImageProcessor",
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "offset": True,
        "rescale_factor": 1 / 127.5,
        "resample": 2,
        "size": {"shortest_edge": 36},
        **SWITCHES,
        **HALF,
    }
    return single("Vivit", **settings, **TRUNK), processor


FRAME_MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "siglip": _siglip,
    "siglip2": _siglip2,
    "clip": _clip,
    "dinov2": _dinov2,
    "dinov2_registers": _dinov2_registers,
    "dinov3": _dinov3,
    "dinov3_convnext": _dinov3_convnext,
    "aimv2": _aimv2,
    "vit": _vit,
    "beit": _beit,
    "swin": _swin,
}
"""For the encoder ``hf``."""
CLIP_MODELS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "vjepa2": _vjepa2,
    "videomae": _videomae,
    "timesformer": _timesformer,
    "vivit": _vivit,
}
"""For the encoder ``hf_clip``."""
PYTORCHVIDEO_MODELS: dict[str, dict[str, Any]] = {
    "mvit": {
        "architecture": "mvit",
        "kwargs": {
            "spatial_size": 32,
            "temporal_size": 4,
            "depth": 2,
            "patch_embed_dim": 16,
            "conv_patch_embed_kernel": [3, 3, 3],
            "conv_patch_embed_stride": [2, 4, 4],
            "conv_patch_embed_padding": [1, 1, 1],
            "embed_dim_mul": [[1, 2.0]],
            "atten_head_mul": [[1, 2.0]],
            "pool_q_stride_size": [[1, 1, 2, 2]],
            "pool_kv_stride_adaptive": [1, 2, 2],
            "pool_kvq_kernel": [3, 3, 3],
            "head_num_classes": 5,
        },
    },
    "x3d": {
        "architecture": "x3d",
        "kwargs": {
            "input_clip_length": 4,
            "input_crop_size": 64,
            "width_factor": 1.0,
            "depth_factor": 1.0,
            "head_dim_out": 16,
            "model_num_class": 5,
        },
    },
    "slow": {
        "architecture": "slow",
        "num_frames": 4,
        "kwargs": {
            "model_depth": 50,
            "stem_dim_out": 4,
            "model_num_class": 5,
            "head_pool_kernel_size": [4, 2, 2],
        },
        "resize": {"mode": "crop", "height": 64, "width": 64},
    },
    "slowfast": {
        "architecture": "slowfast",
        "num_frames": 8,
        "kwargs": {
            "model_depth": 50,
            "stem_dim_outs": [8, 1],
            "model_num_class": 5,
            "head_pool_kernel_sizes": [[2, 2, 2], [8, 2, 2]],
        },
        "resize": {"mode": "crop", "height": 64, "width": 64},
    },
}
"""For the encoder ``pytorchvideo``: the config.json that stands beside the weights."""


def random_frames(
    num_frames: int,
    height: int,
    width: int,
    *,
    seed: int = 0,
    first_index: int = 0,
    **fields: Any,
) -> Frames:
    """Noise in the layout that decoders give; frame ``i`` is shown from i / 2 s for 0.4 s."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_frames, height, width, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    index = torch.arange(first_index, first_index + num_frames, dtype=torch.float64)
    return Frames(
        data=pixels.permute(0, 3, 1, 2),
        pts_s=index / 2,
        duration_s=torch.full_like(index, 0.4),
        first_index=first_index,
        **fields,
    )


def save_tiny(name: str, folder: Path, *, seed: int = 0) -> Path:
    """The tiny model ``name`` written into ``folder`` (made if needed); returns the folder."""
    from tiny_tokenizers import TOKENIZERS

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name in PYTORCHVIDEO_MODELS:
            return _save_pytorchvideo(PYTORCHVIDEO_MODELS[name], folder)
        model, processor = {**FRAME_MODELS, **CLIP_MODELS, **TOKENIZERS}[name]()
        _roughen(model)
    model.save_pretrained(folder)  # type: ignore[operator]  # a PreTrainedModel
    kind = "video_preprocessor" if "video_processor_type" in processor else "preprocessor"
    (folder / f"{kind}_config.json").write_text(json.dumps(processor))
    return folder


def _save_pytorchvideo(config: dict[str, Any], folder: Path) -> Path:
    from vidcomp.encode.networks import make_network

    model = make_network(config["architecture"], config["kwargs"])
    _roughen(model)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def _roughen(model: nn.Module) -> None:
    """Fresh models are so smooth that all patches look alike; this makes them differ."""
    for parameter in model.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn_like(buffer)
