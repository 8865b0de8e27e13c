"""What is printed: one line for each round, and a table of the faults survived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .faults import KINDS
from .round import Outcome


def line(number: int, outcome: Outcome) -> str:
    """One round in a line; what is wrong with it below."""
    faults = " + ".join(str(struck) for struck in outcome.struck)
    verdict = "survived" if outcome.survived else "FAILED"
    writes = f"{outcome.writes} writes" + (f" ({outcome.unknown} unknown)" if outcome.unknown else "")
    text = (
        f"{number:3}  seed {outcome.seed}  {faults}: {outcome.ended}; finished in {outcome.plain_seconds:.1f} s of"
        f" {outcome.seconds:.1f} s; {writes}, longest wait {outcome.wait:.2f} s: {verdict}"
    )
    below = [f"       {complaint}" for complaint in outcome.complaints]
    if outcome.complaints:
        below.append(f"       again: make torture N=1 SEED={outcome.seed}")
    if outcome.kept is not None:
        below.append(f"       kept: {outcome.kept}")
    return "\n".join((text, *below))


def table(outcomes: Iterable[Outcome]) -> str:
    """By kind of fault: how many were injected, how many of these survived, how many came too late to be."""
    injected: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for outcome in outcomes:
        for struck in outcome.struck:
            kind = struck.fault.kind
            if struck.met:
                injected[kind] += 1
                survived[kind] += outcome.survived
            else:
                missed[kind] += 1
    lines = [f"{'fault':20} injected  survived  not met"]
    lines += [f"{kind:20} {injected[kind]:8}  {survived[kind]:8}  {missed[kind]:7}" for kind in sorted(KINDS)]
    lines.append(f"{'all':20} {injected.total():8}  {survived.total():8}  {missed.total():7}")
    return "\n".join(lines)
