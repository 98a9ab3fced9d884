"""Token merging against the outputs of the original functions, row for row in their order."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from parity_checks.golden import Check, Comparison, Golden
from parity_checks.videos import video_of_grid
from vidcomp.functional.match import bipartite_groups, every_kth_groups, proportional_bias
from vidcomp.functional.merge import merge_by_assignment
from vidcomp.registry import COMPRESSORS
from vidcomp.types import Grid

__all__ = ["CHECKS"]


def check_tome(golden: Golden) -> Iterator[Comparison]:
    """ToMe's rounds of ``r_list`` merges, its k-th form, and its proportional attention."""
    x_BND, metric_BND = golden.input("x"), golden.input("metric")
    has_class_token = bool(golden.setting("class_token"))
    steps = [
        _merge_rounds(x_ND, metric_ND, golden.setting("r_list"), has_class_token)
        for x_ND, metric_ND in zip(x_BND, metric_BND, strict=True)
    ]
    for i in range(len(golden.setting("r_list"))):
        for place, kind in enumerate(("x", "size", "source")):
            yield _compare(golden, f"output.step{i}.{kind}", [s[i][place] for s in steps])
    # The recording of the k-th form compares the rows themselves.
    kth_groups = [every_kth_groups(x_ND, golden.setting("kth")) for x_ND in x_BND]
    kth = [_merge_once(x, torch.ones(len(x)), g) for x, g in zip(x_BND, kth_groups, strict=True)]
    yield _compare(golden, "output.kth.x", [x for x, _ in kth])
    yield _compare(golden, "output.kth.size", [mass[:, None] for _, mass in kth])
    attended = [_proportional_attention(golden, s[-1][0], s[-1][1]) for s in steps]
    yield _compare(golden, "output.propattn.out", [out for out, _ in attended])
    yield _compare(golden, "output.propattn.k_mean", [k_mean for _, k_mean in attended])


def check_videochat_flash(golden: Golden) -> Iterator[Comparison]:
    """VideoChat-Flash's repeated halving of a clip to ``target`` tokens."""
    stage = COMPRESSORS.make("tome", mode="published", heads=golden.setting("heads"))
    grid = Grid(**golden.grid)
    videos = [video_of_grid(x_ND, grid) for x_ND in golden.input("x")]
    target = golden.setting("target")
    yield _compare(golden, "output.tokens", [stage(v, target).tokens for v in videos])


def _compare(golden: Golden, name: str, ours: list[Tensor]) -> Comparison:
    return Comparison(name, torch.stack(ours), golden.output(name))


def _merge_rounds(
    x_ND: Tensor, metric_ND: Tensor, merges: list[int], has_class_token: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows, sizes [K, 1] and sources [K, N] after each round; later ones compare the rows."""
    mass_N, source_NN = torch.ones(len(x_ND)), torch.eye(len(x_ND))
    steps = []
    for wanted in merges:
        n = len(x_ND)
        num_merges = min(wanted, (n - has_class_token) // 2)
        group_N = bipartite_groups(_shielded(metric_ND, has_class_token), num_merges)
        if has_class_token:
            group_N = _kept_ascending(group_N, (n + 1) // 2 - num_merges)
        x_ND, mass_N = _merge_once(x_ND, mass_N, group_N)
        member_KN = group_N == torch.arange(len(x_ND))[:, None]
        source_NN = (member_KN.float() @ source_NN).clamp(max=1)
        steps.append((x_ND, mass_N[:, None], source_NN))
        metric_ND = x_ND
    return steps


def _merge_once(x_ND: Tensor, mass_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    return merge_by_assignment(x_ND, mass_N, group_N, int(group_N.max()) + 1)


def _shielded(metric_ND: Tensor, has_class_token: bool) -> Tensor:
    """The metric with row 0 less similar to all others than they can be to each other.

    Our matching knows no class token, as encoders drop it.  A further feature of 1 brings all
    other cosines from -1..1 to 0..1 in the same order, and leaves 0 for the first row.
    """
    if not has_class_token:
        return metric_ND
    unit_ND = normalize(metric_ND.double(), dim=-1)
    others_N1 = torch.ones(len(metric_ND), 1, dtype=torch.float64)
    first_N1 = torch.zeros_like(others_N1)
    unit_ND[0], others_N1[0], first_N1[0] = 0, 0, 1
    return torch.cat([unit_ND, others_N1, first_N1], dim=1)


def _kept_ascending(group_N: Tensor, num_kept: int) -> Tensor:
    """The same groups with those of kept sources, the first ones, in the order of their rows."""
    rank = torch.arange(int(group_N.max()) + 1)
    rows = (group_N < num_kept).nonzero().squeeze(1)
    rank[group_N[rows]] = torch.arange(num_kept)
    return rank[group_N]


def _proportional_attention(golden: Golden, x_ND: Tensor, size_N1: Tensor) -> tuple[Tensor, Tensor]:
    """ToMe's attention block on merged tokens: its output, and its keys averaged over heads."""
    heads = golden.setting("heads")
    qkv = x_ND @ golden.input("attn.qkv.weight").T + golden.input("attn.qkv.bias")
    q, k, v = qkv.reshape(len(x_ND), 3, heads, -1).permute(1, 2, 0, 3)
    bias_1N = proportional_bias(size_N1.squeeze(1))[None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=bias_1N.expand(heads, 1, -1))
    out_ND = out.transpose(0, 1).flatten(1)
    projected = out_ND @ golden.input("attn.proj.weight").T + golden.input("attn.proj.bias")
    return projected, k.mean(dim=0)


CHECKS: dict[str, Check] = {"tome": check_tome, "videochat_flash_tome": check_videochat_flash}
