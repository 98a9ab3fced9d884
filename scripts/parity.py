"""Compare vidcomp with recorded outputs of the original implementations.

    python scripts/parity.py FILE.safetensors... [--allow-missing]

Prints one line a file: method, largest absolute difference, verdict.  Exit codes: 0 all pass,
1 a difference or a method that is not built yet, 2 an argument that is no recorded output.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from parity_checks import CHECKS
from parity_checks.golden import Comparison, Golden, GoldenError, read_golden

from vidcomp.errors import VidcompError

ATOL, RTOL = 2e-5, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one file."""

    golden: Golden
    status: str
    """``pass``, ``FAIL`` or ``missing``."""
    difference: float | None = None
    """Largest absolute difference of all outputs; ``None`` if nothing was compared."""
    note: str = ""
    """Why it is not a pass."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _Parser(prog="parity.py", description="Compare vidcomp with recorded outputs.")
    parser.add_argument("files", nargs="+", metavar="FILE.safetensors")
    parser.add_argument(
        "--allow-missing", action="store_true", help="methods not built yet are no failure"
    )
    options = parser.parse_args(arguments)
    try:
        goldens = [read_golden(file) for file in options.files]
    except GoldenError as error:
        parser.error(str(error))
    verdicts = [judge(golden) for golden in goldens]
    _print(verdicts)
    accepted = {"pass", "missing"} if options.allow_missing else {"pass"}
    return 0 if all(v.status in accepted for v in verdicts) else 1


def judge(golden: Golden) -> Verdict:
    """Run our stage on the recorded inputs and compare everything that was recorded."""
    if golden.method not in CHECKS:
        return Verdict(golden=golden, status="missing", note="not built yet")
    try:
        with torch.no_grad():
            comparisons = list(CHECKS[golden.method](golden))
    except Exception as error:  # noqa: BLE001  # a stage that breaks is a miss; others still count
        note = str(error) if isinstance(error, (GoldenError, VidcompError)) else repr(error)
        return Verdict(golden=golden, status="FAIL", note=note)
    compared = {c.name for c in comparisons}
    notes = [f"{name} was not compared" for name in golden.outputs if name not in compared]
    notes += [problem for c in comparisons if (problem := _problem(c))]
    difference = max((_difference(c) for c in comparisons), default=None)
    return Verdict(
        golden=golden,
        status="FAIL" if notes or not comparisons else "pass",
        difference=difference,
        note="; ".join(notes),
    )


def _problem(c: Comparison) -> str:
    """What is wrong with one output, or an empty string."""
    if c.ours.shape != c.theirs.shape:
        return f"{c.name} is {list(c.ours.shape)} instead of {list(c.theirs.shape)}"
    if not c.theirs.is_floating_point():
        differing = int((c.ours != c.theirs).sum())
        return f"{c.name} differs in {differing} of {c.theirs.numel()} integers" * bool(differing)
    if torch.allclose(c.ours.double(), c.theirs.double(), atol=ATOL, rtol=RTOL):
        return ""
    return f"{c.name} differs by {_difference(c):.2e}"


def _difference(c: Comparison) -> float:
    if c.ours.shape != c.theirs.shape:
        return float("inf")
    if not c.theirs.numel():
        return 0.0
    return float((c.ours.double() - c.theirs.double()).abs().max())


def _print(verdicts: Sequence[Verdict]) -> None:
    width = max(len("method"), *(len(v.golden.method) for v in verdicts))
    print(f"{'method':<{width}}  {'max abs diff':>12}  verdict")
    for v in verdicts:
        difference = "-" if v.difference is None else f"{v.difference:.2e}"
        note = f"  ({v.note})" if v.note else ""
        print(f"{v.golden.method:<{width}}  {difference:>12}  {v.status}{note}")


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are one sentence, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
