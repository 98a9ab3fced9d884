"""Vision towers of transformers: loading one, and finding its blocks and its extra tokens.

Written against structure, not class names, so that a new family of models works by itself: blocks
are the first list of ``num_hidden_layers`` modules, extra tokens the parameters that the embeddings
put before the patches.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidcomp.encode.gather import gather_patches
from vidcomp.encode.saliency import Probe, probe_class_token, probe_pooling_head
from vidcomp.encode.watch import Watch
from vidcomp.encode.weights import Checkpoint
from vidcomp.errors import ConfigError

__all__ = ["Tower", "load_model", "load_tower", "num_extra_tokens", "pair", "quiet"]

# Weights that may be missing because no token depends on them.
_UNUSED = re.compile(r"(^|\.)(pooler|head|classifier|decoder|predictor|mask_token)(\.|$)")
_EXTRA_TOKENS = ("cls_token", "class_embedding", "distillation_token", "register_tokens")


class Tower:
    """A frozen vision model that gives one of its hidden states, and its saliency if asked."""

    def __init__(
        self,
        model: Any,
        *,
        device: torch.device,
        layer: int | None = None,
        saliency: bool = False,
        compile: bool = False,  # noqa: A002
    ) -> None:
        """Prepare ``model`` (changed: blocks that nothing depends on are dropped).

        Args:
            model: a PreTrainedModel.
            device: where it goes.
            layer: hidden state, numbered as transformers does: 0 goes into the first block, ``i``
                comes out of block ``i``, negative ones count from the end, none has seen the final
                norm; ``None``: the last hidden state as the model returns it.
            saliency: read the attention of the pooling head or of the class token.
            compile: use torch.compile.

        Raises:
            ConfigError: the model has no such layer or no such attention.
        """
        self.config = model.config
        self.num_extra = num_extra_tokens(model)
        self.gather = gather_patches(model, self.num_extra)
        self.probe: Probe | Watch | None = probe_pooling_head(model) if saliency else None
        blocks = _find_blocks(model)
        self._tap = None
        if layer is not None:
            # A pooling head needs the whole model, all else only what the layer depends on.
            self._tap = _tap_layer(blocks, layer, cut=self.probe is None)
        if saliency and self.probe is None:
            self.probe = _probe_last(blocks, self.num_extra, layer)
        model = model.to(device)
        self._model = torch.compile(model) if compile else model

    def __call__(self, **inputs: Any) -> Tensor:
        """The hidden state, [B, N, D] (convolutional models [B, D, h, w])."""
        output = self._model(**inputs)
        state: Tensor = output.last_hidden_state if self._tap is None else self._tap.take()
        return state


def load_tower(checkpoint: Checkpoint, dtype: torch.dtype, *, needs_head: bool = False) -> Any:
    """The vision model of a checkpoint, frozen; of two towers only the vision part is read.

    Args:
        checkpoint: with config.json of any vision model of transformers.
        dtype: type of the weights and of the computation.
        needs_head: a missing pooling head is an error too.

    Returns:
        A PreTrainedModel in evaluation mode, attention through torch's fused kernels.

    Raises:
        ConfigError: not a vision model, code from the hub would be needed, or weights are missing.
    """

    def may_lack(name: str) -> bool:
        return bool(_UNUSED.search(name)) and not (needs_head and "head" in name.split("."))

    return load_model(checkpoint, dtype, find=_tower_class, may_lack=may_lack)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype | str,
    *,
    find: Callable[[Any, Checkpoint], tuple[Any, Any]],
    may_lack: Callable[[str], bool],
    names: Mapping[str, str] | None = None,
) -> Any:
    """A part of a checkpoint, or all of it, as a frozen model of transformers.

    Args:
        checkpoint: with config.json.
        dtype: type of the weights and of the computation; ``auto``: as stored.
        find: gives the part's config and class for the config of the whole.
        may_lack: whether a weight may be missing, by its name.
        names: patterns of names in the checkpoint and what the model calls them.

    Returns:
        A PreTrainedModel in evaluation mode, attention through torch's fused kernels.

    Raises:
        ConfigError: it cannot be read, code from the hub would be needed, or weights are missing.
    """
    import transformers
    from safetensors import SafetensorError

    folder = str(checkpoint.folder)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            whole = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            config, cls = find(whole, checkpoint)
            model, report = cls.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                attn_implementation="sdpa" if cls._supports_sdpa else "eager",
                key_mapping=dict(names) if names else None,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"the model in {folder!r} cannot be loaded ({reason}): check that its config.json and "
            f"weights belong together"
        ) from error
    missing = [name for name in sorted(report["missing_keys"]) if not may_lack(name)]
    if missing:
        raise ConfigError(
            f"the weights in {folder!r} lack {len(missing)} tensors of {cls.__name__}, e.g. "
            f"{missing[0]!r}: pass the checkpoint of that model"
        )
    return model.eval().requires_grad_(False)


def num_extra_tokens(model: nn.Module) -> int:
    """Tokens (class, distillation, registers) that the embeddings put before the patches."""
    count = 0
    for name, parameter in model.named_parameters():
        place, _, last = name.rpartition(".")
        if last in _EXTRA_TOKENS and place.rpartition(".")[2] == "embeddings":
            count += parameter.shape[-2] if parameter.ndim > 1 else 1
    return count


def pair(size: Any) -> tuple[int, int]:
    """(height, width) of a config's size, which may be one number."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _find_blocks(model: Any) -> nn.ModuleList | None:
    """The model's transformer blocks; ``None`` where sizes change from stage to stage."""
    if hasattr(model.config, "depths"):
        return None
    num_layers = getattr(model.config, "num_hidden_layers", 0)
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == num_layers > 0), None)


