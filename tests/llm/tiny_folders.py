"""Tiny models as a hub would hold them: weights, tokenizer, processor, chat template.

The tokenizer knows single characters, so that any text comes back as it was.
"""

import json
from pathlib import Path
from typing import Any

from llm.pixel_cases import FILES, NESTED
from llm.tiny_llms import END, IMAGE, START, VIDEO, tiny_llm

LETTERS = [chr(code) for code in range(32, 127)]
_TEMPLATE = """\
{% for message in messages %}[{{ message['role'] }}]
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}{% if part['type'] == 'video' %}VIDEO_TOKEN\
{% elif part['type'] == 'image' %}IMAGE_TOKEN{% else %}{{ part['text'] }}{% endif %}{% endfor %}\
{% endif %}
{% endfor %}{% if add_generation_prompt %}[assistant]
{% endif %}"""

_QWEN = {
    "image_token": ("<|image_pad|>", IMAGE),
    "video_token": ("<|video_pad|>", VIDEO),
    "vision_start_token": ("<|vision_start|>", START),
    "vision_end_token": ("<|vision_end|>", END),
}
_LLAVA = {"image_token": ("<image>", IMAGE), "video_token": ("<video>", VIDEO)}
_GLM = {
    "image_token": ("<|image|>", IMAGE),
    "video_token": ("<|video|>", VIDEO),
    "begin_of_image": ("<|begin_of_image|>", START),
    "end_of_image": ("<|end_of_image|>", END),
    "begin_of_video": ("<|begin_of_video|>", 124),
    "end_of_video": ("<|end_of_video|>", 125),
}
TOKENS: dict[str, dict[str, tuple[str, int]]] = {
    "llava_onevision": _LLAVA,
    "llava_next_video": _LLAVA,
    "video_llava": _LLAVA,
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "qwen3_vl_moe": _QWEN,
    "qwen3_5": _QWEN,
    "qwen3_5_moe": _QWEN,
    "internvl": {
        "context_image_token": ("<IMG_CONTEXT>", IMAGE),
        "video_token": ("<video>", VIDEO),
        "start_image_token": ("<img>", START),
        "end_image_token": ("</img>", END),
    },
    "smolvlm": {
        "image_token": ("<image>", IMAGE),
        "video_token": ("<video>", VIDEO),
        "fake_image_token": ("<fake_token_around_image>", START),
        "global_image_token": ("<global-img>", END),
        "end_of_utterance_token": ("<end_of_utterance>", 124),
    },
    "video_llama_3": _LLAVA,
    "gemma3": {
        "image_token": ("<image_soft_token>", IMAGE),
        "boi_token": ("<start_of_image>", START),
        "eoi_token": ("<end_of_image>", END),
    },
    "gemma4": {
        "image_token": ("<|image|>", IMAGE),
        "video_token": ("<|video|>", VIDEO),
        "boi_token": ("<|image>", START),
        "eoi_token": ("<image|>", END),
        "audio_token": ("<|audio|>", 119),
        "boa_token": ("<|audio>", 118),
        "eoa_token": ("<audio|>", 117),
    },
    "molmo2": {
        "image_token": ("<|image|>", 119),
        "video_token": ("<|video|>", VIDEO),
        "im_patch": ("<im_patch>", IMAGE),
        "frame_start": ("<frame_start>", START),
        "frame_end": ("<frame_end>", END),
        "im_start": ("<im_start>", 124),
        "low_res_im_start": ("<low_res_im_start>", 125),
        "im_end": ("<im_end>", 126),
        "im_col": ("<im_col>", 118),
        "im_low": ("<im_low>", 117),
    },
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm46v": _GLM,
    "minicpmv4_6": {
        "image_token": ("<|image_pad|>", IMAGE),
        "video_token": ("<|video_pad|>", VIDEO),
        "image_start_token": ("<image>", START),
        "image_end_token": ("</image>", END),
        "slice_start_token": ("<slice>", 124),
        "slice_end_token": ("</slice>", 125),
        "image_id_start_token": ("<image_id>", 118),
        "image_id_end_token": ("</image_id>", 117),
    },
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "llava_onevision": {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    "llava_next_video": {
        "patch_size": 7,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    },
    "video_llava": {
        "patch_size": 7,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    },
    "internvl": {"image_seq_length": 4},
    "smolvlm": {"image_seq_len": 4},
    "gemma3": {"image_seq_length": 4},
    "gemma4": {"image_seq_length": 8},
}


def tokenizer_of(name: str) -> Any:
    """Characters, a newline, and the special tokens of the family at the ids of its config."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = dict(TOKENS[name].values())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "\n": 4}
    vocabulary |= {letter: 5 + i for i, letter in enumerate(LETTERS)}
    vocabulary |= specials
    taken = set(vocabulary.values())
    vocabulary |= {f"<unused{i}>": i for i in range(128) if i not in taken}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in ("<pad>", "<s>", "</s>")]
        + [AddedToken(word, special=True, normalized=False) for word in specials]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={role: word for role, (word, _) in TOKENS[name].items()},
    )


def save_folder(name: str, folder: Path) -> Path:
    """Everything ``from_pretrained`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_llm(name).save_pretrained(folder)
    tokenizer_of(name).save_pretrained(folder)
    tokens = TOKENS[name]
    image = tokens.get("boi_token" if name == "gemma3" else "image_token", ("", 0))[0]
    video = tokens.get("video_token", ("", 0))[0]
    if name.startswith(("qwen2", "glm")):
        first, last = ("vision_start_token", "vision_end_token")
        if name.startswith("glm"):
            first, last = "begin_of_video", "end_of_video"
        video = f"{tokens[first][0]}{video}{tokens[last][0]}"
    template = _TEMPLATE.replace("VIDEO_TOKEN", video).replace("IMAGE_TOKEN", image)
    (folder / "chat_template.jinja").write_text(template)
    file, pixels = FILES[name]
    (folder / file).write_text(json.dumps(pixels))
    settings = {**(pixels if file == NESTED else {}), **PROCESSORS.get(name, {})}
    (folder / NESTED).write_text(json.dumps(settings))
    return folder
