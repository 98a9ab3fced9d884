"""Methods that rank by the encoder's attention, row for row in the order of the originals."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid, VideoTokens

__all__ = ["CHECKS"]


def check_visionzip(golden: Golden) -> Iterator[Comparison]:
    """A picture is a video of one frame; its class token, which we do not have, goes in front."""
    num_dominant, num_merged = golden.setting("dominant"), golden.setting("contextual")
    kept = num_dominant + num_merged
    stage = COMPRESSORS.make(
        "visionzip", mode="published", metric="keys", dominant=num_dominant / kept
    )
    hidden_BND = golden.input("hidden")
    saliency_BN = golden.input("attn")[:, :, 0, 1:].sum(dim=1)
    tokens, rows = [], []
    for hidden, saliency, keys in zip(hidden_BND, saliency_BN, golden.input("metric"), strict=True):
        video = _picture(hidden[1:], Grid(1, **golden.grid), saliency=saliency, keys=keys[1:])
        out = stage(video, kept)
        tokens.append(torch.cat([hidden[:1], out.tokens]))
        rows.append(out.extras["row"][:num_dominant].long() + 1)
    yield Comparison("output.tokens", torch.stack(tokens), golden.output("output.tokens"))
    # The recording lists the class token and then the rows by falling attention.
    theirs = golden.output("output.all_indices")
    ours = torch.stack([torch.cat([torch.zeros(1, dtype=torch.int64), r]) for r in rows])
    yield Comparison("output.all_indices", ours, theirs.sort(dim=1).values)


def check_prumerge(golden: Golden) -> Iterator[Comparison]:
    """One picture; attention of the class token by one softmax over all features."""
    features, k, q = (golden.input(name)[0] for name in ("features", "k", "q"))
    attention = ((q[:1] @ k.T) / q.shape[1] ** 0.5).softmax(dim=1)[0]
    side = round((len(features) - 1) ** 0.5)
    video = _picture(features[1:], Grid(1, side, side), saliency=attention[1:], keys=k[1:])
    for name, plus in (("advanced", False), ("advanced_plus", True)):
        stage = COMPRESSORS.make("prumerge", mode="published", metric="keys", plus=plus)
        theirs = golden.output(f"output.{name}")
        out = stage(video, len(video) - 1)
        assert out.weights is not None
        yield Comparison(f"output.{name}", out.tokens[None], theirs)
        if not plus:
            kept = len(out) - 1
            ratio = torch.tensor(kept / len(video), dtype=torch.float64)
            yield Comparison("output.ratio", ratio, golden.output("output.ratio"))
            # A kept token has its own largest share in what it is mixed from.
            own = out.weights.to_dense()[:kept].argmax(dim=1)
            theirs = golden.output("output.kept_by_attention")
            yield Comparison("output.kept_by_attention", own[None], theirs)


def _picture(x_PD: Tensor, grid: Grid, **extras: Tensor) -> VideoTokens:
    row = torch.arange(len(x_PD), dtype=torch.float32)
    return replace(video_of_grid(x_PD, grid), extras={**extras, "row": row})


CHECKS: dict[str, Check] = {"visionzip": check_visionzip, "llava_prumerge": check_prumerge}
