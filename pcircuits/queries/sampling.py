"""Exact joint samples, drawn from the root down for all examples at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcircuits.compile.plan import (
    InnerLayer,
    InputLayer,
    KroneckerLayer,
    MixingLayer,
    Operand,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
)
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, forward, prepare_for
from pcircuits.execute.choice import choose
from pcircuits.execute.eager import all_values
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.layers import concatenate, gather
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.segments import node_index
from pcircuits.execute.weights import AnyWeights, Weights
from pcircuits.queries.draws import draw, draw_children, drawn_edge, rows_of
from pcircuits.queries.likelihood import require_possible


@torch.no_grad()
def sample(
    plan: Plan,
    parameters: Parameters,
    num_samples: int,
    evidence: Evidence | None = None,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws exact joint samples given the evidence.

    Latent choices are always drawn exactly. Given them the variables are independent, so a
    temperature other than 1 sharpens each variable's conditional exactly: the latent-tempered
    scheme of arXiv 2603.00045; 0 takes the most likely category.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        num_samples: Samples N for each example.
        evidence: Evidence of any kind; default none.
        temperature: Temperature of the variables' conditionals, >= 0.
        generator: Source of randomness; default the global one.

    Returns:
        (num_samples, L) without evidence, (B, num_samples, L) with; observed values are kept.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, or a number is out of range.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> rain = pc.Evidence(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
        >>> drawn = pc.queries.sample(model.plan, model.log_parameters(), 100, rain)
        >>> drawn.shape, drawn[0].unique(dim=0)  # whenever it rains the grass is wet
        (torch.Size([1, 100, 2]), tensor([[1, 1]]))
    """
    if num_samples < 1 or not temperature >= 0:
        raise EvidenceError(
            f"expected num_samples >= 1 and temperature >= 0; found {num_samples}, {temperature}"
        )
    given = evidence or Evidence()
    check_evidence(plan, given)
    prepared = prepare_for(plan, parameters, given)
    batch_size = joint_batch_size(prepared, given)
    passes = len(plan.layers) > 1 and choose(plan, prepared, given).implementation == "numba"
    way = _draw_by_passes if passes else _draw_by_layers
    example, drawn = way(plan, prepared, given, num_samples, temperature, generator)
    mask = given.mask()
    if mask is not None:
        assert given.values is not None
        drawn = torch.where(mask[example], given.values[example].long(), drawn)
    shaped = drawn.view(batch_size, num_samples, -1)
    return shaped[0] if evidence is None and batch_size == 1 else shaped


