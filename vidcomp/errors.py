"""Everything that vidcomp raises on purpose.

VidcompError
├── ConfigError         a setting, name or recipe that cannot be used
│   └── MissingExtraError   an optional package that is not installed
├── ShapeError          tensors or grids that do not fit together
├── BudgetError         a token count that cannot be reached
├── DecodeError         a file that does not give the frames asked for
│   └── CrashError          a file over which the process that decodes died or hung
└── StoreError          the token cache
    ├── StoreMissError      no such record or store
    ├── StoreStaleError     made with other settings or from another source
    └── StoreCorruptError   bytes that are not what was written

Each message is one sentence: what was wanted, what came, what to do.
"""

__all__ = [
    "BudgetError",
    "ConfigError",
    "CrashError",
    "DecodeError",
    "MissingExtraError",
    "ShapeError",
    "StoreCorruptError",
    "StoreError",
    "StoreMissError",
    "StoreStaleError",
    "VidcompError",
]


class VidcompError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(VidcompError, ValueError):
    """A setting, a name or a recipe cannot be used."""


class MissingExtraError(ConfigError):
    """An optional package is needed and not installed."""


class ShapeError(VidcompError, ValueError):
    """Tensors or grids do not fit together."""


class BudgetError(VidcompError, ValueError):
    """A token count cannot be reached."""


class DecodeError(VidcompError):
    """A file does not give the frames that were asked for."""


class CrashError(DecodeError):
    """The process that was decoding a file has died over it, or was ended as it hung."""

    exit_code: int = 0
    """Minus the signal that ended it, if one did; see ``subprocess``."""
    is_stalled: bool = False
    """It made no progress and was ended for that."""
    was_fresh: bool = True
    """The file was the first that the process read: no other can have damaged its memory."""


class StoreError(VidcompError):
    """The token cache cannot be read or written."""


class StoreMissError(StoreError, KeyError):
    """No such record or store."""

    def __str__(self) -> str:
        # KeyError would print the repr of its message.
        return Exception.__str__(self)


class StoreStaleError(StoreError):
    """A record was made with other settings or from another source."""


class StoreCorruptError(StoreError):
    """Bytes on disk are not what was written."""
