"""Which implementation evaluates a plan: as asked for, or by one small rule that can be printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.fused import conditions
from pcircuits.execute.numba.graph import has_single_units
from pcircuits.execute.prepare import PreparedParameters

IMPLEMENTATIONS = ("auto", "eager", "fused", "numba", "triton", "reference")

# Layers of single nodes cost more to start than to compute: from so many edges on, one compiled
# pass over all nodes is several times faster. Its compilation, kept on disk, takes some seconds.
MANY_EDGES = 1_000


@dataclass(frozen=True)
class Choice:
    """An implementation and why it is taken.

    Attributes:
        implementation: "eager", "fused", "numba", "triton" or "reference".
        reason: In words.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> choice = model.implementation(pc.Evidence(torch.tensor([[0, 1, 1]])), impl="reference")
        >>> print(choice)
        reference: asked for
    """

    implementation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.implementation}: {self.reason}"


def choose(
    plan: Plan, prepared: PreparedParameters, evidence: Evidence, impl: str = "auto"
) -> Choice:
    """The implementation that `forward` takes.

    "auto" is "triton" on a CUDA device with Triton installed. On the CPU it is "numba" for
    circuits of single nodes with 1,000 edges or more, and "fused" for dense circuits whose
    weights the examples share, from 4,096 values of all layers and examples on. It is "eager" for
    everything else.

    Args:
        plan: The compiled circuit.
        prepared: Its parameters.
        evidence: The evidence.
        impl: A name in `IMPLEMENTATIONS`.

    Raises:
        BackendError: If there is no such implementation, or it cannot evaluate this.
    """
    if impl not in IMPLEMENTATIONS:
        raise BackendError(f"impl must be one of {IMPLEMENTATIONS}; found {impl!r}")
    if impl in _REASONS_AGAINST:
        reason = _REASONS_AGAINST[impl](plan, prepared, evidence)
        if reason is not None:
            raise BackendError(f"impl={impl!r} cannot evaluate this: {reason}")
    if impl != "auto":
        return Choice(impl, "asked for")
    return _automatic(plan, prepared, evidence)


def _automatic(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Choice:
    # Every circuit has inputs, and so some weights, be they constant.
    device = next(iter(prepared.weights.values())).log.device.type
    if device == "cuda":
        against = _against_triton(plan, prepared, evidence)
        if against is None:
            return Choice("triton", "the parameters are on a CUDA device")
        return Choice("eager", f"not Triton, since {against}")
    if device != "cpu":
        return Choice("eager", f"the parameters are on a device of type {device!r}")
    if has_single_units(plan):
        return _for_single_nodes(plan, prepared, evidence)
    if not conditions.has_many_values(plan, prepared, evidence):
        return Choice("eager", "there is little to compute")
    against = conditions.why_not(plan, prepared, evidence)
    if against is not None:
        return Choice("eager", f"not fused, since {against}")
    return Choice("fused", "a dense circuit on the CPU")


def _for_single_nodes(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Choice:
    if plan.num_edges < MANY_EDGES:
        return Choice("eager", f"the circuit of single nodes has fewer than {MANY_EDGES:,} edges")
    against = _against_numba(plan, prepared, evidence)
    if against is not None:
        return Choice("eager", f"not numba, since {against}")
    return Choice("numba", f"a circuit of single nodes with {plan.num_edges:,} edges on the CPU")


# Imported where they are used: numba takes a second to import, and Triton may not be there.
def _against_numba(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    from pcircuits.execute.numba import evaluation

    return evaluation.why_not(plan, prepared, evidence)


def _against_triton(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed (extra `gpu`)"
    from pcircuits.execute.triton import evaluation

    return evaluation.why_not(plan, prepared, evidence)


_REASONS_AGAINST: dict[str, Callable[[Plan, PreparedParameters, Evidence], str | None]] = {
    "fused": conditions.why_not,
    "numba": _against_numba,
    "triton": _against_triton,
}
