"""Keys of records, and the names that other people's files call them by."""

import re
from collections import defaultdict
from collections.abc import Collection

__all__ = ["VIDEO_SUFFIX", "KeyMatcher", "ranged_key"]

VIDEO_SUFFIX = re.compile(
    r"\.(3gp|asf|avi|flv|gif|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|mxf|ogv|ts|vob|webm|wmv|y4m)\Z",
    re.IGNORECASE,
)
"""How the names of video files end."""

_RANGE = re.compile(r"@[0-9.e+-]+-[0-9.e+-]*\Z")


def ranged_key(key: str, start_s: float | None, end_s: float | None) -> str:
    """Key of the record of a time range, ``clip.mp4@1.5-3``; without a range, of the video."""
    if start_s is None and end_s is None:
        return key
    # Enough digits that two windows of a source that is followed for years differ.
    return f"{key}@{start_s or 0:.12g}-{'' if end_s is None else f'{end_s:.12g}'}"


class KeyMatcher:
    """Finds the record that a name means.

    The first of these rules that gives records decides: the name is the key; the same path but
    for the video file's extension; one path is the end of the other (``data/v/a.mp4``, ``v/a.mp4``,
    ``a.mp4``); the same but for the extension.  Two files of one name in different folders are
    never taken for each other.

    Args:
        keys: keys of the records, or the cache itself; they are gone through only when a name is
            no key.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys
        self._by_name: dict[str, list[str]] | None = None

    def find(
        self, name: str, start_s: float | None = None, end_s: float | None = None
    ) -> list[str]:
        """Records that the name may mean: none, one, or several if it is not clear which.

        Args:
            name: a key, or a path or a file name that stands for one.
            start_s: start of the time range whose own record is meant.
            end_s: end of it.
        """
        wanted = ranged_key(name, start_s, end_s)
        if wanted in self._keys:
            return [wanted]
        path, stem = _parts(wanted), _parts(_without_suffix(wanted))
        if not stem:
            return []
        alike = [(key, _parts(key), _parts(_without_suffix(key))) for key in self._named(stem[-1])]
        rules = (
            [key for key, _, other in alike if other == stem],
            [key for key, other, _ in alike if _ends(path, other)],
            [key for key, _, other in alike if _ends(stem, other)],
        )
        return next((found for found in rules if found), [])

    def _named(self, name: str) -> list[str]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for key in self._keys:
                if parts := _parts(_without_suffix(key)):
                    self._by_name[parts[-1]].append(key)
        return self._by_name.get(name, [])


def _without_suffix(key: str) -> str:
    """The key without the extension of a video file; a range at its end stays."""
    match = _RANGE.search(key)
    base, rest = (key, "") if match is None else (key[: match.start()], match[0])
    return VIDEO_SUFFIX.sub("", base) + rest


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _ends(path: list[str], other: list[str]) -> bool:
    short = min(len(path), len(other))
    return path[-short:] == other[-short:]
