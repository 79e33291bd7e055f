"""What the figures should reach: limits on quotients, read from a comparison's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import quotients, timing
from benchmarks.peers import BESIDE_MARGINALS, OURS
from benchmarks.suite import BACKWARD, FORWARD, MARGINALS


@dataclass(frozen=True)
class Target:
    """A limit on our time over the best of some peers', round by round."""

    case: str
    pass_: str
    peers: tuple[str, ...]
    at_most: float


TARGETS = (
    Target("hmm", FORWARD, ("dynamax",), 0.9),
    Target("hmm", BACKWARD, ("dynamax",), 0.75),
    Target("hmm", MARGINALS, (BESIDE_MARGINALS,), 2.5),
    Target("hmm-soft", MARGINALS, (BESIDE_MARGINALS,), 2.5),
    Target("tree", FORWARD, ("cirkit",), 0.7),
    Target("tree", BACKWARD, ("cirkit",), 0.7),
    Target("tree-pairs", FORWARD, ("cirkit", "spflow"), 0.75),
    Target("tree-pairs", BACKWARD, ("cirkit", "spflow"), 0.5),
    *(
        Target(case, pass_, ("pyjuice",), limit)
        for case, pass_, limit in (
            ("hmm-1024", BACKWARD, 0.5),
            ("hclt-256", BACKWARD, 0.5),
            ("rat-256", BACKWARD, 0.5),
            ("step-soft", FORWARD, 0.1),
        )
    ),
)


def reached(report: Mapping[str, Any], targets: Sequence[Target] = TARGETS) -> list[dict[str, Any]]:
    """The targets that a comparison has figures for, each with its quotient."""
    entries = {(entry["case"], entry["pass"]): entry["peers"] for entry in report["entries"]}
    found = []
    for target in targets:
        peers = entries.get((target.case, target.pass_), {})
        timed = [peers[n]["rounds"] for n in target.peers if "rounds" in peers.get(n, {})]
        if not timed or "rounds" not in peers.get(OURS, {}):
            continue
        best = [min(seconds) for seconds in zip(*timed, strict=False)]
        quotient = timing(quotients(peers[OURS]["rounds"], best))
        found.append(
            {
                "case": target.case,
                "pass": target.pass_,
                "over": " or ".join(target.peers),
                "at_most": target.at_most,
                "quotient": quotient.median,
                "lower": quotient.lower,
                "upper": quotient.upper,
                "met": quotient.median <= target.at_most,
            }
        )
    return found
