"""Which backend reads a file, and going over to the next where one fails."""

from collections.abc import Collection, Iterator, Sequence

from vidcomp.errors import DecodeError
from vidcomp.sample.decode import _decord
from vidcomp.sample.decode._pyav import PyAVReader
from vidcomp.sample.decode._reader import BackendError, Picture, Reader
from vidcomp.sample.decode._request import Backend
from vidcomp.sample.decode._scan import Pulse, Scan
from vidcomp.sample.decode._torchcodec import TorchCodecReader, torchcodec_objection

__all__ = ["Chain", "backends_for"]


def backends_for(scan: Scan, backend: Backend) -> tuple[str, ...]:
    """Names of the backends to try for this file, in order.

    Raises:
        DecodeError: the one asked for would give wrong frames.
    """
    if backend == "auto":
        use_decord = _decord.is_installed() and not _decord.decord_objection(scan)
        return ("pyav", "decord") if use_decord else ("pyav",)
    objections = {"decord": _decord.decord_objection, "torchcodec": torchcodec_objection}
    objection = objections[backend](scan) if backend in objections else ""
    if objection:
        raise DecodeError(
            f"{scan.place.name} cannot be read with {backend} ({objection}): use backend='auto'"
        )
    return (backend,)


class Chain:
    """A reader that goes on with the next backend, from the frame where one gives up."""

    def __init__(
        self,
        names: Sequence[str],
        scan: Scan,
        wanted: Collection[int],
        max_pixels: int,
        pulse: Pulse,
    ) -> None:
        self._names = list(names)
        self._scan = scan
        self._wanted = wanted
        self._max_pixels = max_pixels
        self._pulse = pulse
        self._reader: Reader | None = None
        self._used: list[str] = []

    @property
    def name(self) -> str:
        """The backends that gave frames, as ``"decord"`` or, after a change, ``"decord+pyav"``."""
        return "+".join(self._used) or self._names[0]

    @property
    def current(self) -> str:
        """The backend that is reading, or failed last."""
        return self._names[0]

    @property
    def fault(self) -> str:
        """See ``Reader``."""
        return self._reader.fault if self._reader else ""

    @property
    def num_unexplained(self) -> int:
        """See ``Reader``."""
        return self._reader.num_unexplained if self._reader else 0

    def read(self, wanted: Sequence[int]) -> Iterator[Picture]:
        """See ``Reader``.

        Raises:
            BackendError: the last backend gave up.
        """
        rest = list(wanted)
        while rest:
            try:
                reader = self._reader = self._reader or self._open()
                for picture in reader.read(rest):
                    if reader.name not in self._used:
                        self._used.append(reader.name)
                    rest = [index for index in rest if index > picture.index]
                    yield picture
                return
            except BackendError:
                self.close()
                if len(self._names) == 1:
                    raise
                self._names.pop(0)

    def close(self) -> None:
        """See ``Reader``."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def _open(self) -> Reader:
        match self._names[0]:
            case "decord":
                return _decord.DecordReader(self._scan, self._pulse)
            case "torchcodec":
                return TorchCodecReader(self._scan, self._pulse)
            case _:
                return PyAVReader(self._scan, self._wanted, self._max_pixels, self._pulse)
