"""Projectors whose queries read a window each, in float64 with plain loops.

``state`` holds tensors by the names of the original checkpoints.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from oracles.projectors import slow_gelu, slow_norm
from torch import Tensor

State = Mapping[str, Tensor]
Side = Sequence[Sequence[int]]
"""Indices of every window along one side."""


def slow_windows(size: int, length: int) -> list[list[int]]:
    """Indices of windows along a side that is padded at both ends, the end with more if odd."""
    lacking = -size % length
    padded = [-1] * (lacking // 2) + [*range(size)] + [-1] * (lacking - lacking // 2)
    parts = [padded[i : i + length] for i in range(0, len(padded), length)]
    return [[i for i in part if i >= 0] for part in parts]


def slow_layer(state: State, name: str, x: Tensor) -> Tensor:
    """A linear layer on one row, with or without bias."""
    y = state[f"{name}.weight"].double() @ x.double()
    return y + state[f"{name}.bias"].double() if f"{name}.bias" in state else y


def slow_read(
    query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], heads: int
) -> Tensor:
    """What one query reads, head by head; keys may have fewer heads than the query."""
    width = len(query) // heads
    shared = heads * width // len(keys[0])
    out = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        read = slice(head // shared * width, (head // shared + 1) * width)
        logits = [float(query[own] @ key[read]) / math.sqrt(width) for key in keys]
        sizes = [math.exp(logit - max(logits)) for logit in logits]
        parts = [size / sum(sizes) * value[read] for size, value in zip(sizes, values, strict=True)]
        out.append(sum(parts))
    return torch.cat(out)


def slow_tokenpacker(
    x_THWD: Tensor, levels_THWL: Tensor, state: State, heads: int, rows: Side, columns: Side
) -> Tensor:
    """[tokens, E] of TokenPacker; queries lie at the centres of windows."""

    def norm(kind: str, x: Tensor) -> Tensor:
        return slow_norm(x, state[f"ln_{kind}_1.weight"], state[f"ln_{kind}_1.bias"], 1e-6)

    def fine(kind: str, x: Tensor) -> Tensor:
        hidden = slow_gelu(slow_layer(state, f"{kind}_proj_1.0", x))
        return norm(kind, slow_layer(state, f"{kind}_proj_1.2", hidden))

    weight, bias = (
        state["clip_attn.in_proj_weight"].chunk(3),
        state["clip_attn.in_proj_bias"].chunk(3),
    )

    def inner(part: int, x: Tensor) -> Tensor:
        return weight[part].double() @ x + bias[part].double()

    out = []
    for t in range(len(x_THWD)):
        for ys in rows:
            for xs in columns:
                middle = [
                    x_THWD[t, y, x].double()
                    for y in (ys[(len(ys) - 1) // 2], ys[len(ys) // 2])
                    for x in (xs[(len(xs) - 1) // 2], xs[len(xs) // 2])
                ]
                query = norm("q", slow_layer(state, "q_proj_1", sum(middle) / 4))
                patches = [levels_THWL[t, y, x] for y in ys for x in xs]
                keys = [inner(1, fine("k", patch)) for patch in patches]
                values = [inner(2, fine("v", patch)) for patch in patches]
                read = slow_read(inner(0, query), keys, values, heads)
                read = slow_layer(state, "clip_attn.out_proj", read)
                hidden = slow_gelu(slow_layer(state, "mlp.0", read))
                out.append(slow_layer(state, "mlp.2", hidden))
    return torch.stack(out)


def slow_molmo2(x_THWD: Tensor, state: State, heads: int, rows: Side, columns: Side) -> Tensor:
    """[tokens, E] of Molmo2's pooling."""
    pool, mlp = "image_pooling_2d", "image_projector"
    out = []
    for t in range(len(x_THWD)):
        for ys in rows:
            for xs in columns:
                patches = [x_THWD[t, y, x].double() for y in ys for x in xs]
                query = slow_layer(state, f"{pool}.q_proj", sum(patches) / len(patches))
                keys = [slow_layer(state, f"{pool}.k_proj", patch) for patch in patches]
                values = [slow_layer(state, f"{pool}.v_proj", patch) for patch in patches]
                read = slow_layer(state, f"{pool}.o_proj", slow_read(query, keys, values, heads))
                gate = slow_layer(state, f"{mlp}.gate_proj", read)
                gate = gate / (1 + (-gate).exp())
                hidden = gate * slow_layer(state, f"{mlp}.up_proj", read)
                out.append(slow_layer(state, f"{mlp}.down_proj", hidden))
    return torch.stack(out)


