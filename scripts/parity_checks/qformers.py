"""Q-Formers, and what else reads a question, against the outputs of the original modules."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.functional.relevance import (
    decoder_relevance,
    head_relevance,
    latent_relevance,
    text_to_patch,
    text_to_query,
)
from vidcomp.projectors.base import Projector
from vidcomp.projectors.flamingo_gated import GatedCrossAttention, media_seen
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, QueryFeatures, QueryIds, TokenBatch, VideoTokens

__all__ = ["CHECKS"]


def check_blip2(golden: Golden) -> Iterator[Comparison]:
    """BLIP-2's Q-Former on rows of which some are masked; x [B, N, D]."""
    made = _qformer(golden, "qformer", dim_in=golden.setting("encoder_hidden_size"))
    yield _compare(golden, made, _masked(golden))


def check_lavis(golden: Golden) -> Iterator[Comparison]:
    """LAVIS' weights without text (its text's half is left out) and with."""
    dim_in = golden.setting("encoder_width")
    frequency = golden.setting("cross_attention_freq")
    settings = {"dim_in": dim_in, "cross_attention_frequency": frequency}
    videos = _masked(golden)
    yield _compare(golden, _qformer(golden, "qformer", **settings), videos)
    made = _qformer(golden, "instruct_qformer", **settings, **_words(golden))
    yield _compare(golden, made, videos, _questions(golden), "output.with_text")


def check_instructblip(golden: Golden) -> Iterator[Comparison]:
    """InstructBLIP's Q-Former; x [B, N, D], questions of different lengths."""
    dim_in = golden.setting("encoder_hidden_size")
    made = _qformer(golden, "instruct_qformer", dim_in=dim_in, **_words(golden))
    yield _compare(golden, made, _masked(golden), _questions(golden))


def check_instructblipvideo(golden: Golden) -> Iterator[Comparison]:
    """Frame after frame with the same question, then in the LLM's space; x [B, F, N, D]."""
    made = _qformer(
        golden,
        "instruct_qformer",
        dim_in=golden.setting("encoder_hidden_size"),
        dim_out=golden.setting("text_hidden_size"),
        **_words(golden),
    )
    videos = [video_of_grid(x.flatten(0, 1), _rows(x)) for x in golden.input("x")]
    yield _compare(golden, made, videos, _questions(golden))


def check_light(golden: Golden) -> Iterator[Comparison]:
    """The light Q-Former; x [B, N, D]."""
    dim = golden.setting("query_dim")
    made = PROJECTORS.make(
        "qformer_light",
        dim_in=golden.setting("image_dim"),
        dim_out=dim,
        dim=dim,
        heads=golden.setting("num_heads"),
        depth=golden.setting("num_layers"),
        num_latents=golden.setting("num_query_tokens"),
    )
    yield _compare(golden, made.build().load_reference(golden.weights), _masked(golden))


def check_granite(golden: Golden) -> Iterator[Comparison]:
    """Granite's window Q-Former on square frames; x [B, side * side, D]."""
    query, window = (int(side) for side in golden.setting("downsample_rate").split("/"))
    made = PROJECTORS.make(
        "window_qformer",
        dim_in=golden.setting("vision"),
        dim_out=golden.setting("hidden_size"),
        query_side=query,
        window_side=window,
        spatial_offset=golden.setting("spatial_offset"),
        depth=golden.setting("layers"),
        heads=golden.setting("heads"),
        dim_ff=golden.setting("inter"),
    )
    side = golden.setting("image_side")
    videos = [video_of_grid(x, Grid(1, side, side)) for x in golden.input("x")]
    yield _compare(golden, made.build().load_reference(golden.weights), videos)


def check_meq(golden: Golden) -> Iterator[Comparison]:
    """BRAVE's composition; x.k [B, N_k, D_k] of every encoder."""
    widths = golden.setting("encoder_dims")
    made = _qformer(
        golden,
        "meq_former",
        dim_in=widths[0],
        dim_key=golden.setting("encoder_hidden_size"),
        encoders=tuple((str(k), width) for k, width in enumerate(widths)),
        **_words(golden),
    )
    streams = {
        str(k): TokenBatch.pack([_square(x) for x in golden.input(f"x.{k}")])
        for k in range(len(widths))
    }
    out: TokenBatch = made(streams, query=_questions(golden))
    yield _comparison(golden, out)


def check_llama_vid(golden: Golden) -> Iterator[Comparison]:
    """LLaMA-VID; vis [B, N, D] and for every frame rows of its own text_q [B, Q, bert]."""
    kind = golden.setting("compress_type")
    made = PROJECTORS.make(
        "llama_vid",
        dim_in=golden.setting("mm_hidden_size"),
        dim_out=golden.setting("hidden_size"),
        dim_text=golden.setting("bert_hidden"),
        content_grid=None if kind == "mean" else int(kind.removeprefix("grid:")),
    )
    questions = [QueryFeatures(embedding=text) for text in golden.input("text_q")]
    videos = [_square(x) for x in golden.input("vis")]
    yield _compare(golden, made.build().load_reference(golden.weights), videos, questions)


