"""Q-Formers of transformers itself, tiny and random, give what ours give with their weights."""

from typing import Any

import pytest
import torch
from projector_cases import DIM_IN, dense, pruned
from torch import Tensor, nn

import vidcomp as vc
from vidcomp.projectors.base import Projector
from vidcomp.types import Grid, QueryIds, TokenBatch

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SIZES = {"dim": 16, "depth": 4, "heads": 4, "dim_ff": 24, "num_latents": 5, "dim_out": 10}
MODELS = {
    "Blip2": "qformer",
    "InstructBlip": "instruct_qformer",
    "InstructBlipVideo": "instruct_qformer",
}
WORDS = {"num_words": 20, "max_words": 7}


def theirs(family: str) -> nn.ModuleDict:
    """``query_tokens``, ``qformer`` and ``language_projection`` as in the whole model."""
    import transformers

    config = getattr(transformers, f"{family}QFormerConfig")(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=24,
        encoder_hidden_size=DIM_IN,
        cross_attention_frequency=2,
        vocab_size=WORDS["num_words"],
        max_position_embeddings=WORDS["max_words"],
    )
    # The Q-Formers of InstructBLIP are not exported by the package.
    name = f"{family}QFormerModel"
    module = __import__(config.__module__.replace("configuration_", "modeling_"), fromlist=[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = nn.ModuleDict(
            {"qformer": getattr(module, name)(config), "language_projection": nn.Linear(16, 10)}
        )
        whole.register_parameter("query_tokens", nn.Parameter(torch.zeros(1, 5, 16)))
        for parameter in whole.parameters():
            nn.init.normal_(parameter, std=0.3)
    return whole.eval()


def pair(family: str, **settings: Any) -> tuple[nn.ModuleDict, Projector]:
    whole = theirs(family)
    words = WORDS if MODELS[family] == "instruct_qformer" else {}
    own = {**SIZES, **words, **settings}
    projector = vc.projector(MODELS[family], dim_in=DIM_IN, **own)
    return whole, projector.load_reference(whole.state_dict())


@torch.no_grad()
def read(whole: nn.ModuleDict, rows_FND: Tensor, ids: Tensor | None = None) -> Tensor:
    """[F * K, E] latents of every frame, one after another."""
    latents = whole.query_tokens.expand(len(rows_FND), -1, -1)
    inputs: dict[str, Tensor] = {"query_embeds": latents, "encoder_hidden_states": rows_FND}
    if ids is not None:
        inputs["input_ids"] = ids.expand(len(rows_FND), -1)
    out = whole["qformer"](**inputs).last_hidden_state[:, :5]
    return whole["language_projection"](out).flatten(0, 1)


@pytest.mark.parametrize("family", MODELS)
def test_frames_one_by_one_as_transformers_reads_them(family: str) -> None:
    whole, projector = pair(family, frames_per_clip=1)
    video = dense(Grid(3, 2, 4))
    ids = torch.tensor([3, 0, 19, 7])
    asked = QueryIds(ids=ids) if projector.asks else None
    wanted = read(whole, video.tokens.unflatten(0, (3, 8)), ids if asked else None)
    out = projector(video, query=asked)
    torch.testing.assert_close(out.tokens, wanted, **CLOSE)
    assert len(out) == projector.num_tokens(video.grid) == 15


@pytest.mark.parametrize("family", MODELS)
def test_a_ragged_batch_with_questions_of_its_own(family: str) -> None:
    """Whole videos at once, of which tokens were pruned: transformers reads each alone."""
    whole, projector = pair(family, frames_per_clip=None)
    videos = [dense(Grid(1, 2, 2), 1), pruned(Grid(3, 2, 3), 2), pruned(Grid(2, 4, 4), 3)]
    texts = [torch.tensor([5]), torch.tensor([1, 2, 3, 4, 0, 6, 7]), torch.tensor([0, 0])]
    queries = [QueryIds(ids=text) for text in texts] if projector.asks else None
    together = projector.many(TokenBatch.pack(videos), queries=queries)
    for video, text, out in zip(videos, texts, together, strict=True):
        wanted = read(whole, video.tokens[None], text if queries else None)
        torch.testing.assert_close(out.tokens, wanted, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("offset", [None, 0, 3])
def test_windows_as_granite_reads_them(offset: int | None) -> None:
    import transformers
    from transformers.models.granite4_vision import modeling_granite4_vision as granite

    qformer = transformers.Blip2QFormerConfig(
        hidden_size=DIM_IN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        encoder_hidden_size=DIM_IN,
        cross_attention_frequency=1,
    )
    config = transformers.Granite4VisionConfig(
        vision_config={"model_type": "siglip_vision_model", "hidden_size": DIM_IN}
        | {"image_size": 32, "patch_size": 4, "num_attention_heads": 2},
        text_config={"hidden_size": 10},
        downsample_rate="2/4",
    )
    config.qformer_config = qformer  # it would give itself a head for 64 features: none
    module = granite.Granite4VisionWindowQFormerDownsampler(config, spatial_offset=offset).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.normal_(std=0.3, generator=generator)
    projector = vc.projector(
        "window_qformer",
        dim_in=DIM_IN,
        dim_out=10,
        query_side=2,
        window_side=4,
        spatial_offset=offset,
        depth=2,
        heads=2,
        dim_ff=24,
    ).load_reference(module.state_dict())
    video = dense(Grid(2, 8, 8))
    wanted = module(video.tokens.unflatten(0, (2, 64)))
    torch.testing.assert_close(projector(video).tokens, wanted.flatten(0, 1), **CLOSE)
