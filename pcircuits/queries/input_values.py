"""Values of the inputs' units under evidence: what each would say of its variable alone."""

from __future__ import annotations

from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.api import Parameters, prepare_for
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import leaf_values


def log_input_values(plan: Plan, parameters: Parameters, evidence: Evidence) -> dict[str, Tensor]:
    """log(sum_v w[k, v] exp(potential_v)) of every unit k of every input node.

    Differentiable where the parameters or potentials are.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; its latent potentials do not count.

    Returns:
        Name of the input node -> (B, K); -inf where a unit allows nothing that the evidence does.

    Raises:
        EvidenceError: If the evidence does not fit the circuit.
        ParameterError: If the parameters do not.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.mixture(1, num_components=2, num_categories=2))
        >>> weights = pc.random_parameters(plan)
        >>> weights["input_0"] = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log()
        >>> found = pc.queries.log_input_values(plan, weights, pc.Evidence(torch.tensor([[1]])))
        >>> {name: values.exp() for name, values in found.items()}
        {'input_0': tensor([[0.5000, 0.9000]])}
    """
    check_evidence(plan, evidence)
    prepared = prepare_for(plan, parameters, evidence)
    by_layer = {
        layer: value.unbind() for layer, value in leaf_values(plan, prepared, evidence, {}).items()
    }
    return {
        name: by_layer[layer][fold]
        for name, (layer, fold) in plan.places.items()
        if layer in by_layer
    }