def _tap_layer(blocks: nn.ModuleList | None, layer: int, *, cut: bool) -> Watch:
    """A tap on a hidden state; with ``cut`` the blocks after it are dropped."""
    num = -1 if blocks is None else len(blocks)
    if blocks is None or not -num - 1 <= layer <= num:
        known = f"the layers {-num - 1} to {num}" if blocks else "no layers of one size"
        raise ConfigError(
            f"this model has {known} to choose from, got layer={layer}: choose one of them, or "
            f"leave layer out for its last hidden state"
        )
    layer %= num + 1
    last = max(1, layer)
    if cut:
        del blocks[last:]
    blocks[last - 1] = tap = Watch(blocks[last - 1], _given if layer == 0 else _returned)
    return tap


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any], _: Any) -> Tensor:
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _returned(_: tuple[Any, ...], __: Mapping[str, Any], output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _probe_last(blocks: nn.ModuleList | None, num_extra: int, layer: int | None) -> Probe:
    """A probe on the class token in the block that gives the tokens."""
    if blocks is None or not num_extra or layer == 0:
        raise ConfigError(
            "saliency is the attention of a pooling head, or of a class token in the block that "
            "gives the tokens, and this model and layer have neither: leave saliency out"
        )
    return probe_class_token(blocks[-1])


def _tower_class(config: Any, checkpoint: Checkpoint) -> tuple[Any, Any]:
    import transformers

    config = getattr(config, "vision_config", None) or config
    cls = transformers.MODEL_MAPPING.get(type(config), None)
    if cls is None:
        raise ConfigError(
            f"transformers has no model for the vision config {type(config).__name__} in "
            f"{str(checkpoint.folder)!r}: pass a checkpoint of a vision encoder"
        )
    return config, cls[0] if isinstance(cls, tuple) else cls


@contextmanager
def quiet() -> Iterator[None]:
    """No table of the text tower's unused weights and no progress bar for a second's work."""
    import transformers

    hf_logging: Any = transformers.utils.logging  # its functions carry no types
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