def _draw_by_layers(
    plan: Plan,
    prepared: PreparedParameters,
    given: Evidence,
    num_samples: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """(S,) example of each sample and (S, L) categories: all samples layer by layer."""
    values, _ = all_values(plan, prepared, given)
    require_possible(values[-1][0, :, 0])
    batch_size = joint_batch_size(prepared, given)
    example = torch.arange(batch_size, device=values[-1].device).repeat_interleave(num_samples)
    chosen = _choose_units(plan, values, prepared.weights, example, generator)
    drawn = torch.zeros(len(example), plan.num_variables, dtype=torch.long, device=example.device)
    for i, units in chosen.items():
        layer = plan.layers[i]
        assert isinstance(layer, InputLayer)
        own = prepared.weights[i]
        assert isinstance(own, Weights)
        if given.log_potentials is None:
            picked = draw_children(own, None, units, example, temperature, generator)
        else:
            logits = _category_logits(layer, own, given, units, example)
            picked = draw(logits, temperature, generator)
        if given.categories is not None:
            picked = _listed(layer, given, picked, example)
        for variable, row, active in zip(layer.variables.tolist(), picked, units >= 0, strict=True):
            drawn[:, variable] = torch.where(active, row, drawn[:, variable])
    return example, drawn


def _draw_by_passes(
    plan: Plan,
    prepared: PreparedParameters,
    given: Evidence,
    num_samples: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """As `_draw_by_layers` for single nodes: sample by sample, down to one input a variable."""
    from pcircuits.execute.numba.descent import chosen_inputs

    require_possible(forward(plan, prepared, given, impl="numba"))
    inputs = chosen_inputs(plan, prepared, given, num_samples, generator)
    example = torch.arange(len(inputs) // num_samples).repeat_interleave(num_samples)
    drawn = torch.zeros_like(inputs)
    first = 0
    for i in plan.input_layers:  # which are the first
        layer, own = plan.layers[i], prepared.weights[i].log
        assert isinstance(layer, InputLayer)
        end = first + plan.num_folds[i]
        for variable in sorted(set(layer.variables.tolist())):
            rows = ((inputs[:, variable] >= first) & (inputs[:, variable] < end)).nonzero()[:, 0]
            log = own[(inputs[rows, variable] - first) % own.shape[0], 0, 0]
            logits, categories = _with_potentials(log, given, variable, example[rows])
            picked = draw(logits, temperature, generator)
            if categories is not None:
                picked = categories.gather(1, picked[:, None])[:, 0]
            drawn[rows, variable] = picked
        first = end
    return example, drawn


def _with_potentials(
    log: Tensor, evidence: Evidence, variable: int, example: Tensor
) -> tuple[Tensor, Tensor | None]:
    """(n, V) or (n, k) log-weights of one variable's categories, and which ones if listed."""
    if evidence.log_potentials is None:
        return log, None
    potentials = evidence.log_potentials[example, variable].to(log.dtype)
    if evidence.categories is None:
        return log + potentials[:, : log.shape[1]], None
    categories = evidence.categories[example, variable].long()
    exists = categories < log.shape[1]
    listed = log.gather(1, categories * exists).masked_fill(~exists, -torch.inf)
    return listed + potentials, categories


def _choose_units(
    plan: Plan,
    values: Sequence[Tensor],
    weights: Mapping[int, AnyWeights],
    example: Tensor,
    generator: torch.Generator | None,
) -> dict[int, Tensor]:
    """Input layer -> (F, S) drawn unit of each fold in each sample, -1 where not part of it."""
    chosen: dict[int, Tensor] = {
        i: example.new_full((plan.num_folds[i], len(example)), -1) for i in range(len(values))
    }
    chosen[len(values) - 1].zero_()
    for i in reversed(range(len(values))):
        layer = plan.layers[i]
        if isinstance(layer, InputLayer):
            continue
        units = chosen.pop(i)
        children = [gather(values, operand) for operand in layer.operands]
        own = weights.get(i)
        parts = _descend(layer, children, own, units, example, generator)
        for operand, part in zip(layer.operands, parts, strict=True):
            _place(chosen, operand, part)
    return chosen


def _descend(
    layer: InnerLayer,
    children: list[Tensor],
    weights: AnyWeights | None,
    units: Tensor,
    example: Tensor,
    generator: torch.Generator | None,
) -> list[Tensor]:
    """Units (F, S) that each operand takes, given the layer's own."""
    active, clamped = units >= 0, units.clamp_min(0)
    match layer:
        case ProductLayer():
            return [units] * len(children)
        case KroneckerLayer():
            parts = torch.unravel_index(clamped, layer.sizes)
            return [part.where(active, -1) for part in parts]
        case SumLayer():
            assert isinstance(weights, Weights)
            values = concatenate(children)
            picked = draw_children(weights, values, units, example, 1.0, generator).where(
                active, -1
            )
            found, start = [], 0
            for size in layer.sizes:
                inside = (picked >= start) & (picked < start + size)
                found.append((picked - start).where(inside, -1))
                start += size
            return found
        case MixingLayer():
            assert isinstance(weights, Weights)
            terms = [_unit_values(child, clamped, example) for child in children]
            logits = torch.stack(terms, -1) + rows_of(weights, clamped, example)
            picked = draw(logits, 1.0, generator).where(active, -1)
            return [
                (clamped if child.shape[-1] > 1 else torch.zeros_like(clamped)).where(
                    picked == place, -1
                )
                for place, child in enumerate(children)
            ]
        case SegmentProductLayer():
            return [units[node_index(layer, units.device)]]
        case SegmentSumLayer():
            assert weights is not None
            own = units[node_index(layer, units.device)]
            logits = _unit_values(children[0] + weights.log, own.clamp_min(0), example)
            return [own.where(drawn_edge(layer, logits, generator), -1)]


def _unit_values(child: Tensor, units: Tensor, example: Tensor) -> Tensor:
    """(F, S) value of the chosen unit; of the only one where there is one."""
    rows = child[:, example]
    return rows[..., 0] if child.shape[-1] == 1 else rows.gather(2, units[..., None])[..., 0]


def _place(chosen: dict[int, Tensor], operand: Operand, part: Tensor) -> None:
    if operand.order is not None:
        part = part[torch.as_tensor(operand.order, device=part.device).argsort()]
    start = 0
    for source in operand.sources:
        own = part[start : start + source.num_folds]
        start += source.num_folds
        # Scopes of a product's children are disjoint, so one sample reaches a node at most once.
        folds = torch.as_tensor(source.folds(), device=own.device)
        at = folds[:, None].expand_as(own)
        # In place: a chain's inputs are one layer, which every step of it would copy.
        chosen[source.layer].scatter_reduce_(0, at, own, "amax")


def _category_logits(
    layer: InputLayer, weights: Weights, evidence: Evidence, units: Tensor, example: Tensor
) -> Tensor:
    """(F, S, V) or (F, S, k) log-weights of the categories given each sample's unit."""
    assert evidence.log_potentials is not None
    logits = rows_of(weights, units.clamp_min(0), example)
    variables = torch.as_tensor(layer.variables, device=units.device)
    potentials = evidence.log_potentials.transpose(0, 1)[variables]
    if evidence.categories is None:
        potentials = potentials[..., : layer.num_categories]
    else:
        categories = evidence.categories.transpose(0, 1)[variables][:, example]
        exists = categories < layer.num_categories
        logits = logits.gather(2, categories * exists).masked_fill(~exists, -torch.inf)
    logits = logits + potentials[:, example].to(logits.dtype)
    mask = evidence.mask()
    if mask is None:
        return logits
    # Observed variables are overwritten later; their potentials, maybe all -inf, do not count.
    return logits.masked_fill(mask.T[variables][:, example][..., None], 0.0)


def _listed(layer: InputLayer, evidence: Evidence, picked: Tensor, example: Tensor) -> Tensor:
    assert evidence.categories is not None
    variables = torch.as_tensor(layer.variables, device=picked.device)
    categories = evidence.categories.transpose(0, 1)[variables][:, example]
    return categories.gather(2, picked[..., None])[..., 0].long()
