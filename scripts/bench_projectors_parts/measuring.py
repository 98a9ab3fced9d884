"""Time and memory of one projector and of its original, on the same weights and tokens."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from _bench import interleaved, median_ratio
from _memory import Peak
from torch import Tensor

from bench_projectors_parts.case import Case, Task, question
from bench_projectors_parts.weights import Weights
from vidcomp.projectors.base import Projector
from vidcomp.types import Grid

__all__ = ["Measured", "WrongOracleError", "measure"]

_ROUNDS_S = 6.0
"""What the rounds of forward passes may take together, and those of training."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Length of the difference of two answers, over the answer's."""


class WrongOracleError(Exception):
    """The original's arithmetic gives something else, so that its time says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Numbers of one projector."""

    name: str
    tokens_in: int
    tokens_out: int
    dims: tuple[int, int]
    """Features in and out."""
    forward_s: float
    forward_ratio: float
    """Times by which ours is faster than the original."""
    train_s: float
    train_ratio: float
    mib: float
    """At the peak of a forward and backward pass, above weights and input."""
    their_mib: float
    difference: float
    """Length of the difference of the answers over that of the answer."""


def measure(name: str, case: Case, device: str, *, rounds: int, quick: bool) -> Measured:
    """Both answers and gradients are compared first.

    Raises:
        WrongOracleError: they differ.
    """
    projector, grid = case.build(name, device, quick=quick)
    projector = projector.to(torch.float32 if device == "cpu" else torch.bfloat16)
    calls = _calls(projector, case, grid, device)
    difference = _same(name, projector, calls)
    forward = {who: partial(_without_gradients, call, device) for who, call in calls.items()}
    cotangent = _cotangent(calls["ours"]().detach())
    train = {
        who: partial(_with_gradients, projector, call, cotangent, device)
        for who, call in calls.items()
    }
    peaks = {}
    for who, run in train.items():
        projector.zero_grad(set_to_none=True)
        with Peak(device) as peak:
            run()
        peaks[who] = peak.mib
    forward_s, train_s = (_seconds(runs, rounds, device) for runs in (forward, train))
    return Measured(
        name=name,
        tokens_in=grid.num_patches + sum(grid.t * side**2 for side, _ in case.others.values()),
        tokens_out=len(cotangent),
        dims=(projector.config.dim_in, projector.config.dim_out),
        forward_s=statistics.median(forward_s["ours"]),
        forward_ratio=median_ratio(forward_s["theirs"], forward_s["ours"]),
        train_s=statistics.median(train_s["ours"]),
        train_ratio=median_ratio(train_s["theirs"], train_s["ours"]),
        mib=peaks["ours"],
        their_mib=peaks["theirs"],
        difference=difference,
    )


def _calls(
    projector: Projector, case: Case, grid: Grid, device: str
) -> dict[str, Callable[[], Tensor]]:
    """Rows [M, E] of ours and of theirs."""
    streams = case.streams(grid, projector.dtype, device)
    maps = {n: video.tokens.view(*video.grid, -1) for n, video in streams.items()}
    first, query = maps.pop("video"), question(projector, case.words, device)
    task = Task(Weights.of(projector), projector.config, first, query, maps)
    video = streams if case.others else streams["video"]
    dim_out = projector.config.dim_out

    def ours() -> Tensor:
        rows: Tensor = projector(video, query=query).tokens
        return rows

    return {"ours": ours, "theirs": lambda: case.oracle(task).reshape(-1, dim_out)}


def _same(name: str, projector: Projector, calls: Mapping[str, Callable[[], Tensor]]) -> float:
    """How far the answers differ, with and without gradients, and the gradients."""
    found: dict[str, list[Tensor]] = {}
    for who, call in calls.items():
        with torch.no_grad():
            answer = call()
        projector.zero_grad(set_to_none=True)
        with_gradients = call()
        with_gradients.backward(_cotangent(with_gradients))
        grads = [p.grad for p in projector.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten().float() for g in grads])
        found[who] = [answer.float(), with_gradients.detach().float(), flat]
    for what, ours, theirs in zip(
        ("answers", "answers in training", "gradients"), *found.values(), strict=True
    ):
        if ours.shape != theirs.shape:
            raise WrongOracleError(f"{name}: {what} {list(theirs.shape)}, not {list(ours.shape)}")
        gap = float((ours - theirs).norm() / ours.norm())
        limit = _TOLERANCE[projector.dtype] * (10 if what == "gradients" else 1)
        if not gap <= limit:
            raise WrongOracleError(f"{name}: {what} differ by {gap:.2g} of their length")
    ours, theirs = found["ours"][0], found["theirs"][0]
    return float((ours - theirs).norm() / ours.norm())


def _cotangent(rows: Tensor) -> Tensor:
    """A gradient [M, E] that differs from row to row and feature to feature."""
    draw = torch.Generator().manual_seed(0)
    weight_E = torch.randn(rows.shape[1], generator=draw)
    return (torch.linspace(0.5, 1.5, len(rows))[:, None] * weight_E).to(rows)


def _without_gradients(call: Callable[[], Tensor], device: str) -> None:
    with torch.no_grad():
        call()
    _wait(device)


def _with_gradients(
    projector: Projector, call: Callable[[], Tensor], cotangent: Tensor, device: str
) -> None:
    projector.zero_grad(set_to_none=True)
    call().backward(cotangent)
    _wait(device)


def _seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: str
) -> dict[str, list[float]]:
    """Of both in interleaved rounds: of the processor's time on a CPU, which others' work does not
    lengthen; fewer rounds of what is slow.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    warm = interleaved(runs, rounds=1, clock=clock)
    once = sum(seconds[0] for seconds in warm.values())
    rounds = min(rounds, max(3, int(_ROUNDS_S / once))) if rounds > 1 else 1
    return interleaved(runs, rounds=rounds, clock=clock)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
