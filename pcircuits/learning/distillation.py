"""Latent-variable distillation: units get their meaning from clusters of rows before EM begins.

A hidden variable of a circuit, the choice among a node's units, is made visible for the time of
initialisation: each row is assigned to one unit by an outside source, such as clusters of
embeddings of a neural network (Liu, Zhang and Van den Broeck, "Scaling up probabilistic circuits by
latent variable distillation", ICLR 2023). Parameters are then counted; what no assignment says is
filled in by expected counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.evidence import Evidence
from pcircuits.learning.em_fit import fit_em
from pcircuits.learning.history import History
from pcircuits.learning.initialise import kmeans
from pcircuits.learning.objective import Learnable
from pcircuits.learning.rows import Rows, rows_of
from pcircuits.parameters import normalise_parameter, random_parameters
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Sum


def distil_latents(
    model: Learnable,
    data: Tensor | Evidence,
    assignments: Mapping[str, Tensor],
    *,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    epochs: int = 1,
    pseudocount: float = 0.1,
    chunk_size: int = 512,
    progress: bool = False,
) -> History:
    """Sets a model's parameters from rows whose hidden units are given; it is updated in place.

    Where every choice of units is given this counts, whatever the parameters were before, and one
    epoch is all there is to do. Choices that are not given are filled in by EM from the current
    parameters.

    Args:
        model: A model such as `CircuitModel`.
        data: (N, L) integers, or evidence of any kind about N examples.
        assignments: Node name -> (N,) unit of the node that each row is explained by; -1 where
            that is not known.
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        epochs: Steps of EM with the assignments held fixed.
        pseudocount: As in `fit_em`: units without rows become uniform.
        chunk_size: Rows evaluated at once.
        progress: Whether to show a progress bar.

    Returns:
        The history; its log-likelihoods are those of rows and assignments together.

    Raises:
        EvidenceError: If a name is not a node's, an assignment is not a unit, shapes do not fit,
            or a row is impossible with its assignment.

    Examples:
        Rows whose component is known: nothing is left to guess.

        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> rows = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 1]]).repeat(100, 1)
        >>> known = {"components": rows[:, 0]}
        >>> history = pc.distil_latents(model, rows, known)
        >>> model.probabilities()["weights"].round(decimals=2)
        tensor([0.7500, 0.2500])
    """
    rows = rows_of(model.plan, data, observed)
    latent = dict(rows.evidence.latent_log_potentials or {})
    for name, units in assignments.items():
        given = _potentials(model.plan, name, units, len(rows))
        latent[name] = latent[name] + given if name in latent else given
    evidence = Evidence(
        rows.evidence.values,
        rows.evidence.observed,
        rows.evidence.log_potentials,
        latent,
        rows.evidence.categories,
    )
    return fit_em(
        model,
        evidence,
        weights=weights,
        epochs=epochs,
        pseudocount=pseudocount,
        chunk_size=chunk_size,
        progress=progress,
    )


def initialise_kmeans(
    model: Learnable,
    data: Tensor | Evidence,
    *,
    nodes: Sequence[str] | None = None,
    features: Mapping[str, Tensor] | None = None,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    pseudocount: float = 1.0,
    spread: float = 0.1,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Starts a model's units from k-means clusters of the rows; it is updated in place.

    Args:
        model: A model such as `CircuitModel`.
        data: (N, L) integers, or evidence about N examples whose values are used.
        nodes: Names of the nodes whose units become clusters; default `latent_nodes`.
        features: Node name -> (N, D) what its rows are clustered by, such as embeddings; default
            the values of the node's variables, one-hot, missing ones by their frequencies.
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        pseudocount: Count added to each distribution.
        spread: Standard deviation of noise on the log-weights, without which units that no row was
            assigned to would stay alike for ever.
        seed: Seed of clusters and noise.

    Returns:
        Node name -> (N,) cluster of each row, as `distil_latents` takes it.

    Raises:
        EvidenceError: If data does not fit, there are no values to cluster by, or features do not
            fit the rows.
        ValueError: If nodes are not given and the circuit has none that this could mean.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(3, num_components=2, num_categories=2))
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]])
        >>> clusters = pc.initialise_kmeans(model, rows)["components"]
        >>> bool(clusters[0] == clusters[1] and clusters[2] == clusters[3])
        True
    """
    circuit, given = model.plan.circuit, dict(features or {})
    rows = rows_of(model.plan, data, observed)
    chosen = tuple(nodes) if nodes is not None else latent_nodes(circuit)
    if not chosen:
        raise ValueError(
            "no node of the circuit is an untied choice among units; name the nodes to cluster for"
        )
    by_name = {name: node for node, name in circuit.node_names.items()}
    unknown = (set(chosen) | set(given)) - by_name.keys()
    if unknown:
        raise EvidenceError(f"{min(unknown)!r} is not a node; found {sorted(by_name)[:8]}")
    assignments = {}
    for name in chosen:
        node = by_name[name]
        points = given[name] if name in given else _one_hot(circuit, node, rows)
        if len(points) != len(rows):
            raise EvidenceError(f"features of {name!r} have {len(points)} rows of {len(rows)}")
        assignments[name], _ = kmeans(points, node.num_units, weights=weights, seed=seed)
    distil_latents(
        model, data, assignments, observed=observed, weights=weights, pseudocount=pseudocount
    )
    _perturb(model, spread, seed)
    return assignments


