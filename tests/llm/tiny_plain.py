"""Tiny random language models that know no videos, and a tokenizer of characters for them."""

import functools
from typing import Any

import torch

from vidcomp.types import Grid, VideoTokens

WORDS = 128
LETTERS = [chr(code) for code in range(32, 127)]
TEMPLATE = """\
{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]
{{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}[assistant]
{% endif %}"""
_TEXT = {
    "vocab_size": WORDS,
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
_HEADS = {**_TEXT, "head_dim": 8}
_GEMMA = {**_HEADS, "query_pre_attn_scalar": 8, "sliding_window": 8}
PLAIN: dict[str, dict[str, Any]] = {
    "qwen3": _HEADS,
    "llama": _TEXT,
    "smollm3": {**_TEXT, "no_rope_layer_interval": 2},
    "gemma": _HEADS,
    "gemma2": _GEMMA,
    "gemma3_text": {
        **_GEMMA,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "phi3": _TEXT,
    "mistral": {**_TEXT, "sliding_window": 8},
}


def widely_drawn(model: Any, std: float = 0.15) -> Any:
    """Random weights under which a wrong row changes the logits by about as much as they are."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                value.normal_(0, std, generator=generator)
    return model.eval()


@functools.cache
def plain_model(name: str) -> Any:
    """A random model in evaluation mode."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    return widely_drawn(AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**PLAIN[name])))


@functools.cache
def letters(template: str | None = TEMPLATE, signs: tuple[str, ...] = ()) -> Any:
    """A tokenizer of characters; ``signs`` are special tokens from id 120 on."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "\n": 4}
    vocabulary |= {letter: 5 + i for i, letter in enumerate(LETTERS)}
    vocabulary |= {sign: 120 + i for i, sign in enumerate(signs)}
    taken = set(vocabulary.values())
    vocabulary |= {f"<unused{i}>": i for i in range(WORDS) if i not in taken}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    special = ("<pad>", "<s>", "</s>", *signs)
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    made.chat_template = template
    return made


def clip(dim: int, t: int = 3, seed: int = 0) -> VideoTokens:
    """A random video of t frames of 2 x 2 patches, half a second each."""
    grid, generator = Grid(t, 2, 2), torch.Generator().manual_seed(seed)
    start = torch.arange(t) / 2
    tokens = torch.randn(grid.num_patches, dim, generator=generator)
    return VideoTokens.from_grid(tokens, grid, torch.stack([start, start + 0.5], dim=1))
