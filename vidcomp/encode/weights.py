"""Where an encoder's weights are and what they are: a folder, its files, the hash of their bytes.

Only safetensors files are read: they hold numbers and nothing that could run.  A checkpoint that
exists as a pickle only is rewritten once with ``convert_checkpoint``.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidcomp.errors import ConfigError

__all__ = ["Checkpoint", "convert_checkpoint", "find_checkpoint"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_CONFIGS = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
_PATTERNS = ["*.json", _WEIGHTS, "model-*.safetensors"]
_TEXT = ["*.jinja", "*.txt", "*.model"]


class Checkpoint(NamedTuple):
    """A folder with config.json and weights."""

    folder: Path
    weights: tuple[Path, ...]
    """Safetensors files, sorted by name."""

    def json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in file ``name``, or ``None`` if there is no such file.

        Raises:
            ConfigError: it is not a JSON object.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path} is not JSON ({error}): download it again") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path} must hold a JSON object, got {type(data).__name__}: mend it")
        return data

    def content_hash(self) -> str:
        """sha256 over names and bytes of the weights and of the configs that shape the tokens."""
        configs = [path for name in _CONFIGS if (path := self.folder / name).is_file()]
        total = hashlib.sha256()
        for path in sorted([*self.weights, *configs], key=lambda path: path.name):
            total.update(f"{path.name} {_file_hash(path)}\n".encode())
        return total.hexdigest()


def find_checkpoint(
    model: str, revision: str | None = None, *, with_text: bool = False
) -> Checkpoint:
    """The checkpoint ``model``: a local folder, or an id of the Hugging Face hub.

    Files of a hub id are downloaded unless they are in the hub's cache; offline, the cache is all.

    Args:
        model: folder, or ``owner/name``.
        revision: branch, tag or commit of a hub id.
        with_text: also download what a tokenizer and a chat template are made of.

    Raises:
        ConfigError: it is not there, cannot be downloaded, or has no safetensors file.
    """
    local = Path(model).expanduser()
    if local.is_dir():
        folder = local
    elif model.count("/") > 1 or model.startswith((".", "/", "~")) or "\\" in model:
        raise ConfigError(
            f"there is no folder {model!r} with a model: pass a folder that has config.json and "
            f"{_WEIGHTS}, or a hub id like 'facebook/dinov2-base'"
        )
    else:
        folder = _download(model, revision, _PATTERNS + _TEXT * with_text)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"the model folder {str(folder)!r} has no config.json: pass the folder of a whole "
            f"checkpoint"
        )
    return Checkpoint(folder, _weight_files(folder, model))


def convert_checkpoint(source: str | Path, folder: str | Path) -> Path:
    """Rewrite a pickled checkpoint (.pyth, .bin, .pt, .pth) as ``folder/model.safetensors``, once.

    Only tensors are unpickled (``weights_only=True``), so the file cannot run code.  A state dict
    below ``model_state``, ``state_dict`` or ``model`` is found; all else in the file is left out.

    Returns:
        The file written.

    Raises:
        ConfigError: the file holds no state dict, or more than tensors and plain values.
    """
    import pickle

    from safetensors.torch import save_file

    try:
        data = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{source} holds more than tensors, so it is not opened: ask its author for safetensors"
        ) from error
    for name in ("model_state", "state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(name), Mapping):
            data = data[name]
    tensors = _tensors(data)
    if not tensors:
        raise ConfigError(f"{source} holds no state dict with tensors: pass a model's checkpoint")
    target = Path(folder) / _WEIGHTS
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})
    return target


def _tensors(data: object) -> dict[str, Tensor]:
    """Copies: tied weights share memory, which a safetensors file cannot say."""
    if not isinstance(data, Mapping):
        return {}
    return {k: v.clone().contiguous() for k, v in data.items() if isinstance(v, Tensor)}


def _download(model: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the hub's errors have no common base
        if isinstance(error, GatedRepoError):
            what = "is behind a licence on the hub: accept it there and run `hf auth login`"
        elif isinstance(error, RepositoryNotFoundError):
            what = "is neither a folder nor a model of the hub: check the spelling"
        else:
            what = (
                f"is not on this machine and could not be downloaded ({type(error).__name__}): "
                f"run `hf download {model}` where there is a network, or pass the folder of a copy"
            )
        at = f" at revision {revision!r}" if revision else ""
        raise ConfigError(f"the model {model!r}{at} {what}") from error
    return Path(folder)


def _weight_files(folder: Path, model: str) -> tuple[Path, ...]:
    single, index = folder / _WEIGHTS, folder / _INDEX
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise ConfigError(
            f"the model {model!r} has no {_WEIGHTS}, the only format that is read: choose a "
            f"revision that has one, or rewrite its other file once with "
            f"vidcomp.encode.weights.convert_checkpoint"
        )
    data = Checkpoint(folder, ()).json(_INDEX) or {}
    files = [folder / name for name in sorted(set(data.get("weight_map", {}).values()))]
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise ConfigError(
            f"the model {model!r} lacks {missing[0] if missing else 'its shards'} of {_INDEX}: "
            f"download it again"
        )
    return tuple(files)


def _file_hash(path: Path) -> str:
    """sha256 of a file; the hub's cache already has it as the name of large files."""
    name = path.resolve().name
    if path.is_symlink() and len(name) == 64 and not set(name) - set("0123456789abcdef"):
        return name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
