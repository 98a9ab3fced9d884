"""Time and memory of every projector against its original's arithmetic.

    python scripts/bench_projectors.py [--projectors NAME ...] [--device cuda]

The originals are written as their authors wrote them (scripts/bench_projectors_parts), on our
weights; both must give the same tokens and gradients before anything is measured.  On a CPU one
thread in float32, on a GPU bfloat16.  Linux only: the peak of memory is the kernel's.
"""

import argparse
import os
import sys

# Read when torch loads its OpenMP: threads that wait must not take the cores of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from _bench import publish_on
from bench_projectors_parts.cases import CASES, without_case
from bench_projectors_parts.measuring import Measured, WrongOracleError, measure

HEADER = (
    "projector",
    "tokens in",
    "out",
    "features",
    "forward ms",
    "tokens/s",
    "x original",
    "with backward ms",
    "tokens/s, backward",
    "x original, backward",
    "MiB",
    "MiB, original",
    "difference",
)


def main() -> int:
    """Measure what was asked for; 1 if an original gives other answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--projectors", nargs="+", choices=CASES, default=[*CASES], metavar="NAME")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=9, help="at most, of each")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--trial", action="store_true", help="print, but do not publish")
    options = parser.parse_args()
    options.trial = options.trial or options.quick or len(options.projectors) < len(CASES)
    if options.device == "cpu":
        torch.set_num_threads(1)
    found, wrong = [], []
    for name in options.projectors:
        rounds = 1 if options.quick else options.rounds
        try:
            one = measure(name, CASES[name], options.device, rounds=rounds, quick=options.quick)
        except (WrongOracleError, KeyError) as error:  # a weight may have another name by now
            print(name, repr(error), flush=True)
            wrong.append(f"Wrong: {name}, {error}.")
            continue
        found.append(one)
        ratios = f"{one.forward_ratio:.2f} {one.train_ratio:.2f}"
        print(f"{name} {ratios} times faster, {one.forward_s * 1e3:.0f} ms", flush=True)
    missing = [f"Without original: {', '.join(names)}." for names in [without_case()] if names]
    publish_on(
        options,
        "projectors",
        "Projectors against the arithmetic of their originals",
        "python scripts/bench_projectors.py",
        HEADER,
        [row_of(one) for one in found],
        " ".join([notes(options.device), *wrong, *missing]),
    )
    return bool(wrong)


def row_of(one: Measured) -> list[object]:
    """A line of the table."""
    return [
        one.name,
        one.tokens_in,
        one.tokens_out,
        " to ".join(map(str, one.dims)),
        one.forward_s * 1e3,
        one.tokens_in / one.forward_s,
        one.forward_ratio,
        one.train_s * 1e3,
        one.tokens_in / one.train_s,
        one.train_ratio,
        round(one.mib),
        round(one.their_mib),
        f"{one.difference:.0e}",
    ]


def notes(device: str) -> str:
    """How the numbers were made."""
    where = (
        "One thread, float32, seconds of the processor; where a call would take many seconds there "
        "are fewer layers or features than the originals have"
        if device == "cpu"
        else "bfloat16"
    )
    return (
        f"{where}. x original: how many times faster than the original's arithmetic, written "
        f"as its authors wrote it (scripts/bench_projectors_parts) on the same weights and tokens, "
        f"median over interleaved rounds; ours makes provenance, masks and geometry besides. "
        f"tokens/s: of those that come in. With backward: gradients of all parameters, none of the "
        f"tokens. MiB: at the peak of a forward and backward pass above weights and input. "
        f"Difference: length of the difference of the answers over the answer's; gradients agree "
        f"too, or nothing would be measured."
    )


if __name__ == "__main__":
    sys.exit(main())
