"""Gradients are posteriors, and those of shared weights are sums."""

from __future__ import annotations

import torch

import pcircuits as pc
from tests.support.evidence import Case
from tests.support.fast_paths import gradients, with_gradients
from tests.support.properties import Trial, over_circuits
from tests.support.renamed import untied


@over_circuits("the gradient for leaf log-probabilities is the posterior")
def test_leaf_gradients_are_posteriors(trial: Trial) -> None:
    """Of potentials; and of inputs' own log-weights, summed over all inputs of a variable."""
    trial = trial.shared()
    potentials = trial.normal(trial.batch, trial.length, trial.circuit.num_categories)
    case = Case(trial.circuit, trial.case.parameters, pc.Evidence(log_potentials=potentials))
    case = Case(*untied(case.circuit, case.parameters), case.evidence)
    own = trial.of(case)
    sizes = own.worlds.categories
    for name in own.implementations():
        for row in range(own.batch):
            leaves = with_gradients(case.rows([row]))
            value = pc.forward(own.plan, leaves.parameters, leaves.evidence, impl=name)
            flows = gradients(value, leaves, torch.ones_like(value))
            for variable, size in enumerate(sizes):
                posterior = own.worlds.table([variable])[row]
                trial.compare(flows["log_potentials"][0, variable, :size], posterior)
                inputs = [n for n in own.circuit.nodes if isinstance(n, pc.Input)]
                inputs = [n for n in inputs if n.variable == variable]
                if all(node in own.circuit.parameter_names for node in inputs):
                    counts = [flows[own.circuit.parameter_names[n]].sum(0) for n in inputs]
                    trial.compare(sum(counts), posterior)


@over_circuits("the tied gradient is the sum of the untied ones")
def test_tied_gradients_are_sums(trial: Trial) -> None:
    trial = trial.shared()
    circuit, weights = untied(trial.circuit, trial.case.parameters)
    free = trial.of(Case(circuit, weights, trial.case.evidence))
    expected = {name: torch.zeros_like(t) for name, t in trial.case.parameters.items()}
    both = zip(trial.circuit.nodes, circuit.nodes, strict=True)
    pairs = [(old, new) for old, new in both if old in trial.circuit.parameter_names]
    leaves = with_gradients(free.case)
    value = pc.forward(free.plan, leaves.parameters, leaves.evidence, impl="reference")
    alone = gradients(value, leaves, torch.ones_like(value))
    for old, new in pairs:
        own, start = alone[circuit.parameter_names[new]], 0
        total = expected[trial.circuit.parameter_names[old]]
        if isinstance(old.parameter, pc.Part):
            own = own if isinstance(old, pc.Input) else own.flatten()
            start = old.parameter.start
        total[start : start + len(own)] += own
    for name in trial.implementations():
        leaves = with_gradients(trial.case)
        value = pc.forward(trial.plan, leaves.parameters, leaves.evidence, impl=name)
        found = gradients(value, leaves, torch.ones_like(value))
        for key, total in expected.items():
            trial.compare(found[key], total)
