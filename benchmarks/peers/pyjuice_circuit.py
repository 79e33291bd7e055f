"""PyJuice: the same circuit node by node, compiled; its products are bfloat16 by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyjuice as juice
import torch
from pyjuice.model.backend import compute_cum_par_flows
from pyjuice.nodes.distributions import (
    Categorical,
    SoftEvidenceCategorical,
    sort_soft_evidence_candidates,
)
from torch import Tensor

import pcircuits as pc
from benchmarks.peers import Contender, NotApplicableError, ours
from benchmarks.plain import own_numbers
from benchmarks.suite import BACKWARD, EM, FORWARD, SAMPLING, Work

# Of results in bfloat16, measured like the other tolerances.
_LOW_PRECISION = 3e-2
_MOST_NODES = 5000

Nodes = dict[Any, Any]


def contender(work: Work, pass_: str, *, full_precision: bool = False) -> Contender:
    """Its compiled circuit with CUDA graphs; gradients are its parameter flows.

    Args:
        work: The case.
        pass_: The pass.
        full_precision: Whether products are float32.

    Raises:
        NotApplicableError: If it cannot.
    """
    soft = work.evidence.log_potentials is not None
    if pass_ not in (FORWARD, BACKWARD, EM, SAMPLING) or (soft and pass_ != FORWARD):
        raise NotApplicableError("not written")
    if len(work.plan.circuit.nodes) > _MOST_NODES:
        raise NotApplicableError("its compilation takes minutes")
    nodes = _nodes(work)
    graph = work.device.type == "cuda"
    circuit = juice.compile(nodes[work.plan.circuit.root], verbose=False).to(work.device)
    options = {"record_cudagraph": graph, "force_use_fp32": full_precision}
    precision = {} if full_precision else {"tolerance": _LOW_PRECISION}
    note = "float32" if full_precision else "bfloat16 products, its default"
    if pass_ == SAMPLING:
        return _sampling(circuit, work)
    run = _run(circuit, work, options)
    if pass_ == FORWARD:
        return Contender(run, run, note, **precision)

    def backward() -> None:
        run()
        circuit.backward(
            work.values,
            flows_memory=0.0,
            record_cudagraph=graph,
            force_use_fp32=full_precision,
        )

    def counts() -> dict[str, Tensor]:
        backward()
        compute_cum_par_flows(circuit.param_flows, circuit.parflow_fusing_kwargs)
        circuit.update_param_flows()
        return _by_name(work, nodes, lambda sums: sums.get_param_flows(as_matrix=True))

    if pass_ == BACKWARD:
        return Contender(backward, counts, note + "; sums checked", **precision)

    def step() -> None:
        backward()
        circuit.mini_batch_em(step_size=1.0, pseudocount=0.0)

    def learned() -> dict[str, Tensor]:
        step()
        circuit.update_parameters()
        return _by_name(work, nodes, lambda sums: sums.get_params(as_matrix=True))

    return Contender(step, learned, note + "; sums checked", **precision)


def _run(circuit: Any, work: Work, options: dict[str, bool]) -> Callable[[], Tensor]:
    """Log-values; with potentials the variables are marked as not observed."""
    potentials = work.evidence.log_potentials
    if potentials is None:
        return torch.no_grad()(lambda: circuit(work.values, **options).flatten())
    soft = {"categorical_evidence_logp": potentials}
    if work.evidence.categories is not None:
        found, categories = sort_soft_evidence_candidates(potentials, work.evidence.categories)
        soft = {"categorical_evidence_logp": found, "soft_evidence_cat_ids": categories}
    unread = torch.zeros(potentials.shape[:2], dtype=torch.long, device=work.device)
    soft["soft_evidence_value_mask"] = unread.bool()
    return torch.no_grad()(lambda: circuit(unread, **soft, **options).flatten())


def _sampling(circuit: Any, work: Work) -> Contender:
    def sample(number: int = ours.NUM_SAMPLES) -> Tensor:
        found: Tensor = juice.queries.sample(circuit, num_samples=number, conditional=False)
        return found

    return Contender(sample, lambda: sample(ours.CHECKED_SAMPLES), f"{ours.NUM_SAMPLES} samples")


def _nodes(work: Work) -> Nodes:
    """Our node -> its node. Equal parameters are tied; products of products are one product."""
    owners: dict[object, Any] = {}
    made: Nodes = {}
    for node in work.plan.circuit.nodes:
        match node:
            case pc.Input():
                made[node] = _input(work, node, owners)
            case pc.Sum():
                made[node] = _sum(work, node, [made[child] for child in node.children], owners)
            case pc.KroneckerProduct():
                units = [torch.arange(child.num_units) for child in node.children]
                made[node] = juice.multiply(
                    *(made[child] for child in node.children),
                    edge_ids=torch.cartesian_prod(*units),
                    sparse_edges=True,
                )
            case _:
                made[node] = juice.multiply(*(made[factor] for factor in _factors(node)))
    return made


def _factors(node: pc.Product) -> list[pc.Input | pc.Sum]:
    found: list[Any] = []
    for child in node.children:
        found += _factors(child) if isinstance(child, pc.Product) else [child]
    return found


def _input(work: Work, node: pc.Input, owners: dict[object, Any]) -> Any:
    key = _key(work, node)
    if key in owners:
        return owners[key].duplicate(node.variable, tie_params=True)
    soft = work.evidence.log_potentials is not None
    kind = SoftEvidenceCategorical if soft else Categorical
    block = _block(node.num_units)
    owners[key] = juice.inputs(
        node.variable,
        num_node_blocks=node.num_units // block,
        block_size=block,
        dist=kind(num_cats=node.num_categories),
    )
    numbers = own_numbers(work.plan.circuit, node, work.log_parameters)
    owners[key].set_params(numbers.exp().cpu(), normalize=False)
    return owners[key]


def _sum(work: Work, node: pc.Sum, below: list[Any], owners: dict[object, Any]) -> Any:
    key = _key(work, node)
    if key in owners:
        return owners[key].duplicate(*below, tie_params=True)
    block = _block(node.num_units)
    owners[key] = juice.summate(*below, num_node_blocks=node.num_units // block, block_size=block)
    numbers = own_numbers(work.plan.circuit, node, work.log_parameters)
    matrix = numbers.exp().cpu().reshape(node.num_units, -1)
    owners[key].set_params(matrix, normalize=False)
    return owners[key]


def _key(work: Work, node: pc.Input | pc.Sum) -> object:
    start = node.parameter.start if isinstance(node.parameter, pc.Part) else 0
    return work.plan.circuit.parameter_names[node], start


def _block(units: int) -> int:
    """The largest power of two that divides a number of units."""
    return units & -units


def _by_name(work: Work, nodes: Nodes, read: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    """What is read of the sums, by our names; tied sums are read at the owner alone."""
    sums = [node for node in work.plan.circuit.nodes if isinstance(node, pc.Sum)]
    names = {work.plan.circuit.parameter_names[node] for node in sums}
    found = {name: torch.zeros_like(work.log_parameters[name]) for name in names}
    for node in sums:
        if not nodes[node].is_tied():
            matrix = read(nodes[node]).to(work.device)
            own_numbers(work.plan.circuit, node, found).copy_(matrix.reshape(node.parameter_shape))
    return found
