"""The recurrence of state space models, all chunks of a sequence side by side.

A chunk is a run of tokens.  First every chunk starts from zero and only its last state is kept,
then those are handed from chunk to chunk, and at last every chunk runs again from its true first
state.  So 2304 tokens take 48 + 48 + 48 short steps on wide tensors; each decay is a power of its
own that is at most 1 where rates are below zero, and nothing is divided, so that nothing overflows
however long a sequence is.  Features are taken in blocks whose states stay in the processor's
cache; gradients recompute states from the first ones of the chunks, the only ones that are kept.

Legend: B sequences, L tokens, J chunks of Q tokens, G groups of features that share what they read
and write, N states of a feature, D features of a group, X features or states; b j g d are parts of
B J G D, and M is b and j together.
"""

import math
from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["Recurrence", "scan", "scan_backward"]

_LONGEST = 64
"""Tokens of a chunk, and chunks side by side: a longer sequence is taken in several runs."""
_CACHED = 1 << 17
"""States of a block on a processor: a few such tensors stay in its cache (512 KiB each)."""
_SPREAD = 1 << 21
"""The same on an accelerator, whose steps must be wide instead."""
_NARROWEST = 16
"""Features of a block; fewer would hardly be worth a step."""


class Recurrence(NamedTuple):
    """``state_t = 2 ** (delta_t * rate) * state_{t-1} + x_t * read_t``, of which ``write_t`` makes
    the output; float32 or float64, all of one type.
    """

    delta: Tensor
    """[B, L, G, D] lengths of the steps."""
    x: Tensor
    """[B, L, G, D] what comes in."""
    read: Tensor
    """[B, L, G, N] how states read a token."""
    write: Tensor
    """[B, L, G, N] how a token is made of states."""
    rate: Tensor
    """[G, N, D] logarithms to the base 2 of what a state is multiplied by in a step of length 1:
    powers of 2 are several times faster than those of e."""


class _Block(NamedTuple):
    """What is computed together: slices of sequences, chunks, groups and features."""

    b: slice
    j: slice
    g: slice
    d: slice

    def of(self, rows_BJQGD: Tensor) -> Tensor:
        """[Q, b, j, g, d] a view."""
        return rows_BJQGD[self.b, self.j, :, self.g, self.d].permute(2, 0, 1, 3, 4)

    def shared(self, rows_BJQGN: Tensor) -> Tensor:
        """[Q, b, j, g, N] a view of what belongs to no single feature."""
        return self._replace(d=slice(None)).of(rows_BJQGN)

    def places(self, rows_BJQGD: Tensor) -> Tensor:
        """[Q, M, g, 1, d] copied, so that all of a block lies together."""
        return self.of(rows_BJQGD).contiguous().flatten(1, 2).unsqueeze(3)


class _Steps(NamedTuple):
    """A block, one entry for each place in a chunk."""

    delta: tuple[Tensor, ...]  # [M, g, 1, d]
    x: tuple[Tensor, ...]  # [M, g, 1, d]
    read: tuple[Tensor, ...]  # [M, g, 1, N]
    write: tuple[Tensor, ...]  # [M, g, 1, N]
    rate: Tensor  # [g, N, d]
    whole: Tensor  # [M, g, N, d] decay of a chunk
    num_chunks: int  # j

    def decay(self, q: int, out: Tensor) -> Tensor:
        """[M, g, N, d] of one place, into ``out``."""
        return torch.mul(self.delta[q], self.rate, out=out).exp2_()

    def apart(self, states_MGND: Tensor) -> Tensor:
        """[b, j, g, N, d] a view."""
        return states_MGND.view(-1, self.num_chunks, *states_MGND.shape[1:])


def scan(inputs: Recurrence, *, keep: bool) -> tuple[Tensor, Tensor]:
    """The outputs [B, L, G, D], from states that are zero before the first token, and the first
    states of all chunks [B, J, G, N, D], empty if they are not wanted.

    Args:
        inputs: any sizes, L too.
        keep: whether ``scan_backward`` will need the states.
    """
    length = inputs.x.shape[1]
    chunked = _chunked(inputs)
    b, chunks, _, g, d = chunked.x.shape
    y_BJQGD = torch.empty_like(chunked.x)
    starts_BJGND = y_BJQGD.new_empty(b, chunks * keep, g, chunked.rate.shape[1], d)
    for run in _runs(chunked):
        carry: Tensor | None = None
        for block in run:
            steps = _steps(chunked, block)
            start = _starts(steps, carry)
            if keep:
                starts_BJGND[block.b, block.j, block.g, :, block.d] = steps.apart(start)
            y, state = _outputs(steps, start)
            block.of(y_BJQGD).copy_(y)
            carry = steps.apart(state)[:, -1]
    return y_BJQGD.flatten(1, 2)[:, :length], starts_BJGND


