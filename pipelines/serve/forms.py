"""Uploads as browsers and OpenAI's clients send them: the file of a form, straight to the disk."""

import asyncio
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from .library import Incoming, Library, Stored
from .limits import RefusedError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["receive"]

_HEAD_BYTES = 4096
"""Of the headers of a part."""


class _Form:
    """What a parser tells: which part is the file, its name, its bytes since the last look."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.num_files = 0
        self.is_whole = False
        self.data = bytearray()
        self._field, self._value = bytearray(), bytearray()
        self._in_file = False

    def callbacks(self) -> "MultipartCallbacks":
        """Of ``MultipartParser``."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._head(self._field, data, start, end),
            "on_header_value": lambda data, start, end: self._head(self._value, data, start, end),
            "on_header_end": self._headed,
            "on_part_data": self._add,
            "on_part_end": self._end,
        }

    def _begin(self) -> None:
        self._in_file = False

    def _head(self, into: bytearray, data: bytes, start: int, end: int) -> None:
        into += data[start:end]
        if len(into) > _HEAD_BYTES:
            raise FormParserError("headers are too long")

    def _headed(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            if options.get(b"name") == b"file" and b"filename" in options:
                self._in_file = True
                self.num_files += 1
                self.name = options[b"filename"].decode("utf-8", "replace")
        self._field.clear()
        self._value.clear()

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and self.num_files == 1:
            self.data += data[start:end]

    def _end(self) -> None:
        self.is_whole = self.is_whole or self._in_file


async def receive(request: Request, library: Library, turn: asyncio.Semaphore) -> Stored:
    """Keep the field ``file`` of a form.

    Args:
        request: with the form.
        library: that keeps it.
        turn: of uploads that are looked at, so that many of them leave threads for other requests.

    Raises:
        RefusedError: the body is no form, has no file or several, or the file is refused.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary or len(boundary) > 256:
        raise _none("its type is no multipart/form-data with a boundary")
    form, incoming = _Form(), await run_in_threadpool(library.begin)
    try:
        await _read(request, MultipartParser(boundary, form.callbacks()), form, incoming)
        if form.num_files != 1 or not form.is_whole or form.name is None:
            raise _none(f"it holds {form.num_files} whole files")
        async with turn:
            return await run_in_threadpool(incoming.keep, form.name)
    except FormParserError as error:
        raise _none("its parts cannot be told apart") from error
    finally:
        # Also when the client has gone, and this task with it: nothing is left behind.
        await asyncio.shield(run_in_threadpool(incoming.drop))


async def _read(request: Request, parser: MultipartParser, form: _Form, incoming: Incoming) -> None:
    async for chunk in request.stream():
        if chunk:
            parser.write(chunk)
        if form.data:
            data = bytes(form.data)
            form.data.clear()
            await run_in_threadpool(incoming.write, data)


def _none(reason: str) -> RefusedError:
    return RefusedError(
        f"a form with one field 'file' was wanted, got a body that is none ({reason}): send "
        f"multipart/form-data",
        param="file",
    )
