"""Public evaluation: checks first, then the implementation that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError, OutOfMemoryError, ParameterError, is_out_of_memory
from pcircuits.execute import eager, reference
from pcircuits.execute.choice import Choice, choose
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.prepare import PreparedParameters, prepare

Parameters = Mapping[str, Tensor] | PreparedParameters


def forward(
    plan: Plan, parameters: Parameters, evidence: Evidence, *, impl: str = "auto"
) -> Tensor:
    """Log of the circuit's value: the sum over worlds of weight times potentials.

    With normalised parameters and observed values this is the log-likelihood; with potentials it
    is log Z. Its gradients are the answers to other queries: with respect to log-potentials the
    posterior marginals, with respect to log-weights the expected counts.

    Args:
        plan: The compiled circuit.
        parameters: Name -> log-weights of the declared shape or with a leading batch axis, or
            what `prepare` made of them.
        evidence: Evidence about B examples.
        impl: "eager", layers as PyTorch operations, for every circuit and device; "fused", linear
            space on the CPU, for dense circuits; "numba", one compiled pass over all nodes on the
            CPU, for circuits of single nodes; "triton", kernels for CUDA devices; "reference", the
            slow float64 oracle (which takes the mapping only); "auto", the rule of
            `choose_implementation`.

    Returns:
        (B,) log-values; -inf, with gradient zero, where the evidence is impossible.

    Raises:
        EvidenceError: If the evidence does not fit the plan.
        ParameterError: If the parameters do not; or, on the CPU, if one that matters is NaN or
            +inf.
        BackendError: If there is no such implementation, or it does not apply; as
            `OutOfMemoryError` if there is too little memory for so many examples at once.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.factorized(1, num_categories=2))
        >>> weights = {"input_0": torch.tensor([[0.25, 0.75]]).log().requires_grad_()}
        >>> log_value = pc.forward(plan, weights, pc.Evidence(torch.tensor([[0], [1]])))
        >>> log_value.exp().detach()
        tensor([0.2500, 0.7500])
        >>> log_value.sum().backward()
        >>> weights["input_0"].grad  # expected counts
        tensor([[1., 1.]])
    """
    check_evidence(plan, evidence)
    with _enough_memory(plan, evidence):
        return _evaluate(plan, parameters, evidence, impl)


def _evaluate(plan: Plan, parameters: Parameters, evidence: Evidence, impl: str) -> Tensor:
    if impl == "reference":
        if isinstance(parameters, PreparedParameters):
            raise ParameterError("the reference implementation takes the parameters by name")
        return reference.log_value(plan.circuit, parameters, evidence)
    prepared = prepare_for(plan, parameters, evidence)
    implementation = choose(plan, prepared, evidence, impl).implementation
    # Imported where they are used, as in `choice`.
    if implementation == "fused":
        from pcircuits.execute.fused import evaluation as fused

        return fused.log_value(plan, prepared, evidence)
    if implementation == "numba":
        from pcircuits.execute.numba import evaluation as compiled

        return compiled.log_value(plan, prepared, evidence)
    if implementation == "triton":
        from pcircuits.execute.triton import evaluation as kernels

        return kernels.log_value(plan, prepared, evidence)
    return eager.log_value(plan, prepared, evidence)


@contextmanager
def _enough_memory(plan: Plan, evidence: Evidence) -> Iterator[None]:
    """Says what was asked for where memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"too little memory to evaluate {plan.circuit!r} for {evidence.batch_size} examples at "
            f"once: expected fewer rows a call ({error})"
        ) from error


def choose_implementation(
    plan: Plan, parameters: Parameters, evidence: Evidence, *, impl: str = "auto"
) -> Choice:
    """The implementation that `forward` would take for the same arguments, and why.

    "auto" is "triton" on a CUDA device with Triton installed. On the CPU it is "numba" for
    circuits of single nodes with 1,000 edges or more, and "fused" for dense circuits whose
    weights the examples share, from 4,096 values of all layers and examples on. It is "eager" for
    everything else.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights, as `forward` takes them.
        evidence: Evidence about B examples.
        impl: As in `forward`.

    Returns:
        Its name and the reason; can be printed.

    Raises:
        EvidenceError: If the evidence does not fit the plan.
        ParameterError: If the parameters do not.
        BackendError: If there is no such implementation, or it does not apply.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(16, num_states=32, num_categories=20))
        >>> rows = pc.Evidence(torch.zeros(64, 16, dtype=torch.long))
        >>> choice = pc.choose_implementation(model.plan, model.log_parameters(), rows)
        >>> print(choice)
        fused: a dense circuit on the CPU
    """
    check_evidence(plan, evidence)
    return choose(plan, prepare_for(plan, parameters, evidence), evidence, impl)


def prepare_for(plan: Plan, parameters: Parameters, evidence: Evidence) -> PreparedParameters:
    """Lays out parameters and checks that their batch size fits the evidence's.

    Raises:
        EvidenceError: If it does not.
        ParameterError: If the parameters do not fit the plan.
    """
    is_prepared = isinstance(parameters, PreparedParameters)
    prepared = prepare(plan, parameters, None if is_prepared else _device(evidence))
    if prepared.batch_size not in (None, 1, evidence.batch_size) and has_batch(evidence):
        raise EvidenceError(
            f"evidence is about {evidence.batch_size} examples, the parameters are given for "
            f"{prepared.batch_size}"
        )
    return prepared


def has_batch(evidence: Evidence) -> bool:
    """Whether the evidence says anything, and so has a batch size of its own."""
    return (
        evidence.values is not None
        or evidence.log_potentials is not None
        or bool(evidence.latent_log_potentials)
    )


def _device(evidence: Evidence) -> torch.device | None:
    given = (
        evidence.values,
        evidence.log_potentials,
        *(evidence.latent_log_potentials or {}).values(),
    )
    return next((tensor.device for tensor in given if tensor is not None), None)
