"""How much text, latents and patches matter to an answer, from attention and its gradients.

Rules of Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers, 2021, https://arxiv.org/abs/2103.15679, chained through a projector and a language
model as in DeCo: Decoupling Token Compression from Semantic Abstraction in Multimodal Large
Language Models, 2024, https://arxiv.org/abs/2405.20985 (R-GAE; DeCo published no code).  A map is
about one target: gradients are those of its logit with respect to the attention after the softmax.
"Patch" ends at the encoder's output; its own self-attention is not followed.

Legend: H heads, K rows that attend, N rows attended to, Q latents, P patches, S rows of a language
model, T text rows wanted; leading dimensions ... are videos or targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import ShapeError
from vidcomp.functional.provenance import patch_weights
from vidcomp.types import Grid, VideoTokens

__all__ = [
    "Relevance",
    "cross_attention_rule",
    "decoder_relevance",
    "head_relevance",
    "latent_relevance",
    "normalized_relevance",
    "pooled_relevance",
    "relevance_maps",
    "self_attention_rule",
    "text_to_patch",
    "text_to_query",
]


class Relevance(NamedTuple):
    """What latents owe to each other and to the patches."""

    among: Tensor
    """[..., Q, Q]."""
    to_patches: Tensor
    """[..., Q, P]."""


def head_relevance(attention_HKN: Tensor, gradient_HKN: Tensor) -> Tensor:
    """[..., K, N] float32 mean over heads of what raises the target: relu(gradient x attention).

    Args:
        attention_HKN: [..., H, K, N] after the softmax and before any dropout.
        gradient_HKN: of the target's logit with respect to it.

    Raises:
        ShapeError: the shapes differ.
    """
    if attention_HKN.shape != gradient_HKN.shape or attention_HKN.ndim < 3:
        raise ShapeError(
            f"attention and its gradient must have one shape [..., H, K, N], got "
            f"{list(attention_HKN.shape)} and {list(gradient_HKN.shape)}: record both of one layer"
        )
    raised_HKN = gradient_HKN.detach().float() * attention_HKN.detach().float()
    return raised_HKN.relu().mean(dim=-3)


def normalized_relevance(among_KK: Tensor) -> Tensor:
    """[..., K, K] with all but the identity brought to rows that sum to 1.

    A row that has nothing but itself stays so; the original divides 0 by 0.
    """
    eye = torch.eye(among_KK.shape[-1], dtype=among_KK.dtype, device=among_KK.device)
    rest = among_KK - eye
    total = rest.sum(dim=-1, keepdim=True)
    return eye + torch.where(total > 0, rest / torch.where(total > 0, total, 1), 0)


def self_attention_rule(relevance: Relevance, among_KK: Tensor) -> Relevance:
    """After a layer in which latents read each other.

    Args:
        relevance: before the layer.
        among_KK: [..., Q, Q] the layer's ``head_relevance``.
    """
    among, to_patches = relevance
    return Relevance(among + among_KK @ among, to_patches + among_KK @ to_patches)


def cross_attention_rule(
    relevance: Relevance,
    across_KN: Tensor,
    patches_NN: Tensor | None = None,
    patches_to_latents_NK: Tensor | None = None,
    *,
    normalize: bool = True,
) -> Relevance:
    """After a layer in which latents read patches; both parts grow by what was before it.

    Args:
        relevance: before the layer.
        across_KN: [..., Q, P] the layer's ``head_relevance``.
        patches_NN: [..., P, P] relevance of patches among themselves; ``None``: the identity, as
            where patches are the encoder's fixed output.
        patches_to_latents_NK: [..., P, Q] what patches owe to latents; ``None``: nothing.
        normalize: pass on what latents and patches owe among themselves (rule 10 of the paper);
            False: the layer's own relevance alone.
    """
    among, to_patches = relevance
    passed = across_KN
    if normalize:
        if patches_NN is not None:
            passed = passed @ normalized_relevance(patches_NN)
        passed = normalized_relevance(among).transpose(-1, -2) @ passed
    grown = among
    if patches_to_latents_NK is not None:
        grown = among + across_KN @ patches_to_latents_NK
    return Relevance(grown, to_patches + passed)


def latent_relevance(layers: Sequence[tuple[Tensor | None, Tensor | None]]) -> Relevance:
    """Query-to-patch: what each latent of a Q-Former or resampler owes to each patch.

    Args:
        layers: from the first, ``head_relevance`` [..., Q, Q] of latents among themselves, applied
            first, and [..., Q, P] of latents and patches; ``None`` where a layer has none.  A
            Q-Former's words count as latents that read no patches.

    Raises:
        ShapeError: no layer reads patches, or sizes differ between layers.
    """
    across = [b for _, b in layers if b is not None]
    if not across:
        raise ShapeError("relevance of patches needs a layer that reads them, got none: pass one")
    first = across[0]
    num_latents = first.shape[-2]
    eye = torch.eye(num_latents, dtype=first.dtype, device=first.device)
    shape = first.shape[:-2]
    found = Relevance(eye.expand(*shape, -1, -1), torch.zeros_like(first))
    for number, (among_KK, across_KN) in enumerate(layers):
        _check(number, among_KK, (num_latents, num_latents))
        _check(number, across_KN, tuple(first.shape[-2:]))
        if among_KK is not None:
            found = self_attention_rule(found, among_KK)
        if across_KN is not None:
            found = cross_attention_rule(found, across_KN)
    return found


def decoder_relevance(layers: Sequence[Tensor]) -> Tensor:
    """[..., S, S] what each row of a language model owes to each before it.

    Args:
        layers: from the first, ``head_relevance`` [..., S, S] of causal self-attention.

    Raises:
        ShapeError: no layers, or not of one square size.
    """
    if not layers:
        raise ShapeError("relevance in a language model needs its layers, got none: pass them")
    size = layers[0].shape[-1]
    found = torch.eye(size, dtype=layers[0].dtype, device=layers[0].device)
    for number, among_SS in enumerate(layers):
        _check(number, among_SS, (size, size))
        found = found + among_SS @ found
    return found


def text_to_query(decoder_SS: Tensor, text_T: Tensor, visual_Q: Tensor) -> Tensor:
    """[..., T, Q] what text rows owe to visual tokens.

    Args:
        decoder_SS: ``decoder_relevance``.
        text_T: integers, the rows of the text wanted, as of the generated answer.
        visual_Q: integers, the rows at which the visual tokens stand, in their order.
    """
    return decoder_SS.index_select(-2, text_T).index_select(-1, visual_Q)


def text_to_patch(text_TQ: Tensor, latents_QP: Tensor) -> Tensor:
    """[..., T, P] what text rows owe to patches, through the visual tokens.

    Args:
        text_TQ: ``text_to_query``.
        latents_QP: query-to-patch: ``latent_relevance`` or ``pooled_relevance``.
    """
    return text_TQ @ latents_QP


def pooled_relevance(video: VideoTokens) -> Tensor:
    """Query-to-patch of tokens whose provenance says all: [N, P] float32 dense, rows sum to 1.

    Of a linear projector the identity, of a pooling one its matrix; of resamplers the attention
    that ended up as provenance, without gradients.

    Raises:
        ShapeError: the video carries no provenance.
    """
    weights = patch_weights(video)
    if weights is None:
        raise ShapeError(
            "relevance of patches needs the tokens' provenance, got tokens without: keep assign or "
            "weights when the video is stored"
        )
    return weights.to_dense()


def relevance_maps(relevance_TP: Tensor, grid: Grid, *, normalize: bool = True) -> Tensor:
    """[..., T, t, h, w] one map for each row of [..., T, P].

    Args:
        relevance_TP: of patches in raster order, any sizes before.
        grid: of the patches.
        normalize: each map from 0 (its least) to 1 (its largest); a constant map is 0.

    Raises:
        ShapeError: other patches than the grid's.
    """
    if relevance_TP.shape[-1] != grid.num_patches:
        raise ShapeError(
            f"maps of a grid of {tuple(grid)} need {grid.num_patches} patches a row, got "
            f"{relevance_TP.shape[-1]}: pass the grid before compression"
        )
    if normalize:
        low = relevance_TP.amin(dim=-1, keepdim=True)
        extent = relevance_TP.amax(dim=-1, keepdim=True) - low
        scale = torch.where(extent > 0, extent, 1)
        relevance_TP = (relevance_TP - low) / scale
    return relevance_TP.reshape(*relevance_TP.shape[:-1], *grid)


def _check(number: int, layer: Tensor | None, shape: tuple[int, ...]) -> None:
    if layer is not None and tuple(layer.shape[-2:]) != shape:
        raise ShapeError(
            f"layer {number} must be [..., {shape[0]}, {shape[1]}] as the others are, got "
            f"{list(layer.shape)}: take the mean over heads, and all layers of one video"
        )
