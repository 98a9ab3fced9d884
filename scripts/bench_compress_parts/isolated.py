"""Methods one by one in processes of their own, each with a time limit; failures are results."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from vidcomp.errors import VidcompError
from vidcomp.registry import COMPRESSORS

__all__ = ["Outcome", "run_isolated"]

_START_S = 120.0
"""A process is up by then: the first has to wait for the imports."""

COMPRESSORS.names()  # imported once, where the processes are forked from


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method's process sent: parts one after another, and why there are no more."""

    label: str
    values: tuple[Any, ...]
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class _Running:
    label: str
    process: BaseProcess
    pipe: Connection
    deadline: float
    values: list[Any]


def run_isolated(
    work: Callable[..., Any],
    labels: Sequence[str],
    arguments: tuple[Any, ...],
    *,
    timeout_s: float,
    workers: int = 1,
    threads: int | None = None,
) -> list[Outcome]:
    """Outcomes in the order of the labels.

    Args:
        work: a generator at module level, called with a label and the arguments; what it yields
            is kept even if the process is ended later.
        labels: methods.
        arguments: the same for all.
        timeout_s: for one method, after which its process is ended.
        workers: processes at a time.
        threads: of torch in each; by default its own choice.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting, running, done = list(labels), list[_Running](), dict[str, Outcome]()
    while waiting or running:
        while waiting and len(running) < workers:
            label = waiting.pop(0)
            mine, theirs = context.Pipe(duplex=False)
            target = (work, label, arguments, theirs, threads)
            process = context.Process(target=_child, args=target, daemon=True)
            process.start()
            theirs.close()
            deadline = time.monotonic() + _START_S
            running.append(
                _Running(label=label, process=process, pipe=mine, deadline=deadline, values=[])
            )
        wait([one.pipe for one in running], timeout=0.5)
        for one in list(running):
            reason = _receive(one, timeout_s)
            if reason is not None:
                running.remove(one)
                one.process.kill()
                one.process.join()
                done[one.label] = Outcome(label=one.label, values=tuple(one.values), reason=reason)
                print(one.label, reason or "done", flush=True)
    return [done[label] for label in labels]


def _receive(one: _Running, timeout_s: float) -> str | None:
    """Take what was sent; an empty string or a reason if the process has ended or must."""
    try:
        while one.pipe.poll():
            kind, value = one.pipe.recv()
            if kind == "end":
                return str(value)
            if kind == "start":
                one.deadline = time.monotonic() + timeout_s
            else:
                one.values.append(value)
    except EOFError:
        return "its process died (not enough memory?)"
    return f"more than {timeout_s:g} s" if time.monotonic() > one.deadline else None


def _child(
    work: Callable[..., Any],
    label: str,
    arguments: tuple[Any, ...],
    pipe: Connection,
    threads: int | None,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    pipe.send(("start", None))
    try:
        with torch.no_grad():
            for value in work(label, *arguments):
                pipe.send(("value", value))
        pipe.send(("end", ""))
    except VidcompError as error:
        pipe.send(("end", str(error)))
    except Exception as error:  # noqa: BLE001  # a bug of one method must not hide the others
        pipe.send(("end", f"{type(error).__name__}: {error}"))