def check_flamingo_gated(golden: Golden) -> Iterator[Comparison]:
    """OpenFlamingo's gated cross-attention; x [B, T, D], media [B, M, N, V]."""
    immediate = golden.setting("only_attend_immediate_media")
    block = GatedCrossAttention(
        golden.setting("dim"),
        golden.setting("dim_visual"),
        dim_head=golden.setting("dim_head"),
        heads=golden.setting("heads"),
        ff_mult=golden.setting("ff_mult"),
        only_immediate=immediate,
        mean_before_media=not immediate,
    )
    block.load_state_dict({**golden.weights})
    seen = media_seen(golden.input("media_locations"))
    out = block(golden.input("x"), golden.input("media"), seen)
    yield Comparison("output", out, golden.output("output"))


def check_relevance(golden: Golden) -> Iterator[Comparison]:
    """R-GAE through a Q-Former, self before cross in each layer, and a language model."""
    among = _heads(golden, "q_self", golden.setting("self_layers"))
    across = _heads(golden, "q_cross", golden.setting("cross_layers"))
    latents = latent_relevance(list(zip(among, across, strict=True)))
    decoder = decoder_relevance(_heads(golden, "llm", golden.setting("llm_layers")))
    num_latents, num_text = golden.setting("n_query"), golden.setting("n_text")
    text = torch.arange(num_latents, num_latents + num_text)
    text_rows = text_to_query(decoder, text, torch.arange(num_latents))
    ours = {
        "R_qp": latents.to_patches,
        "R_qq": latents.among,
        "R_llm": decoder,
        "text_to_query": text_rows,
        "text_to_patch": text_to_patch(text_rows, latents.to_patches),
    }
    for name, value in ours.items():
        yield Comparison(f"output.{name}", value, golden.output(f"output.{name}"))


def _qformer(golden: Golden, name: str, **settings: Any) -> Projector:
    sizes = {
        "dim_out": golden.setting("hidden_size"),
        "dim": golden.setting("hidden_size"),
        "depth": golden.setting("num_hidden_layers"),
        "heads": golden.setting("num_attention_heads"),
        "dim_ff": golden.setting("intermediate_size"),
        "num_latents": golden.setting("num_query_tokens"),
        "cross_attention_frequency": golden.settings.get("cross_attention_frequency", 2),
    }
    made: Projector = PROJECTORS.make(name, **{**sizes, **settings}).build()
    return made.load_reference(golden.weights)


def _words(golden: Golden) -> dict[str, int]:
    table = next(t for n, t in golden.weights.items() if n.endswith("position_embeddings.weight"))
    return {"num_words": golden.setting("vocab_size"), "max_words": len(table)}


def _questions(golden: Golden) -> list[Query]:
    both = zip(golden.input("input_ids"), golden.input("text_mask"), strict=True)
    return [QueryIds(ids=ids[mask.bool()]) for ids, mask in both]


def _masked(golden: Golden) -> list[VideoTokens]:
    """Videos of one frame, without the rows that the recording masked."""
    videos = [_square(x) for x in golden.input("x")]
    if "mask" not in golden.inputs:
        return videos
    masks = golden.input("mask").bool()
    return [v.select(m.nonzero().squeeze(1)) for v, m in zip(videos, masks, strict=True)]


def _square(x_ND: Tensor) -> VideoTokens:
    """One frame; the recording says no grid, and what is read here asks for none."""
    side = round(len(x_ND) ** 0.5)
    grid = Grid(1, side, side) if side * side == len(x_ND) else Grid(1, 1, len(x_ND))
    return video_of_grid(x_ND, grid)


def _rows(x_FND: Tensor) -> Grid:
    return Grid(len(x_FND), 1, x_FND.shape[1])


def _heads(golden: Golden, name: str, layers: int) -> list[Tensor]:
    return [
        head_relevance(golden.input(f"{name}_attn.{i}"), golden.input(f"{name}_grad.{i}"))
        for i in range(layers)
    ]


def _compare(
    golden: Golden,
    projector: Projector,
    videos: list[VideoTokens],
    questions: list[Query] | None = None,
    name: str = "output",
) -> Comparison:
    return _comparison(golden, projector(TokenBatch.pack(videos), query=questions), name)


def _comparison(golden: Golden, out: TokenBatch, name: str = "output") -> Comparison:
    theirs = golden.output(name)
    same_size = out.tokens.numel() == theirs.numel()
    return Comparison(name, out.tokens.view(theirs.shape) if same_size else out.tokens, theirs)


CHECKS: dict[str, Check] = {
    "qformer_blip2": check_blip2,
    "qformer_lavis_original": check_lavis,
    "qformer_instructblip": check_instructblip,
    "qformer_instructblipvideo": check_instructblipvideo,
    "qformer_light": check_light,
    "granite4_window_qformer": check_granite,
    "meq_former_composition": check_meq,
    "llama_vid_context_content": check_llama_vid,
    "flamingo_gated_cross_attention": check_flamingo_gated,
    "rgae_relevance": check_relevance,
}
