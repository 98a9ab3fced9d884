"""Frame samplers against the outputs of the original functions; indices are exact."""

from collections.abc import Iterator

import torch

from parity_checks.golden import Check, Comparison, Golden
from vidcomp.sample.aks import aks_index, aks_parts

__all__ = ["CHECKS"]


def check_aks(golden: Golden) -> Iterator[Comparison]:
    """AKS as published, for every budget of ``n_list``."""
    score_N = golden.input("scores")
    settings = {"t1": golden.setting("t1"), "t2": golden.setting("t2")}
    settings["depth"] = golden.setting("all_depth")
    for n in golden.setting("n_list"):
        name = f"output.n{n}.frames"
        frames = aks_index(score_N, n, exact=False, **settings)
        yield Comparison(name, frames, golden.output(name))
        name = f"output.n{n}.num_segments"
        if name in golden.outputs:
            parts = aks_parts(score_N, n, **settings)
            yield Comparison(name, torch.tensor(len(parts)), golden.output(name))


CHECKS: dict[str, Check] = {"aks": check_aks}
