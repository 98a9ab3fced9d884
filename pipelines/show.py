"""``vidcomp show``: frames with their token map, of a video or of a cached record."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from vidcomp.api import encode_stream, prepare
from vidcomp.config import AnySampler, Recipe
from vidcomp.errors import ConfigError, StoreError, StoreMissError, StoreStaleError
from vidcomp.functional.resize import Resize
from vidcomp.registry import SAMPLERS
from vidcomp.report import frame_of_row, patch_tokens, pick_rows, token_map
from vidcomp.sample.base import Sampler, Selection, Timeline
from vidcomp.sample.decode import DecodeRequest, outline, stream_frames
from vidcomp.store import TokenCache, open_cache
from vidcomp.store.storage import open_storage
from vidcomp.types import Frames, VideoTokens

from .inputs import source_id

__all__ = ["draw", "show"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_DISPLAY_PIXELS = 384
"""Frames are decoded anew for the picture, with at least this many pixels on their longer side."""


def show(
    source: str,
    out: str | Path,
    *,
    recipe: Recipe,
    start_s: float | None = None,
    end_s: float | None = None,
    max_frames: int = 16,
) -> Path:
    """Draw frames with their token map into the picture ``out``.

    Args:
        source: a video, or a cached record as ``DIR#KEY``.
        out: png, jpg or webp file; its folder is made.
        recipe: how a video is compressed; a record has its own.
        start_s: start of the range in seconds; a record has its own.
        end_s: end of it.
        max_frames: most frames to draw, evenly spaced.

    Returns:
        ``out``.

    Raises:
        ConfigError: another suffix, or a recipe that cannot be used.
        DecodeError: the video does not give its frames.
        StoreError: no such record, one without provenance, a source that is gone or was changed, or
            a picture that cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"a picture ends in {', '.join(_SUFFIXES)}, got {out.name}: pass --out map.png"
        )
    record = _record(source)
    if record is None:
        image = _draw_video(source, recipe, start_s, end_s, max_frames)
    else:
        image = _draw_record(*record, max_frames)
    _save(image, out)
    return out


def _draw_video(
    path: str, recipe: Recipe, start_s: float | None, end_s: float | None, max_frames: int
) -> Image.Image:
    prepared = prepare(recipe)
    prepared.check_query()
    request = prepared.request(path, start_s=start_s, end_s=end_s)
    video = encode_stream(prepared, stream_frames(request), request, provenance=True)
    return draw(
        video.reduce(),
        request,
        num_before=video.num_tokens,
        budget=prepared.budget(video.num_tokens, video.num_frames, video.num_seconds),
        max_frames=max_frames,
    )


def _draw_record(cache: TokenCache, key: str, max_frames: int) -> Image.Image:
    video, meta = cache[key], cache.meta(key)
    if video.assign is None and video.weights is None:
        raise StoreMissError(
            f"a token map needs the tokens' provenance, and {cache.path} was made without: "
            f"extract into another folder with --set store.assign=true, or show the video itself"
        )
    request = DecodeRequest(
        path=_source_path(cache, key, meta),
        sampler=cast("Sampler", SAMPLERS.parse(cache.manifest.identity["sample"])),
        resize=Resize(**meta["resize"]) if "resize" in meta else None,
        start_s=meta.get("start_s"),
        end_s=meta.get("end_s"),
    )
    # A cache that was compressed from another one counts from there, not from the patches.
    is_first = "recompressed_from" not in cache.manifest.identity
    return draw(
        video,
        request,
        num_before=meta.get("tokens_in") if is_first else None,
        budget=None,
        max_frames=max_frames,
        title=f"{cache.path}#{key}",
    )


