"""Tiny random video language models of every family, pixels for them and full prompts.

Weights are drawn so wide that a wrong position or a feature in a wrong place changes the logits by
about as much as they are.
"""

import functools
from typing import Any

import torch

from vidcomp.llm.adapter import Adapter
from vidcomp.types import Grid

IMAGE, VIDEO, START, END = 120, 121, 122, 123
FRAMES = 2
_TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3}
_TOWER = {**_SIZES, "num_attention_heads": 2}
_CLIP = {**_TOWER, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 7}
_SIGLIP = {**_CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_INTERLEAVED = {**_MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0}
_QWEN_TOWER = {
    "depth": 3,
    "hidden_size": 24,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "intermediate_size": 32,
}
_QWEN3_TOWER = {**_QWEN_TOWER, "out_hidden_size": 32, "num_position_embeddings": 64}
_INDEX = {"image_token_index": IMAGE, "video_token_index": VIDEO}
_ID = {"image_token_id": IMAGE, "video_token_id": VIDEO}
_QWEN = {**_ID, "vision_start_token_id": START, "vision_end_token_id": END}
_LINEAR = {
    **_TEXT,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": _INTERLEAVED,
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
}
_GLM = {
    "vision_config": {**_QWEN_TOWER, "out_hidden_size": 32, "image_size": 32},
    "text_config": {**_TEXT, "rope_parameters": {**_MROPE, "partial_rotary_factor": 1.0}},
    **_ID,
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_start_token_id": 124,
    "video_end_token_id": 125,
}


def _moe_of_glm() -> dict[str, Any]:
    experts = {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "head_dim": 8,
    }
    return {**_GLM, "text_config": {**_GLM["text_config"], **experts}}  # type: ignore[dict-item]


CONFIGS: dict[str, dict[str, Any]] = {
    "llava_onevision": {
        "vision_config": _SIGLIP,
        "text_config": {"model_type": "qwen2", **_TEXT},
        **_INDEX,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    "llava_next_video": {
        "vision_config": _CLIP,
        "text_config": {"model_type": "llama", **_TEXT},
        **_INDEX,
        "spatial_pool_stride": 2,
        "image_seq_length": 16,
        "video_seq_length": 16,
    },
    "video_llava": {
        "vision_config": _CLIP,
        "text_config": {"model_type": "llama", **_TEXT},
        **_INDEX,
    },
    "qwen2_vl": {
        "vision_config": {**_QWEN_TOWER, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2},
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        **_QWEN,
    },
    "qwen2_5_vl": {
        "vision_config": {
            **_QWEN_TOWER,
            "out_hidden_size": 32,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        "text_config": {**_TEXT, "rope_parameters": _MROPE},
        **_QWEN,
    },
    "qwen3_vl": {
        "vision_config": {**_QWEN3_TOWER, "deepstack_visual_indexes": [0, 1]},
        "text_config": {**_TEXT, "head_dim": 8, "rope_parameters": _INTERLEAVED},
        **_QWEN,
    },
    "qwen3_vl_moe": {
        "vision_config": {**_QWEN3_TOWER, "deepstack_visual_indexes": [0, 1]},
        "text_config": {**_TEXT, **_EXPERTS, "head_dim": 8, "rope_parameters": _INTERLEAVED},
        **_QWEN,
    },
    "qwen3_5": {"vision_config": _QWEN3_TOWER, "text_config": _LINEAR, **_QWEN},
    "qwen3_5_moe": {
        "vision_config": _QWEN3_TOWER,
        "text_config": {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 16},
        **_QWEN,
    },
    "internvl": {
        "vision_config": {**_TOWER, "image_size": [28, 28], "patch_size": [7, 7]},
        "text_config": {"model_type": "qwen2", **_TEXT},
        "image_token_id": IMAGE,
        "image_seq_length": 4,
    },
    "smolvlm": {
        "vision_config": {**_TOWER, "image_size": 28, "patch_size": 7},
        "text_config": {"model_type": "llama", **_TEXT},
        "image_token_id": IMAGE,
        "scale_factor": 2,
    },
    "video_llama_3": {
        "vision_config": {**_TOWER, "patch_size": 4},
        "text_config": {"model_type": "qwen2", **_TEXT},
        **_ID,
    },
    "gemma3": {
        "vision_config": _SIGLIP,
        "text_config": {**_TEXT, "head_dim": 8, "query_pre_attn_scalar": 8},
        "image_token_index": IMAGE,
        "boi_token_index": START,
        "eoi_token_index": END,
        "mm_tokens_per_image": 4,
    },
    "gemma4": {
        "vision_config": {
            **_TOWER,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "pooling_kernel_size": 2,
            "patch_size": 4,
            "position_embedding_size": 64,
        },
        "text_config": {
            **_TEXT,
            "head_dim": 8,
            "global_head_dim": 8,
            "sliding_window": 4096,
            "vocab_size_per_layer_input": 128,
            "hidden_size_per_layer_input": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
        "audio_config": None,
        **_ID,
        "boi_token_id": START,
        "eoi_token_id": END,
        "audio_token_id": 119,
        "boa_token_id": 118,
        "eoa_token_index": 117,
    },
    "molmo2": {
        "vision_config": {
            **_TOWER,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "image_size": [28, 28],
            "patch_size": 7,
            "num_position_embeddings": 16,
        },
        "adapter_config": {
            "vision_feature_layer": [-1, -2],
            "hidden_size": 24,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "intermediate_size": 48,
            "text_hidden_size": 32,
        },
        "text_config": {**_TEXT, "head_dim": 8, "additional_vocab_size": 16},
        "image_patch_id": IMAGE,
        "frame_start_token_id": START,
        "frame_end_token_id": END,
        "image_start_token_id": 124,
        "low_res_image_start_token_id": 125,
        "image_end_token_id": 126,
    },
    "glm4v": _GLM,
    "glm4v_moe": _moe_of_glm(),
    "glm46v": {
        **_GLM,
        "vision_config": {**_GLM["vision_config"], "model_type": "glm4v_vision"},  # type: ignore[dict-item]
        "text_config": {**_GLM["text_config"], "model_type": "glm4v_text"},  # type: ignore[dict-item]
    },
    "minicpmv4_6": {
        "vision_config": {**_TOWER, "image_size": 32, "patch_size": 4},
        "text_config": {"model_type": "qwen3_5_text", **_LINEAR},
        "insert_layer_id": 1,
        "image_size": 32,
        **_ID,
    },
}


@functools.cache
def tiny_llm(name: str) -> Any:
    """A random model in evaluation mode."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    with torch.random.fork_rng():
        torch.manual_seed(0)  # what is not drawn below must not depend on the tests before
        config = CONFIG_MAPPING[name](**CONFIGS[name])
        model = AutoModelForImageTextToText.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(0, 0.15, generator=generator)
    return model


def random_pixels(name: str, seed: int = 5) -> tuple[dict[str, torch.Tensor], Grid]:
    """What the encoder of the family takes for a clip, and the grid of its tokens."""
    t, generator = FRAMES, torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if name in ("llava_onevision", "llava_next_video", "video_llava"):
        side = 4 if name == "video_llava" else 2
        return {"pixel_values_videos": noise(1, t, 3, 28, 28)}, Grid(t, side, side)
    if name in ("internvl", "gemma3"):
        return {"pixel_values": noise(t, 3, 28, 28)}, Grid(t, 2, 2)
    if name == "smolvlm":
        return {"pixel_values": noise(1, t, 3, 28, 28)}, Grid(t, 2, 2)
    if name == "video_llama_3":
        pixels = {
            "pixel_values_videos": noise(t * 32, 48),
            "video_grid_thw": torch.tensor([[t, 4, 8]]),
            "video_merge_sizes": torch.tensor([2]),
        }
        return pixels, Grid(t, 2, 4)
    if name == "gemma4":
        place = torch.cartesian_prod(torch.arange(4), torch.arange(8)).flip(-1)
        pixels = {
            "pixel_values_videos": noise(t, 32, 48).sigmoid(),
            "video_position_ids": place.repeat(t, 1, 1),
            "num_frames_per_video": torch.tensor([t]),
        }
        return pixels, Grid(t, 2, 4)
    if name == "molmo2":
        windows = torch.arange(t * 16).view(t, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4)
        pixels = {
            "pixel_values_videos": noise(t, 16, 147),
            "video_token_pooling": windows,
            "video_grids": torch.tensor([[t, 2, 2]]),
        }
        return pixels, Grid(t, 2, 2)
    if name == "minicpmv4_6":
        pixels = {
            "pixel_values_videos": noise(1, 3, 4, t * 16 * 8 * 4),
            "target_sizes_videos": torch.tensor([[16, 8]] * t),
        }
        return pixels, Grid(t, 4, 2)
    pixels = {
        "pixel_values_videos": noise(t * 32, 96),
        "video_grid_thw": torch.tensor([[t, 8, 4]]),
    }
    return pixels, Grid(t, 4, 2)


def full_inputs(name: str, adapter: Adapter, grids: list[Grid], start: int = 0) -> dict[str, Any]:
    """A full sequence with the placeholders of some videos, each frame told apart by text."""
    token = adapter.token_id(adapter.family.key)
    ids = [1, 5, 6, 7][start:]
    for number, grid in enumerate(grids):
        num = len(adapter.layout(grid))
        runs = 1 if adapter.family.newline or name in ("qwen2_vl", "qwen2_5_vl") else grid.t
        for run in range(runs):
            ids += [10 + run + 4 * number, START, *[token] * (num // runs), END]
    ids_1L = torch.tensor([[*ids, 20, 21, 22, 23]])
    is_video = (ids_1L == token).long()
    inputs = {"input_ids": ids_1L, "attention_mask": torch.ones_like(ids_1L)}
    if name.startswith(("qwen", "glm", "gemma4")):
        inputs["mm_token_type_ids"] = 2 * is_video
    if name == "molmo2":
        inputs["mm_token_type_ids"] = is_video
    if name == "gemma3":
        inputs["token_type_ids"] = is_video
    return inputs