def latent_nodes(circuit: Circuit) -> tuple[str, ...]:
    """Names of the nodes whose units are the values of one hidden variable.

    That is the only child of a dense weighted sum, if it has more than one unit and neither the
    sum's parameter nor its own is tied to another node's: clusters of tied nodes would have to
    agree with each other.

    Args:
        circuit: The circuit.

    Returns:
        The names, each after those of the nodes below it.

    Examples:
        >>> pc.latent_nodes(pc.families.mixture(3, num_components=2, num_categories=2))
        ('components',)
        >>> hmm = pc.families.hmm(3, num_states=2, num_categories=2, homogeneous=False)
        >>> pc.latent_nodes(hmm)
        ('state_2', 'suffix_1', 'suffix_0')
    """
    uses = Counter(_parameter(circuit, node) for node in circuit.parameter_names)
    found: dict[AnyNode, None] = {}
    for node in circuit.nodes:
        if not isinstance(node, Sum) or node.mixing or not node.weighted or len(node.children) > 1:
            continue
        child = node.children[0]
        own = [node, *(n for n in (child, *child.children) if isinstance(n, Input))]
        tied = any(uses[_parameter(circuit, n)] > 1 for n in own if n in circuit.parameter_names)
        if child.num_units > 1 and not tied:
            found[child] = None
    return tuple(circuit.node_names[node] for node in found)


def _parameter(circuit: Circuit, node: AnyNode) -> object:
    """What two nodes have in common if they are tied: their part, or their parameter's name."""
    part = getattr(node, "parameter", None)
    return circuit.parameter_names[node] if part is None or isinstance(part, str) else part


def _potentials(plan: Plan, name: str, units: Tensor, num_rows: int) -> Tensor:
    """(N, K) zero at the assigned unit and -inf elsewhere; all zero where it is not known."""
    if name not in plan.places:
        raise EvidenceError(f"{name!r} is not a node; found {sorted(plan.places)[:8]}")
    num_units = plan.layers[plan.places[name][0]].num_units
    if tuple(units.shape) != (num_rows,) or units.is_floating_point():
        raise EvidenceError(
            f"assignments of {name!r} must be {num_rows} integers; found {units.dtype} of shape "
            f"{tuple(units.shape)}"
        )
    if bool(((units < -1) | (units >= num_units)).any()):
        wrong = int(units[(units < -1) | (units >= num_units)][0])
        raise EvidenceError(
            f"assignments of {name!r} hold {wrong}; expected units 0 .. {num_units - 1}, or -1"
        )
    each = torch.arange(num_units, device=units.device)
    free = (units == -1)[:, None] | (units[:, None] == each)
    return torch.zeros(free.shape, device=units.device).masked_fill(~free, -torch.inf)


def _one_hot(circuit: Circuit, node: AnyNode, rows: Rows) -> Tensor:
    """(N, sum of categories) values of the node's variables; frequencies where missing."""
    values, mask = rows.evidence.values, rows.evidence.mask()
    if values is None or mask is None:
        raise EvidenceError("there are no values to cluster rows by; give features")
    parts = []
    for variable in node.scope:
        known = mask[:, variable]
        safe = torch.where(known, values[:, variable], 0).long()
        one_hot = torch.nn.functional.one_hot(safe, circuit.categories[variable]).float()
        one_hot = one_hot * known[:, None]
        frequencies = one_hot.sum(0) / known.sum().clamp_min(1)
        parts.append(torch.where(known[:, None], one_hot, frequencies))
    return torch.cat(parts, 1)


def _perturb(model: Learnable, spread: float, seed: int) -> None:
    if spread == 0:
        return
    noise = random_parameters(model.plan, seed=seed, spread=spread)
    current = {name: log.detach() for name, log in model.log_parameters().items()}
    model.set_log_parameters(
        {
            name: normalise_parameter(model.plan, name, log + noise[name].to(log))
            for name, log in current.items()
        }
    )
