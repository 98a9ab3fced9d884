"""Runs a function in a process that may use little more memory and time than it should need."""

import logging
import multiprocessing
import os
import resource
import sys
import traceback
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOM = 3 << 30
"""Bytes of address space beyond what the process has when it begins."""


def limited(
    function, *args, seconds=120, room=ROOM, preload=("store_limited", "store_hostile_files")
):
    """What ``function`` returns; it must not die, hang or use more memory than ``room``.

    Raises:
        AssertionError: with the traceback of the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # else it finds no such module
        forkserver.ensure_running()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(there, room, function, args), daemon=True)
    process.start()
    there.close()
    try:
        assert here.poll(seconds), f"{function.__name__}{args} hangs"
        done, answer = here.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"{function.__name__}{args} died: {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        here.close()
    assert done, answer
    return answer


def _call(there, room, function, args):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    logging.disable(logging.CRITICAL)  # thousands of warnings
    try:
        there.send((True, function(*args)))
    except BaseException:  # noqa: BLE001  # it is shown by the test
        there.send((False, traceback.format_exc()[-6000:]))
