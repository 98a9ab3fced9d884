"""``store.json``: which recipe a store holds, and in which form."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidcomp.config import StoreSettings, differences, fingerprint
from vidcomp.errors import StoreCorruptError, StoreError, StoreMissError, StoreStaleError
from vidcomp.store.disk.format import FEATURES, FORMAT_VERSION, check_stamp, features_of, stamp
from vidcomp.store.files import explained
from vidcomp.store.storage import Storage

__all__ = [
    "KIND",
    "MANIFEST",
    "Manifest",
    "create_or_join",
    "manifest_bytes",
    "read_manifest",
    "what_differs",
]

KIND = "vidcomp-store"

MANIFEST = "store.json"
"""The file's name."""

_PREFIX = b'{"check":"'
_DEEPEST = 100


@dataclass(frozen=True)
class Manifest:
    """What a store holds."""

    id: str
    format_version: int
    features: tuple[str, ...]
    fingerprint: str
    """16 hex digits of recipe, weights and format."""
    identity: dict[str, Any]
    """The recipe's settings that decide the tokens."""
    weights: dict[str, str]
    """Content hashes of the model weights, by section of the recipe."""
    settings: StoreSettings
    """How records are written."""
    created_by: str

    def to_json(self) -> dict[str, Any]:
        """The content of ``store.json`` without its check."""
        return {
            "kind": KIND,
            "format": self.format_version,
            "features": list(self.features),
            "id": self.id,
            "created_by": self.created_by,
            "fingerprint": self.fingerprint,
            "identity": self.identity,
            "weights": self.weights,
            "settings": self.settings.dump(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], what: str) -> "Manifest":
        """The inverse of ``to_json``.

        Raises:
            StoreError: of a newer format.
            StoreCorruptError: not such JSON.
        """
        try:
            if _is_deep(data):
                raise ValueError("values in values in values")
            version, features = int(data["format"]), tuple(data.get("features", ()))
            unknown = sorted(set(features) - FEATURES)
            if version > FORMAT_VERSION or unknown:
                have = f"format {version}" + (f" with {', '.join(unknown)}" if unknown else "")
                raise StoreError(
                    f"{what} has {have}, this vidcomp reads format {FORMAT_VERSION} and older: "
                    f"install a newer vidcomp"
                )
            return cls(
                str(data["id"]),
                version,
                features,
                str(data["fingerprint"]),
                dict(data["identity"]),
                dict(data["weights"]),
                _settings(data["settings"]),
                str(data.get("created_by", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = " ".join(f"{error!r:.200}".split())
            raise StoreCorruptError(
                f"{what} lacks what a store says of itself ({reason}): restore it"
            ) from error


def read_manifest(storage: Storage) -> Manifest:
    """The manifest of a store.

    Raises:
        StoreMissError: there is no store.
        StoreCorruptError: there is one, but its ``store.json`` is damaged or lost.
        StoreError: the place is a file, cannot be read, or is of a newer format.
    """
    place = storage.path
    with explained(f"read the token cache {place}"):
        try:
            data = storage.read(MANIFEST)
        except FileNotFoundError:
            data = None
        is_lost = data is None and bool(storage.names("shards", ".safetensors"))
    if data is None:
        if is_lost:
            raise StoreCorruptError(
                f"{place} has shards but no {MANIFEST}: restore it (each shard's header has a copy)"
            )
        raise StoreMissError(
            f"there is no token cache at {place}: check the path, or extract first"
        )
    what = f"{place}/{MANIFEST}"
    check_stamp(data, _PREFIX, 0, what)
    try:
        content = json.loads(bytes(data))
    except (ValueError, RecursionError, MemoryError) as error:
        raise StoreCorruptError(f"{what} is not JSON ({error!s:.200}): restore it") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise StoreError(f"{what} does not describe a token cache: pass another folder")
    return Manifest.from_json(content, what)


def create_or_join(
    storage: Storage,
    identity: Mapping[str, Any],
    weights: Mapping[str, str],
    settings: StoreSettings,
) -> Manifest:
    """Make the store, or check that the one there was made alike.

    Raises:
        StoreStaleError: it was made otherwise; the message names what differs.
        StoreError: the folder cannot be made or written, or is a file.
    """
    from vidcomp import __version__

    try:
        plain = json.loads(json.dumps(dict(identity), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"a store's recipe must be plain JSON values ({error}): pass config.identity(recipe)"
        ) from error
    wanted = Manifest(
        id=uuid.uuid4().hex,
        format_version=FORMAT_VERSION,
        features=features_of(settings),
        fingerprint=fingerprint(plain, weights, FORMAT_VERSION),
        identity=plain,
        weights=dict(weights),
        settings=settings,
        created_by=f"vidcomp {__version__}",
    )
    with explained(f"write a token cache at {storage.path}"):
        storage.prepare()
        if not storage.exists(MANIFEST) and not storage.names("shards", ".safetensors"):
            storage.create(MANIFEST, manifest_bytes(wanted.to_json()))
    found = read_manifest(storage)
    _check_same(storage, found, wanted)
    return found


def manifest_bytes(content: Mapping[str, Any]) -> bytearray:
    """``store.json`` of that content, check included."""
    text = json.dumps(content, indent=1)
    data = bytearray(_PREFIX + b'0000000000000000",' + text[1:].encode() + b"\n")
    stamp(data, len(_PREFIX))
    return data


def what_differs(a: Manifest, b: Manifest) -> str:
    """The settings in which two stores differ, as ``compress.budget.tokens: 196 != 64``; or ""."""
    changed = differences(
        {**a.identity, "weights": a.weights, "store": a.settings.dump()},
        {**b.identity, "weights": b.weights, "store": b.settings.dump()},
    )
    return "; ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _check_same(storage: Storage, found: Manifest, wanted: Manifest) -> None:
    if changed := what_differs(found, wanted):
        raise StoreStaleError(
            f"{storage.path} holds tokens made with other settings (there != here: {changed}): use "
            f"another folder, or those settings"
        )


def _is_deep(value: object) -> bool:
    """Whether JSON values lie so deep in others that walking through them might not end well."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _settings(data: Mapping[str, Any]) -> StoreSettings:
    return StoreSettings(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in data.items()
            if name in StoreSettings.model_fields
        }
    )
