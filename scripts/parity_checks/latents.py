"""Resamplers with latents against the outputs of the original modules."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.projectors.base import Projector
from vidcomp.projectors.perceiver_io import PerceiverIO
from vidcomp.projectors.set_transformer import ISAB, MAB, PMA, SAB
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, TokenBatch, VideoTokens

__all__ = ["CHECKS"]


def check_idefics2(golden: Golden) -> Iterator[Comparison]:
    """Idefics2's connector; x [b, N, D] with a mask of the rows."""
    names = {"num_latents": "n_latents", "depth": "depth", "heads": "n_heads"}
    names |= {"dim_head": "head_dim", "key_heads": "kv_heads", "eps": "rms_norm_eps"}
    projector = _loaded(
        golden,
        "idefics2",
        dim_in=golden.setting("vision_hidden"),
        dim_out=golden.setting("hidden_size"),
        hidden=golden.setting("text_intermediate"),
        **_renamed(golden, names),
    )
    yield _compare(golden, projector, _masked_rows(golden))


def check_perceiver_io(golden: Golden) -> Iterator[Comparison]:
    """Perceiver IO on data [b, N, D] with a mask, and queries [b, K, D] from outside."""
    projector = _loaded(
        golden,
        "perceiver_io",
        dim_in=golden.setting("dim"),
        dim_out=golden.setting("logits_dim"),
        dim_query=golden.setting("queries_dim"),
        tie_layers=golden.setting("weight_tie_layers"),
        num_outputs=golden.input("queries").shape[1],
        **_same(golden, "num_latents", "depth", "decoder_ff"),
        **_latent_array(golden),
    )
    assert isinstance(projector, PerceiverIO)
    latents, _ = projector.encode(golden.input("data"), golden.input("mask"))
    yield Comparison("output.latents", latents, golden.output("output.latents"))
    out, _ = projector.decode(golden.input("queries"), latents)
    yield Comparison("output", out, golden.output("output"))
    videos = _masked_rows(golden, "data")
    for video, queries, theirs in zip(
        videos, golden.input("queries"), golden.output("output"), strict=True
    ):
        projector.queries.data.copy_(queries)
        yield Comparison("output", projector(video).tokens, theirs)


def check_perceiver(golden: Golden) -> Iterator[Comparison]:
    """Perceiver on data [b, t, h, w, D]; Fourier features are made inside."""
    projector = _loaded(
        golden,
        "perceiver_iterative",
        dim_in=golden.setting("input_channels"),
        dim_out=golden.setting("latent_dim"),
        freq_bands=golden.setting("num_freq_bands"),
        tie_layers=golden.setting("weight_tie_layers"),
        self_per_cross=golden.setting("self_per_cross_attn"),
        **_same(golden, "num_latents", "depth", "max_freq"),
        **_latent_array(golden),
    )
    yield _compare(golden, projector, _grids(golden.input("data")))


def check_perceiver_hf(golden: Golden) -> Iterator[Comparison]:
    """PerceiverModel of transformers on x [b, N, D] with a mask of the rows."""
    names = {"num_latents": "num_latents", "num_blocks": "num_blocks", "dim_latent": "d_latents"}
    names |= {
        "depth": "num_self_attends_per_block",
        "cross_heads": "num_cross_attention_heads",
        "latent_heads": "num_self_attention_heads",
        "cross_widening": "cross_attention_widening_factor",
        "latent_widening": "self_attention_widening_factor",
    }
    projector = _loaded(
        golden,
        "perceiver_hf",
        dim_in=golden.setting("d_model"),
        dim_out=golden.setting("d_latents"),
        **_renamed(golden, names),
    )
    yield _compare(golden, projector, _masked_rows(golden))


def check_mab(golden: Golden) -> Iterator[Comparison]:
    """A block on queries Q and rows K."""
    dims = (golden.setting(f"dim_{name}") for name in "QKV")
    block = MAB(*dims, heads=golden.setting("num_heads"), norm=golden.setting("ln"))
    yield _module(golden, block, golden.input("Q"), golden.input("K"))


def check_sab(golden: Golden) -> Iterator[Comparison]:
    """A block on rows X."""
    block = SAB(*_set_dims(golden), heads=golden.setting("num_heads"), norm=golden.setting("ln"))
    yield _module(golden, block, golden.input("X"))


def check_isab(golden: Golden) -> Iterator[Comparison]:
    """A block with inducing points on rows X."""
    more = {"num_inds": golden.setting("num_inds"), "norm": golden.setting("ln")}
    block = ISAB(*_set_dims(golden), heads=golden.setting("num_heads"), **more)
    yield _module(golden, block, golden.input("X"))


def check_pma(golden: Golden) -> Iterator[Comparison]:
    """Seeds on rows X, as a block and as a projector whose linear layer changes nothing."""
    dim, heads, seeds = (golden.setting(n) for n in ("dim", "num_heads", "num_seeds"))
    norm = golden.setting("ln")
    yield _module(golden, PMA(dim, heads=heads, num_seeds=seeds, norm=norm), golden.input("X"))
    settings = {"dim_in": dim, "dim_out": dim, "dim_hidden": None, "heads": heads, "norm": norm}
    depths = {"encoder_depth": 0, "decoder_depth": 0}
    projector = PROJECTORS.make("set_transformer", num_latents=seeds, **settings, **depths).build()
    linear = {"dec.1.weight": torch.eye(dim), "dec.1.bias": torch.zeros(dim)}
    projector.load_reference({f"dec.0.{n}": t for n, t in golden.weights.items()} | linear)
    yield _compare(golden, projector, _rows(golden.input("X")))