def slow_sine(place: int, size: int, dim: int) -> Tensor:
    """[dim] sines and cosines by turns of one side; ``place`` counts from 0."""
    angle = (place + 1) / (size + 1e-6) * 2 * math.pi
    values = []
    for i in range(dim // 2):
        rate = 10000 ** (2 * i / dim)
        values += [math.sin(angle / rate), math.cos(angle / rate)]
    return torch.tensor(values, dtype=torch.float64)


def slow_edgetam(
    x_HWD: Tensor, state: State, heads: int, depth: int, grid: tuple[int, int], dim_place: int
) -> Tensor:
    """[tokens, D] of one frame: latents of all of it, then one a window.

    Args:
        x_HWD: a frame.
        state: with ``latents_1d`` and ``latents_2d``.
        heads: heads of attention.
        depth: layers.
        grid: windows along height and width.
        dim_place: features of the positions of global latents.
    """
    h, w, _ = x_HWD.shape
    cells = [(y, x) for y in range(h) for x in range(w)]
    patches = [x_HWD[y, x].double() for y, x in cells]
    half = dim_place // 2
    places = [torch.cat([slow_sine(y, h, half), slow_sine(x, w, half)]) for y, x in cells]
    latents = _slow_layers([*state["latents_1d"].double()], patches, places, state, heads, depth)
    for i in range(grid[0]):
        ys = range(i * h // grid[0], math.ceil((i + 1) * h / grid[0]))
        for j in range(grid[1]):
            xs = range(j * w // grid[1], math.ceil((j + 1) * w / grid[1]))
            own = [x_HWD[y, x].double() for y in ys for x in xs]
            start = [state["latents_2d"][i * grid[1] + j].double()]
            latents += _slow_layers(start, own, None, state, heads, depth)
    norm = state["layer_norm.weight"], state["layer_norm.bias"]
    return torch.stack([slow_norm(latent, *norm) for latent in latents])


def _slow_layers(
    latents: list[Tensor],
    patches: list[Tensor],
    places: list[Tensor] | None,
    state: State,
    heads: int,
    depth: int,
) -> list[Tensor]:
    for number in range(depth):
        start = f"layers.{number}."

        def norm(name: str, x: Tensor, start: str = start) -> Tensor:
            return slow_norm(x, state[f"{start}{name}.weight"], state[f"{start}{name}.bias"])

        def attend(
            name: str, x: Tensor, rows: list[Tensor], at: list[Tensor] | None, start: str = start
        ) -> Tensor:
            keys = [slow_layer(state, f"{start}{name}.k_proj", row) for row in rows]
            values = [slow_layer(state, f"{start}{name}.v_proj", row) for row in rows]
            if at is not None:
                keys = [key + place for key, place in zip(keys, at, strict=True)]
                values = [value + place for value, place in zip(values, at, strict=True)]
            query = slow_layer(state, f"{start}{name}.q_proj", x)
            return slow_layer(state, f"{start}{name}.o_proj", slow_read(query, keys, values, heads))

        def feed(name: str, x: Tensor, start: str = start) -> Tensor:
            hidden = slow_layer(state, f"{start}{name}.up_proj", norm(f"{name}.layer_norm", x))
            return slow_layer(state, f"{start}{name}.down_proj", slow_gelu(hidden))

        rows = [norm("layer_norm_input", patch) for patch in patches]
        latents = [
            x + attend("cross_attention", norm("layer_norm_latents", x), rows, places)
            for x in latents
        ]
        latents = [x + feed("mlp", x) for x in latents]
        alike = [norm("layer_norm_self", x) for x in latents]
        latents = [
            x + attend("self_attention", own, alike, None)
            for x, own in zip(latents, alike, strict=True)
        ]
        latents = [x + feed("self_mlp", x) for x in latents]
    return latents
