"""Tiny CLIP and SigLIP models as a hub would hold them, one of each that knows three colours."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from llm.tiny_plain import letters, widely_drawn

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
GREY = (120, 120, 120)
SIDE, PATCH = 16, 8
_TEXT = {
    "vocab_size": 128,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
}


def fresh(kind: str) -> Any:
    """A random model; the space of CLIP has 12 features, that of SigLIP 24 as its tokens."""
    from transformers import AutoModel, CLIPConfig, SiglipConfig

    if kind == "clip":
        config = CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=12)
    else:
        text = {**_TEXT, "projection_size": 24}
        config = SiglipConfig(text_config=text, vision_config=_VISION)
    return widely_drawn(AutoModel.from_config(config))


def pixels_of(colour: tuple[int, int, int], count: int, seed: int) -> torch.Tensor:
    """[count, 3, SIDE, SIDE] in -1..1, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.tensor(colour).float()[:, None, None].expand(count, 3, SIDE, SIDE)
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator) * 12
    return (plain + noise) / 127.5 - 1


@functools.cache
def trained(kind: str) -> Any:
    """One that tells three colours and grey apart by their names."""
    model = fresh(kind)
    names = [*COLOURS, "grey"]
    batch = letters()(names, padding="max_length", max_length=16, return_tensors="pt")
    texts = {"input_ids": batch["input_ids"]}
    if kind == "clip":
        texts["attention_mask"] = batch["attention_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(60):
        pictures = [pixels_of(c, 1, step) for c in (*COLOURS.values(), GREY)]
        image = model.get_image_features(pixel_values=torch.cat(pictures)).pooler_output
        text = model.get_text_features(**texts).pooler_output
        alike = torch.cosine_similarity(image[:, None], text[None], dim=-1) * 10
        loss = torch.nn.functional.cross_entropy(alike, torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def save_tower(model: Any, folder: Path) -> Path:
    """Everything that is read of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = model.config.model_type
    model.save_pretrained(folder)
    letters(None).save_pretrained(folder)
    name = "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor"
    pixels = {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "do_convert_rgb": True,
        "resample": 2,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder
