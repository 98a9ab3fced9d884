"""What is in the store, whatever receipts say."""

from collections.abc import Iterable
from contextlib import suppress

from vidcomp.errors import StoreMissError
from vidcomp.store import TokenCache, recover
from vidcomp.store.storage import Storage

from ..extraction.worker import is_current
from ..inputs import Item

__all__ = ["Reconciler"]


class Reconciler:
    """Compares what was made with what a new reader of the store sees.

    Args:
        storage: of the store, which need not be there yet.
        overwrite: records that were there before do not count.
    """

    def __init__(self, storage: Storage, *, overwrite: bool) -> None:
        self._storage = storage
        self._before = _open(storage) if overwrite else None

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Those of ``items`` whose records are not visible, or are of an older source.

        What writers that died on this machine had taken is committed first.

        Raises:
            StoreError: the store cannot be read.
        """
        with suppress(StoreMissError):
            recover(self._storage)
        cache = _open(self._storage)
        return [item for item in items if cache is None or not self._is_in(cache, item)]

    def _is_in(self, cache: TokenCache, item: Item) -> bool:
        if item.key not in cache:
            return False
        info = cache.info(item.key)
        if self._before is not None and item.key in self._before:
            return info.generation > self._before.info(item.key).generation
        return is_current(item.source, info.source)


def _open(storage: Storage) -> TokenCache | None:
    try:
        return TokenCache(storage)
    except StoreMissError:
        return None
