"""Fuzzing of everything that reads a file: `python -m tests.fuzz --help`."""

from __future__ import annotations

_CIRCUITS = (
    *("pcircuits.io", "pcircuits.structure", "pcircuits.scalars", "pcircuits.parameters"),
    *("pcircuits.files", "pcircuits.learning.checkpoint", "pcircuits.cli", "pickletools"),
)
_CODD = (
    *("codd.checkpoint", "codd.pretrained", "codd.members", "codd.denoisers", "codd.modulators"),
    *("codd.training.cache", "codd.training.cache_layout", "codd.training.shards"),
    *("codd.training.corpus", "codd.vocabulary", "codd.published"),
    "codd.viz.page",
)
CODD_NAMES = (
    *("coupled-model", "codd-checkpoint", "cache", "shard", "network-config", "shard-index"),
    *("vocabulary", "settings", "jsonl", "page"),
)


def instrumented(name: str) -> tuple[str, ...]:
    """Packages whose branches guide the fuzzer of a harness."""
    return (*_CIRCUITS, *_CODD) if name in CODD_NAMES else _CIRCUITS
