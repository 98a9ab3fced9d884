"""Processes for tests that kill them: one import of torch for many deaths."""

import multiprocessing
import os
import sys
from multiprocessing import forkserver

import pytest

_MODULES = ["store_crash_child", "store_maintain_child", "store_survival_child"]


def start(function, *args):
    """Start ``function``, of one of the modules above, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # else it finds no such module
        forkserver.ensure_running()
    process = context.Process(target=function, args=args, daemon=True)
    process.start()
    return process
