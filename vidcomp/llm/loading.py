"""Models of transformers with all their weights, or an error that says what is missing."""

from typing import Any

from vidcomp.errors import ConfigError

__all__ = ["load_with_tokenizer"]


def load_with_tokenizer(
    kind: str, model: str, *, what: str, device: str, dtype: str, revision: str | None
) -> tuple[Any, Any]:
    """A model in evaluation mode by one of transformers' auto classes, and its tokenizer.

    Args:
        kind: name of the auto class.
        model: folder or hub id.
        what: what it is, for errors.
        device: where it runs.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        revision: of the hub.

    Raises:
        ConfigError: it cannot be found or read, or weights are missing, which transformers would
            draw at random.
    """
    import transformers

    auto: Any = getattr(transformers, kind)
    try:
        loaded, report = auto.from_pretrained(
            model, revision=revision, dtype=dtype, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"no {what} with its tokenizer can be loaded from {model!r} ({first}): give a folder "
            f"with config.json, weights and tokenizer, or a hub id"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(
            f"the weights in {model!r} lack {len(missing)} tensors of {type(loaded).__name__}, "
            f"e.g. {missing[0]!r}: give the checkpoint of the whole model"
        )
    return loaded.eval().to(device), tokenizer
