"""A program may end while its loader reads ahead."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, threading
from vidcomp.data.prefetch import Crew

began = threading.Event()

def read(work):
    began.set()
    threading.Event().wait(0.4)
    os.write(1, b"finished")

crew = Crew(read, 1)
crew.submit([0])
began.wait()
{then}
"""


@pytest.mark.parametrize("then", ["", "del crew", "crew.close(wait_s=0)"])
def test_a_read_under_way_is_finished_before_the_interpreter_ends(then):
    """Held, dropped or closed: else the thread meets the end inside torch, which aborts."""
    command = [sys.executable, "-c", PROGRAM.format(then=then)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "finished"), done.stderr