def draw(
    video: VideoTokens,
    request: DecodeRequest,
    *,
    num_before: int | None,
    budget: int | None,
    max_frames: int,
    title: str = "",
) -> Image.Image:
    """Decodes the frames to be drawn once more, larger, and draws the map over them."""
    rows = pick_rows(video.grid.t, max_frames)
    request = _settled(request)
    frames = _frames(request, rows, video.grid.t)
    rows = rows[: _num_real(frames, patch_tokens(video)[rows])]
    frames = frames[: len(rows)]
    source = frames.source
    mode = request.resize.mode if isinstance(request.resize, Resize) else "none"
    return token_map(
        frames,
        video,
        title=title or Path(request.path).name,
        budget=budget,
        num_before=num_before,
        rows=rows,
        aspect=source.width / source.height if mode == "stretch" and source else None,
    )


def _settled(request: DecodeRequest) -> DecodeRequest:
    """The same with a policy in place of a rule, which depends on the number of frames."""
    if request.resize is None or isinstance(request.resize, Resize):
        return request
    return replace(request, resize=outline(request).resize)


class _Picked(Sampler):
    """Of the frames that another sampler picks, those that stand for some rows of a grid."""

    inner: AnySampler
    rows: tuple[int, ...]
    num_rows: int

    def __call__(self, timeline: Timeline) -> Selection:
        inner: Any = self.inner  # a sampler, by its registry
        index = inner(timeline).indices
        picked = [frame_of_row(row, len(index), self.num_rows) for row in self.rows]
        return Selection(index[torch.tensor(picked)])


def _frames(request: DecodeRequest, rows: list[int], num_rows: int) -> Frames:
    larger = replace(
        request,
        sampler=_Picked(inner=request.sampler, rows=tuple(rows), num_rows=num_rows),
        resize=_enlarged(request.resize) if isinstance(request.resize, Resize) else None,
    )
    return Frames.cat(list(stream_frames(larger)))


def _num_real(frames: Frames, token_THW: Tensor) -> int:
    """Frames without those that only fill up a short video: repeats that no token stands for."""
    num = len(frames)
    while num > 1 and frames.pts_s[num - 1] == frames.pts_s[num - 2]:
        if bool((token_THW[num - 1] >= 0).any()):
            break
        num -= 1
    return num


def _enlarged(resize: Resize) -> Resize:
    """The same framing with more pixels; the encoder's few look coarse."""
    if resize.mode not in ("stretch", "crop", "letterbox"):
        return resize
    factor = -(-_DISPLAY_PIXELS // max(resize.height, resize.width))
    sides = ("height", "width", "short_side")
    values = {name: getattr(resize, name) for name in sides}
    return resize.model_copy(update={k: v * factor for k, v in values.items() if v is not None})


def _record(source: str) -> tuple[TokenCache, str] | None:
    """The cache and key of ``DIR#KEY``; a file of that very name is a video."""
    if not Path(source).exists():
        for place in (i for i, letter in enumerate(source) if letter == "#"):
            folder, key = source[:place], source[place + 1 :]
            if _is_store(folder):
                return open_cache(folder), key
    return None


def _is_store(folder: str) -> bool:
    """A folder, or a URL with a store; the URL of a video may hold a ``#``, too."""
    if "://" not in folder:
        return Path(folder).is_dir()
    try:
        return open_storage(folder).exists("store.json")
    except OSError:
        return not folder.startswith("http")  # opening it tells why


def _source_path(cache: TokenCache, key: str, meta: dict[str, Any]) -> str:
    path = str((meta.get("source") or {}).get("path", ""))
    now, then = source_id(path), cache.info(key).source
    if now is None and "://" not in path:
        raise StoreMissError(
            f"the frames of {key!r} come from {path or 'an unknown file'}, which is not there: put "
            f"it back, or run from the folder in which extract was run"
        )
    if now is not None and then is not None and not now.matches(then):
        raise StoreStaleError(
            f"{path} has changed since {key!r} was made from it: run extract again, then show"
        )
    return path


def _save(image: Image.Image, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        image.save(out)
    except OSError as error:
        raise StoreError(
            f"the picture {out} cannot be written ({error.strerror or error}): choose another place"
        ) from error
