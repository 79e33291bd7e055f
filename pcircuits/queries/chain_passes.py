"""One coupled step over a hidden Markov chain, as functions of tensors that never wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.chain_torch import TorchChain
from pcircuits.execute.chains import ChainPasses, ChainTables, chain_tables, latent_states
from pcircuits.execute.prepare import PreparedParameters, prepare

IMPLEMENTATIONS = ("auto", "torch", "triton")

Result = TypeVar("Result")


def chain_passes(
    plan: Plan,
    parameters: Mapping[str, Tensor] | PreparedParameters,
    *,
    impl: str = "auto",
    precision: str = "tf32x3",
) -> ChainPasses:
    """Passes over a chain: messages, marginals, proportional fitting and samples.

    The queries ask the device whether evidence is possible and where a sum may have lost terms.
    These passes ask nothing: evidence is a `ChainWindow` of tensors, what underflows is repaired
    on the device, and impossible evidence is seen by its log-value of -inf alone. So they
    can be recorded by `captured_step`. They are not differentiable.

    Args:
        plan: A chain as `families.hmm` builds it.
        parameters: Name -> log-weights of the declared shape, shared by all examples.
        impl: "triton", float32 kernels for CUDA devices; "torch", plain PyTorch in float64;
            "auto", the kernels for float32 weights on a CUDA device where Triton is installed, and
            else plain PyTorch.
        precision: Of the kernels' products with emissions: "ieee", "tf32x3" (tensor cores at
            float32 accuracy) or "bf16" (the table in bfloat16: half the memory traffic, errors
            of up to 1 % a probability).

    Returns:
        The passes.

    Raises:
        BackendError: If the circuit is no such chain, parameters are given per example, or the
            implementation cannot run here.
        ParameterError: If the parameters do not fit the plan.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> passes = pc.queries.chain_passes(model.plan, model.log_parameters(), impl="torch")
        >>> potentials = torch.randn(1, 3, 2)
        >>> nothing = torch.zeros(1, 3, dtype=torch.bool)
        >>> window = pc.queries.ChainWindow(potentials, nothing.long(), nothing)
        >>> found = passes.marginals(window, passes.messages(window))
        >>> wanted = model.marginals(pc.Evidence(log_potentials=potentials))
        >>> torch.allclose(found.float(), wanted, atol=1e-6)
        True
    """
    if impl not in IMPLEMENTATIONS:
        raise BackendError(f"impl must be one of {IMPLEMENTATIONS}; found {impl!r}")
    tables = chain_tables(plan, prepare(plan, parameters))
    if impl == "torch" or (impl == "auto" and not _is_for_kernels(tables)):
        return TorchChain(tables)
    return _triton_chain(tables, precision)


def chain_latents(plan: Plan, potentials: Mapping[str, Tensor] | None) -> Tensor | None:
    """Latent potentials of a chain's states as one tensor, as `ChainWindow` takes them.

    Args:
        plan: A chain as `families.hmm` builds it.
        potentials: Node name `state_t` -> (B, K) log-potentials of the states of position t, as
            `Evidence` takes them; positions that are left out have none.

    Returns:
        (B, L, K) log-potentials of the states; None if there are none.

    Raises:
        BackendError: If a name is not that of a state.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> favoured = {"state_1": torch.tensor([[0.0, 1.0]])}
        >>> pc.queries.chain_latents(plan, favoured)[0]
        tensor([[0., 0.],
                [0., 1.],
                [0., 0.]])
    """
    return latent_states(plan, potentials)


def captured_step(
    function: Callable[..., Result], example_inputs: Sequence[Tensor | None]
) -> Callable[..., Result]:
    """Records a function of tensors on a CUDA device, to be replayed as one graph.

    Args:
        function: Takes tensors, returns tensors in any structure, asks the host nothing.
        example_inputs: Inputs of the shapes and types to record for; None = left out, always.

    Returns:
        A function of such inputs. It returns the same tensors at every call, overwritten by the
        next.

    Raises:
        BackendError: If there is no CUDA device, an input is elsewhere, or it cannot be recorded.

    Examples:
        >>> if torch.cuda.is_available():
        ...     numbers = torch.ones(3, device="cuda")
        ...     doubled = pc.queries.captured_step(lambda x: 2 * x, [numbers])
        ...     assert doubled(numbers).tolist() == [2.0, 2.0, 2.0]
    """
    if not torch.cuda.is_available():
        raise BackendError("a step can be captured on a CUDA device only; there is none")
    from pcircuits.execute.triton.capture import capture

    return capture(function, example_inputs)


def _is_for_kernels(tables: ChainTables) -> bool:
    log = tables.initial
    return log.is_cuda and log.dtype == torch.float32 and find_spec("triton") is not None


def _triton_chain(tables: ChainTables, precision: str) -> ChainPasses:
    try:
        from pcircuits.execute.triton.chain import TritonChain
        from pcircuits.execute.triton.launch import against_device
    except ImportError as error:
        raise BackendError("the implementation 'triton' needs the package triton") from error
    reason = against_device(tables.initial.device)
    if reason is not None:
        raise BackendError(f"the implementation 'triton' does not apply: {reason}")
    return TritonChain(tables, precision)
