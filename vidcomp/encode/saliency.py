"""How much the encoder itself looks at each patch, at the price of one row of attention.

Fused attention kernels do not say their weights.  Asking a model for ``output_attentions`` turns
them off in every layer and keeps [heads, N, N] numbers of each; here all layers stay fused, and
only the row that is wanted is computed beside them: that of the class token in one layer
(VisionZip, 2024; FasterVLM, 2024), or that of the probe in the pooling head of a model that has one
(FastVID, 2025).

Legend: B pictures, M heads, N tokens, D features of a head.
"""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vidcomp.encode.watch import Watch
from vidcomp.errors import ConfigError

__all__ = ["Probe", "probe_class_token", "probe_pooling_head"]

_NAME = "vidcomp_class_row"


class Probe:
    """Holds [B, N] float32 of the last pass: mean over heads of attention to each token."""

    def __init__(self) -> None:
        self.weights_BN: Tensor | None = None

    def take(self) -> Tensor:
        """The row, which is forgotten.

        Raises:
            ConfigError: the model's attention did not pass by.
        """
        weights, self.weights_BN = self.weights_BN, None
        if weights is None:
            raise ConfigError(
                "this model computes attention in a way of its own, so its saliency cannot be "
                "read: leave saliency out"
            )
        return weights


def probe_pooling_head(model: Any) -> Watch | None:
    """A watch on the attention of the pooling head, or ``None`` if the model has none."""
    parent = next(
        (m for m in model.modules() if isinstance(getattr(m, "head", None), nn.Module)), None
    )
    if parent is None:
        return None
    head: Any = parent.head
    if isinstance(getattr(head, "attention", None), nn.MultiheadAttention):
        head.attention = watch = Watch(head.attention, _mean_row)
        return watch
    if hasattr(head, "cls_token") and hasattr(head, "k_proj"):
        parent.head = watch = Watch(head, partial(_pooling_row, head))
        return watch
    return None


def probe_class_token(block: nn.Module) -> Probe:
    """A probe on the attention from the first token in ``block``; the block stays fused.

    The block gets a config of its own that names an attention function of ours, which calls the
    fused one and computes the one row beside it, from the very queries and keys (rotated ones too).
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _fused_with_row)
    probe = Probe()
    module: Any
    for module in block.modules():
        if hasattr(module, "config"):
            config = copy.copy(module.config)
            config._attn_implementation = _NAME
            module.config = config
            module.vidcomp_probe = probe
    return probe


def _fused_with_row(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Fused attention; the first query's weights go to the module's probe."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if position_bias is not None:
        kwargs["position_bias"] = position_bias
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, **kwargs
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BMN = (query[:, :, :1].float() @ key.float().mT).squeeze(2) * scale
    for bias in (position_bias, attention_mask):
        if bias is not None:
            scores_BMN = scores_BMN + bias[:, :, 0].float()
    module.vidcomp_probe.weights_BN = scores_BMN.softmax(dim=-1).mean(dim=1)
    return output, None


def _mean_row(_: tuple[Any, ...], __: Mapping[str, Any], output: Any) -> Tensor:
    """[B, N] float32: SigLIP's head; torch's attention module gives the mean over heads."""
    row: Tensor = output[1][:, 0].float()
    return row


def _pooling_row(head: Any, args: tuple[Any, ...], _: Mapping[str, Any], __: Any) -> Tensor:
    """[B, N] float32: AIMv2's head, whose class token is the query as it is."""
    hidden_BND: Tensor = args[0]
    keys_BNMD = head.k_proj(hidden_BND).reshape(*hidden_BND.shape[:2], head.num_heads, -1)
    query_MD = head.cls_token.reshape(head.num_heads, -1)
    scale = query_MD.shape[-1] ** -0.5
    scores_BNM = torch.einsum("bnmd,md->bnm", keys_BNMD.float(), query_MD.float()) * scale
    weights_BN: Tensor = scores_BNM.softmax(dim=1).mean(dim=-1)
    return weights_BN