def check_qwen_vl(golden: Golden) -> Iterator[Comparison]:
    """Qwen-VL's resampler on frames of square grids x [b, N, D]."""
    side, x_BND = golden.setting("grid_size"), golden.input("x")
    projector = _sincos(golden, "qwen_vl", latent_grid=(side, side), num_latents=side**2)
    height = round(x_BND.shape[1] ** 0.5)
    yield _compare(golden, projector, _grids(x_BND.unflatten(1, (1, height, -1))))


def check_minicpmv(golden: Golden) -> Iterator[Comparison]:
    """MiniCPM-V's resampler on frames of their own sizes, x [b, N, D] filled up."""
    projector = _sincos(golden, "minicpmv", num_latents=golden.setting("num_queries"))
    sizes = golden.input("tgt_sizes").tolist()
    videos = [
        video_of_grid(x[: h * w], Grid(1, h, w))
        for x, (h, w) in zip(golden.input("x"), sizes, strict=True)
    ]
    yield _compare(golden, projector, videos)


def check_minicpmv_3d(golden: Golden) -> Iterator[Comparison]:
    """The 3-D resampler: frames of a group are one clip, an id is tenths of a second, or -1."""
    sizes, x_FND = golden.input("tgt_sizes").tolist(), golden.input("x")
    num_latents, first = golden.setting("num_queries"), 0
    tokens = []
    for ids in golden.setting("temporal_ids"):
        frames = slice(first, first + len(ids))
        ((h, w),) = {tuple(size) for size in sizes[frames]}
        projector = _sincos(
            golden,
            "minicpmv_3d",
            num_latents=num_latents,
            times="none" if ids == [-1] else "seconds",
        )
        starts = torch.tensor(ids, dtype=torch.float32) * 0.1
        video = VideoTokens.from_grid(
            x_FND[frames, : h * w].flatten(0, 1),
            Grid(len(ids), h, w),
            torch.stack([starts, starts + 0.1], dim=1),
        )
        tokens.append(projector(video).tokens)
        first += len(ids)
    for name in ("output", "output.foreach"):
        yield Comparison(name, torch.stack(tokens), golden.output(name))


def check_mqt(golden: Golden) -> Iterator[Comparison]:
    """The first of MQT's queries on frames x [b, N, D]."""
    side, (h, w) = golden.setting("grid_size"), golden.setting("tgt_size")
    projector = _loaded(
        golden,
        "mqt",
        dim_in=golden.setting("kv_dim"),
        dim_out=golden.setting("embed_dim"),
        heads=golden.setting("num_heads"),
        latent_grid=(side, side),
        num_latents=side**2,
    )
    videos = _grids(golden.input("x").unflatten(1, (1, h, w)))
    yield _compare(golden, projector, videos, golden.setting("num_visual_tokens"))


def _sincos(golden: Golden, name: str, **settings: Any) -> Projector:
    dim = golden.setting("embed_dim")
    heads = {"dim_out": dim, "dim_head": dim // golden.setting("num_heads")}
    return _loaded(golden, name, dim_in=golden.setting("kv_dim"), **heads, **settings)


def _loaded(golden: Golden, name: str, **settings: Any) -> Projector:
    projector: Projector = PROJECTORS.make(name, **settings).build()
    return projector.load_reference(golden.weights)


def _compare(
    golden: Golden, projector: Projector, videos: Sequence[VideoTokens], budget: int | None = None
) -> Comparison:
    out: TokenBatch = projector(TokenBatch.pack(videos), budget)
    theirs = golden.output("output")
    return Comparison("output", out.tokens.view(theirs.shape), theirs)


def _module(golden: Golden, block: nn.Module, *inputs: Tensor) -> Comparison:
    block.load_state_dict(dict(golden.weights))
    return Comparison("output", block.eval()(*inputs), golden.output("output"))


def _grids(x_BTHWD: Tensor) -> list[VideoTokens]:
    return [video_of_grid(x.flatten(0, 2), Grid(*x.shape[:3])) for x in x_BTHWD]


def _rows(x_BND: Tensor) -> list[VideoTokens]:
    return _grids(x_BND[:, None, None])


def _masked_rows(golden: Golden, name: str = "x") -> list[VideoTokens]:
    """Rows of a batch, those that the mask leaves out dropped."""
    masks = golden.input("mask").bool()
    videos = zip(_rows(golden.input(name)), masks, strict=True)
    return [video.select(mask.nonzero().squeeze(1)) for video, mask in videos]


def _same(golden: Golden, *names: str) -> dict[str, Any]:
    return {name: golden.setting(name) for name in names}


def _renamed(golden: Golden, names: dict[str, str]) -> dict[str, Any]:
    return {ours: golden.setting(theirs) for ours, theirs in names.items()}


def _latent_array(golden: Golden) -> dict[str, Any]:
    names = ("cross_heads", "latent_heads", "cross_dim_head", "latent_dim_head")
    return {"dim_latent": golden.setting("latent_dim"), **_same(golden, *names)}


def _set_dims(golden: Golden) -> tuple[int, int]:
    return golden.setting("dim_in"), golden.setting("dim_out")


CHECKS: dict[str, Check] = {
    "idefics2_connector": check_idefics2,
    "perceiver_io": check_perceiver_io,
    "perceiver": check_perceiver,
    "perceiver_hf": check_perceiver_hf,
    "set_mab": check_mab,
    "set_sab": check_sab,
    "set_isab": check_isab,
    "set_pma": check_pma,
    "qwenvl_resampler": check_qwen_vl,
    "minicpmv26_resampler": check_minicpmv,
    "minicpmv45_resampler3d": check_minicpmv_3d,
    "mqt_resampler": check_mqt,
}