def scan_backward(inputs: Recurrence, starts_BJGND: Tensor, grad_BLGD: Tensor) -> Recurrence:
    """Gradients of all inputs.

    Args:
        inputs: those of ``scan``.
        starts_BJGND: what it kept.
        grad_BLGD: of its outputs.
    """
    length = inputs.x.shape[1]
    chunked = _chunked(inputs)
    grad_BJQGD = _split(grad_BLGD, *chunked.x.shape[1:3])
    grads = Recurrence(*(torch.zeros_like(tensor) for tensor in chunked))
    for run in _runs(chunked):
        carry: Tensor | None = None
        for block in reversed(run):
            steps = _steps(chunked, block)
            start = starts_BJGND[block.b, block.j, block.g, :, block.d].flatten(0, 1)
            grad = block.places(grad_BJQGD).unbind(0)
            found, first = _gradients(steps, start.contiguous(), grad, carry)
            _add(found, grads, block)
            carry = steps.apart(first)[:, 0]
    delta, x, read, write = (rows.flatten(1, 2)[:, :length] for rows in grads[:4])
    return Recurrence(delta, x, read, write, grads.rate)


def _chunked(inputs: Recurrence) -> Recurrence:
    """The same with [..., J, Q, ...] for the tokens; what is added at the end changes no state."""
    length = inputs.x.shape[1]
    q = min(_LONGEST, math.isqrt(max(length - 1, 0)) + 1)
    delta, x, read, write = (_split(rows, -(-length // q), q) for rows in inputs[:4])
    return Recurrence(delta, x, read, write, inputs.rate.contiguous())


def _split(x_BLGD: Tensor, j: int, q: int) -> Tensor:
    missing = j * q - x_BLGD.shape[1]
    padded = pad(x_BLGD, (0, 0, 0, 0, 0, missing)) if missing else x_BLGD
    return padded.view(len(padded), j, q, *padded.shape[2:])


def _runs(chunked: Recurrence) -> Iterator[list[_Block]]:
    """Blocks of the same features, whose chunks follow each other."""
    b, chunks, _, g, d = chunked.x.shape
    target = _CACHED if chunked.x.device.type == "cpu" else _SPREAD
    states = min(chunks, _LONGEST) * chunked.rate.shape[1]
    wide = max(target // max(states, 1), _NARROWEST)
    parts = _cut(b, wide // (d * g)), _cut(g, wide // d), _cut(d, wide)
    for sequences, groups, features in product(*parts):
        yield [_Block(sequences, j, groups, features) for j in _cut(chunks, _LONGEST)]


def _cut(total: int, most: int) -> list[slice]:
    """As few slices of at most so many as there can be, as even as they can be; at least 1 each."""
    count = -(-total // max(most, 1))
    edges = [total * i // max(count, 1) for i in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _steps(chunked: Recurrence, block: _Block) -> _Steps:
    delta, x = (block.places(rows) for rows in chunked[:2])
    read, write = (block._replace(d=slice(None)).places(rows) for rows in chunked[2:4])
    rate = chunked.rate[block.g, :, block.d].contiguous()
    return _Steps(
        delta.unbind(0),
        x.unbind(0),
        read.unbind(0),
        write.unbind(0),
        rate,
        (delta.sum(dim=0) * rate).exp2_(),
        block.j.stop - block.j.start,
    )


def _starts(steps: _Steps, carry: Tensor | None) -> Tensor:
    """[M, g, N, d] first states of the chunks; ``carry`` [b, g, N, d] is that of the first."""
    state = torch.zeros_like(steps.whole)
    if steps.num_chunks > 1:
        decay = torch.empty_like(state)
        for q, (x, read) in enumerate(zip(steps.x, steps.read, strict=True)):
            state.mul_(steps.decay(q, decay)).addcmul_(x, read.mT)
    return _handed_on(steps, state, carry, range(steps.num_chunks))


def _handed_on(steps: _Steps, alone: Tensor, carry: Tensor | None, order: range) -> Tensor:
    """[M, g, N, d] what each chunk gets from those before it in ``order``, of what each of them
    gives ``alone``; the first gets ``carry``.
    """
    alone, whole = steps.apart(alone), steps.apart(steps.whole)
    out = torch.empty_like(alone)
    passed = torch.zeros_like(alone[:, 0]) if carry is None else carry
    for place in order:
        out[:, place] = passed
        passed = torch.addcmul(alone[:, place], whole[:, place], passed)
    return out.flatten(0, 1)


def _outputs(steps: _Steps, start: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs [Q, b, j, g, d] of all places, and the last states [M, g, N, d]."""
    state, decay = start.clone(), torch.empty_like(start)
    m, g, _, d = start.shape
    y = start.new_empty(len(steps.x), m * g, 1, d)
    for q, (x, read, write) in enumerate(zip(steps.x, steps.read, steps.write, strict=True)):
        state.mul_(steps.decay(q, decay)).addcmul_(x, read.mT)
        torch.bmm(write.flatten(0, 1), state.flatten(0, 1), out=y[q])
    return y.view(len(y), -1, steps.num_chunks, g, d), state


def _gradients(
    steps: _Steps, start: Tensor, grad: tuple[Tensor, ...], carry: Tensor | None
) -> tuple[Recurrence, Tensor]:
    """Gradients of a block, each [Q, M, g, 1, d] or [Q, M, g, 1, N] but that of the rates
    [g, N, d]; and that [M, g, N, d] of the states before the chunks.

    ``late`` is the gradient of the states, first after and then before a step.
    """
    states = _states(steps, start)
    late, decay, work = _late(steps, grad, carry), torch.empty_like(start), torch.empty_like(start)
    slope, natural = torch.zeros_like(start), steps.rate * math.log(2)
    delta, x, read, write = (
        torch.empty(len(grad), *rows[0].shape, dtype=start.dtype, device=start.device)
        for rows in steps[:4]
    )
    for q in reversed(range(len(grad))):
        _dot(grad[q], states[q + 1].mT, out=write[q])
        late.addcmul_(grad[q], steps.write[q].mT)
        _dot(steps.read[q], late, out=x[q])
        _dot(steps.x[q], late.mT, out=read[q])
        torch.mul(late.mul_(steps.decay(q, decay)), states[q], out=work)
        slope.addcmul_(steps.delta[q], work)
        torch.sum(work.mul_(natural), dim=2, keepdim=True, out=delta[q])
    return Recurrence(delta, x, read, write, slope.sum(dim=0) * math.log(2)), late


def _states(steps: _Steps, start: Tensor) -> Tensor:
    """[Q + 1, M, g, N, d] the first states and those after each place."""
    states = start.new_empty(len(steps.x) + 1, *start.shape)
    states[0] = start
    for q, (x, read) in enumerate(zip(steps.x, steps.read, strict=True)):
        steps.decay(q, states[q + 1]).mul_(states[q]).addcmul_(x, read.mT)
    return states


def _late(steps: _Steps, grad: tuple[Tensor, ...], carry: Tensor | None) -> Tensor:
    """[M, g, N, d] gradients of the last states of the chunks from all that follows them."""
    late = torch.zeros_like(steps.whole)
    if steps.num_chunks > 1:
        decay = torch.empty_like(late)
        for q in reversed(range(len(grad))):
            late.addcmul_(grad[q], steps.write[q].mT).mul_(steps.decay(q, decay))
    return _handed_on(steps, late, carry, range(steps.num_chunks)[::-1])


def _dot(row: Tensor, matrix: Tensor, *, out: Tensor) -> None:
    """[M, g, 1, K] times [M, g, K, X]."""
    torch.bmm(row.flatten(0, 1), matrix.flatten(0, 1), out=out.flatten(0, 1))


def _add(found: Recurrence, into: Recurrence, block: _Block) -> None:
    """Gradients of a block to those of all; several blocks of features read and write the same."""
    for rows, whole in zip(found[:2], into[:2], strict=True):
        view = block.of(whole)
        view += rows.view(view.shape)
    for rows, whole in zip(found[2:4], into[2:4], strict=True):
        view = block.shared(whole)
        view += rows.view(view.shape)
    into.rate[block.g, :, block.d] += found.rate
