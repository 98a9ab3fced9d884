"""Projectors whose queries read a window each, against the outputs of the original modules."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from parity_checks.golden import Check, Comparison, Golden, GoldenError
from parity_checks.videos import video_of_grid
from vidcomp.projectors.attention import GroupedAttention
from vidcomp.projectors.base import Projector
from vidcomp.projectors.edgetam import EdgeTamPerceiver
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch

__all__ = ["CHECKS"]


def check_tokenpacker(golden: Golden) -> Iterator[Comparison]:
    """Square frames x [b, N, D], and x_multi [b, N, L] the features of several layers."""
    x_BND, side = golden.input("x"), golden.setting("raw_grid")
    levels = golden.setting("multi")
    if golden.setting("kv_dim") != x_BND.shape[-1]:
        raise GoldenError(f"{golden.path} has kv_dim other than the features of its input")
    projector = _build(
        golden,
        "tokenpacker",
        dim_in=golden.setting("kv_dim"),
        dim_out=golden.setting("hidden_size"),
        dim_hidden=golden.setting("embed_dim"),
        heads=golden.setting("num_heads"),
        scale_factor=golden.setting("scale_factor"),
        levels=(("layers", levels),),
    )
    videos = [
        replace(video_of_grid(x, Grid(1, side, side)), extras={"layers": multi})
        for x, multi in zip(x_BND, golden.input("x_multi"), strict=True)
    ]
    out: TokenBatch = projector(TokenBatch.pack(videos))
    ours = out.tokens.view(len(x_BND), -1, out.tokens.shape[-1])
    yield Comparison("output", ours, golden.output("output"))


def check_molmo2(golden: Golden) -> Iterator[Comparison]:
    """Square frames x [b, N, D], each pooled in the windows that idx lists in raster order."""
    x_BND, index_MN = golden.input("x"), golden.input("idx")
    window, side = math.isqrt(index_MN.shape[1]), math.isqrt(x_BND.shape[1])
    projector = _build(
        golden,
        "molmo2",
        dim_in=x_BND.shape[-1],
        dim_out=golden.setting("text_hidden_size"),
        pooling_size=(window, window),
        dim_hidden=golden.setting("hidden_size"),
        heads=golden.setting("num_attention_heads"),
        key_heads=golden.setting("num_key_value_heads"),
        dim_head=golden.setting("head_dim"),
        dim_ff=golden.setting("intermediate_size"),
    )
    video = video_of_grid(x_BND.flatten(0, 1), Grid(len(x_BND), side, side))
    yield Comparison("output", projector(video).tokens, golden.output("output"))


def check_edgetam(golden: Golden) -> Iterator[Comparison]:
    """A square map x [1, D, h, w] with positions pos of the same shape; positions out too.

    The recording has two heads, which transformers 5.23 takes for latents before the last layer of
    an attention (with one head, as in the checkpoint, that is the same); so does this check.
    """
    x_BDHW, pos_BDHW = golden.input("x"), golden.input("pos")
    side, dim = math.isqrt(golden.setting("n2")), golden.setting("hidden")
    projector = _build(
        golden,
        "edgetam_perceiver",
        dim_in=dim,
        dim_out=dim,
        num_latents=golden.setting("n1"),
        window_grid=(side, side),
        depth=golden.setting("layers"),
        heads=golden.setting("heads"),
        dim_head=dim // golden.setting("heads"),
        dim_ff=golden.setting("mlp"),
        positions="given",
    )
    for module in projector.modules():
        if isinstance(module, GroupedAttention):
            module.o_proj.register_forward_pre_hook(
                _heads_as_latents(module.heads, golden.setting("n1"))
            )
    grid = Grid(len(x_BDHW), *x_BDHW.shape[2:])
    rows_ND, places_ND = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (x_BDHW, pos_BDHW))
    video = replace(video_of_grid(rows_ND, grid), extras={"given": places_ND})
    shape = golden.output("output").shape
    yield Comparison("output", projector(video).tokens.view(shape), golden.output("output"))
    assert isinstance(projector, EdgeTamPerceiver)
    yield Comparison("output.pos", projector.places(grid)[None], golden.output("output.pos"))


def _heads_as_latents(heads: int, num_global: int) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    def moved(_: nn.Module, args: tuple[Tensor]) -> Tensor:
        # A latent of a window is alone, where heads for latents change nothing.
        x_BKE, alone = args[0][:, :num_global], args[0][:, num_global:]
        mixed = x_BKE.unflatten(2, (heads, -1)).transpose(1, 2).reshape(x_BKE.shape)
        return torch.cat([mixed, alone], dim=1)

    return moved


def _build(golden: Golden, name: str, **settings: Any) -> Projector:
    projector: Projector = PROJECTORS.make(name, **settings).build()
    return projector.load_reference(golden.weights)


CHECKS: dict[str, Check] = {
    "tokenpacker": check_tokenpacker,
    "molmo2_attention_pool": check_molmo2,
    "edgetam_2d_perceiver": check_edgetam,
}
