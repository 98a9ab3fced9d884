"""The command ``vidcomp`` in processes of its own, as a user starts it, without its imports' wait.

A helper imports everything once and forks a process for each run: with a session, standard streams
and signals of its own, so that it can be killed, starved or interrupted like any other.  What a run
starts in turn carries the run's mark in its environment, by which it is found however it was
orphaned.  Linux only.
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "VIDCOMP_TEST_MARK"


class Warm:
    """Starts runs; a context."""

    def __enter__(self):
        path = os.pathsep.join(p for p in sys.path if p)
        self._helper = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
            bufsize=1,
        )
        assert self._helper.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *exc):
        self._helper.stdin.close()
        self._helper.wait(timeout=10)
        self._helper.stdout.close()

    def start(self, args, scratch, *, file_bytes=None, broken=(), closed=(), terminal=None):
        """Begin a run.

        Args:
            args: of the command.
            scratch: its TMPDIR; what it prints lands beside it.
            file_bytes: no file that it writes may grow larger.
            broken: 1 and 2, for streams that are pipes which nobody reads,
            closed: or that it does not have.
            terminal: what it writes errors to, instead of a file.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        mark = uuid.uuid4().hex
        out, err = scratch.parent / f"{mark}.out", scratch.parent / f"{mark}.err"
        job = {"args": [str(a) for a in args], "out": str(out), "mark": mark}
        job |= {"err": terminal or str(err), "tmp": str(scratch), "file_bytes": file_bytes}
        pid = self.ask({**job, "broken": list(broken), "closed": list(closed)})
        return Run(self, pid, mark, out, err)

    def run(self, args, scratch, **options):
        """A run from its beginning to its end."""
        run = self.start(args, scratch, **options)
        run.wait()
        return run

    def ask(self, message):
        self._helper.stdin.write(json.dumps(message) + "\n")
        return json.loads(self._helper.stdout.readline())


class Run:
    """A process of the command."""

    def __init__(self, warm, pid, mark, out, err):
        self._warm, self.pid, self.mark = warm, pid, mark
        self._out, self._err = out, err
        self.code = None

    def wait(self, seconds=120):
        """Its exit code, minus the signal if one ended it."""
        deadline = time.monotonic() + seconds
        while not self.is_over:
            assert time.monotonic() < deadline, f"the run hangs\n{self.err}"
            time.sleep(0.005)
        return self.code

    @property
    def is_over(self):
        """Whether it has ended."""
        if self.code is None:
            self.code = self._warm.ask({"poll": self.pid})
        return self.code is not None

    def kill(self, number=signal.SIGKILL):
        """Send it a signal, if it has not ended; does not wait."""
        if not self.is_over:
            os.kill(self.pid, number)

    @property
    def out(self):
        return self._out.read_text()

    @property
    def err(self):
        return self._err.read_text()

    @property
    def json(self):
        return json.loads(self.out)

    def children(self):
        """Ids of the processes that it started and that are still there."""
        return [pid for pid in processes() if self.mark.encode() in environment(pid)]


def processes():
    """Ids of all processes."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]


def environment(pid):
    """What a process was started with; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def has_open(pid, path):
    """Whether a process is reading ``path``."""
    try:
        return any(fd.readlink() == path for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def is_reading(run, path):
    """Whether a process that ``run`` started has ``path`` open."""
    return any(has_open(pid, path) for pid in run.children())


def until(condition, seconds=60):
    """Wait for something that must come; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return found


def _serve():
    import torch  # noqa: F401  # and what a run would import

    import vidcomp.pipelines.jobs  # noqa: F401
    from vidcomp.config import load_recipe
    from vidcomp.pipelines.cli import main

    load_recipe("embedded", [])
    print("ready", flush=True)
    while line := sys.stdin.readline():
        job = json.loads(line)
        if "poll" in job:
            pid, status = os.waitpid(job["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            _become(job)
            main(job["args"], prog_name="vidcomp")
        print(pid, flush=True)


def _become(job):
    os.setsid()
    for number, (name, flags) in enumerate(
        [
            ("/dev/null", os.O_RDONLY),
            (job["out"], os.O_WRONLY | os.O_CREAT | os.O_NOCTTY),
            (job["err"], os.O_WRONLY | os.O_CREAT | os.O_NOCTTY),
        ]
    ):
        file = os.open(name, flags)
        os.dup2(file, number)
        os.close(file)
    for number in job["broken"]:
        unread, file = os.pipe()
        os.dup2(file, number)
        os.close(file)
        os.close(unread)
    for number in job["closed"]:
        os.close(number)
        setattr(sys, {1: "stdout", 2: "stderr"}[number], None)
    os.environ |= {"TMPDIR": job["tmp"], MARK: job["mark"]}
    if job["file_bytes"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], resource.RLIM_INFINITY))


if __name__ == "__main__":
    _serve()
