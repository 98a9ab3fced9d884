"""``vidcomp doctor``: what is installed and works here, and a line of advice for the rest."""

from dataclasses import asdict

import click

from .checks import Check, models, packages, system, torch_and_devices, video
from .output import print_json

__all__ = ["Check", "diagnose", "format_checks", "run_doctor"]


def run_doctor(*, as_json: bool) -> int:
    """``vidcomp doctor``: 0 if everything that is needed works, else 1."""
    checks = diagnose()
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        click.echo(format_checks(checks))
    return 1 if any(check.status == "problem" for check in checks) else 0


def diagnose() -> list[Check]:
    """All findings, group by group; takes a few seconds."""
    groups = (system, torch_and_devices, packages, video, models)
    return [check for group in groups for check in group()]


def format_checks(checks: list[Check]) -> str:
    """Groups with aligned lines, advice under what it is about, and a summary."""
    lines: list[str] = []
    width = max(len(check.name) for check in checks)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines += ["", group] if lines else [group]
        lines.append(f"  {check.status:<8} {check.name:<{width}}  {check.found}".rstrip())
        if check.advice:
            lines.append(f"  {'':<8} {'':<{width}}  -> {check.advice}")
    count = {name: sum(c.status == name for c in checks) for name in ("problem", "missing")}
    ending = "everything that is needed works"
    if count["problem"]:
        ending = f"problems: {count['problem']}, see the advice above"
    return "\n".join([*lines, "", f"{ending}; optional things missing: {count['missing']}"])
