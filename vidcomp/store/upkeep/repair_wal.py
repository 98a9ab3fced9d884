"""The repair of what writers left: journals without a beginning, parts without a journal."""

from vidcomp.errors import StoreCorruptError
from vidcomp.store import journal
from vidcomp.store.commit import journal_path, part_path
from vidcomp.store.disk.format import MAX_HEADER_BYTES, is_commit
from vidcomp.store.files import list_names, read_file, replace_file
from vidcomp.store.storage import Storage
from vidcomp.store.upkeep.quarantine import set_aside_local
from vidcomp.store.upkeep.report import RepairReport

__all__ = ["repair_wal", "say_what_is_left"]


def repair_wal(storage: Storage, store: str, report: RepairReport) -> None:
    """Give journals a new first line whose own is damaged; set aside what cannot be saved.

    Args:
        storage: where the store's files lie.
        store: the store's id.
        report: told what was done.

    Raises:
        OSError: a file cannot be read or moved.
    """
    for name in filter(is_commit, list_names(storage.wal, ".journal")):
        try:
            journal.read(journal_path(storage.wal, name))
        except FileNotFoundError:
            continue  # committed meanwhile
        except StoreCorruptError:
            _restore(storage, store, name, report)
    for name in filter(is_commit, list_names(storage.wal, ".part")):
        if not journal_path(storage.wal, name).exists() and part_path(storage.wal, name).exists():
            report.did(f"set aside part {name}: without its journal nobody knows what is in it")
            if not report.dry_run:
                report.quarantined.append(set_aside_local(storage, part_path(storage.wal, name)))


def _restore(storage: Storage, store: str, name: str, report: RepairReport) -> None:
    path = journal_path(storage.wal, name)
    try:
        if journal.is_locked(path):
            report.left.append(f"journal {name} is damaged, but its writer lives: run repair later")
            return
        data = bytes(read_file(path, MAX_HEADER_BYTES))
        restored = journal.with_new_owner(data, name, store)
    except StoreCorruptError:  # it is no file, or one of absurd size
        restored = None
    if restored is None:
        report.did(f"set aside journal {name}: no line of it is whole")
        if not report.dry_run:
            for file in (part_path(storage.wal, name), path):
                if file.exists():
                    report.quarantined.append(set_aside_local(storage, file))
        return
    report.did(f"wrote a new first line to journal {name}: its records have checks of their own")
    if not report.dry_run:
        report.quarantined.append(set_aside_local(storage, path, copy=True))
        replace_file(path, restored)


def say_what_is_left(storage: Storage, store: str, report: RepairReport) -> None:
    """Name journals that only ``force_recover`` would touch, with their writers' machine.

    Raises:
        OSError: a journal cannot be read.
    """
    for name in filter(is_commit, list_names(storage.wal, ".journal")):
        try:
            found = journal.read(journal_path(storage.wal, name))
        except (FileNotFoundError, StoreCorruptError):
            continue
        owner = found.owner
        if journal.is_elsewhere(owner) and owner.get("store", store) == store:
            report.left.append(
                f"journal {name} with {len(found.rows)} records is of machine "
                f"{owner.get('host')!r}, where its writer may live: when it surely does not, "
                f"recover there, or run repair with force_recover"
            )
