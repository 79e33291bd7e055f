"""One check a query: its answer on a case against the list of all worlds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.validate import compatible
from tests.support.evidence import Case, map_evidence
from tests.support.oracle import Oracle, Tally, entropy, oracle_of


@dataclass(frozen=True)
class Trial:
    """A case with its worlds, and dice for what else a query needs."""

    case: Case
    worlds: Oracle
    dice: np.random.Generator
    tally: Tally

    @cached_property
    def plan(self) -> pc.Plan:
        return pc.compile_circuit(self.case.circuit)

    @property
    def given(self) -> tuple[pc.Plan, dict[str, Tensor], pc.Evidence]:
        """The first arguments of most queries."""
        return self.plan, self.case.parameters, self.case.evidence

    @property
    def length(self) -> int:
        return self.case.circuit.num_variables

    @property
    def batch(self) -> int:
        return len(self.worlds.weights)

    def some_variables(self, most: int) -> list[int]:
        """Different variables in any order."""
        count = self.dice.integers(1, min(most, self.length) + 1)
        return self.dice.permutation(self.length)[:count].tolist()

    def some_worlds(self) -> Tensor:
        """(B, L) a random world for each example."""
        places = self.dice.integers(len(self.worlds.worlds), size=self.batch)
        return torch.as_tensor(self.worlds.worlds[places])

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.dice.integers(2**31)))


def check_likelihoods(trial: Trial) -> None:
    worlds, tally = trial.worlds, trial.tally
    with np.errstate(divide="ignore"):
        tally.compare(
            "log_evidence", pc.queries.log_evidence(*trial.given), np.log(worlds.weights.sum(1))
        )
        values = trial.some_worlds()
        asked = torch.as_tensor(trial.dice.random(values.shape) < 0.5)
        match = (worlds.worlds == values.numpy()[:, None]) | ~asked.numpy()[:, None]
        plan, parameters, evidence = trial.given
        expected = np.log((worlds.posterior * match.all(2)).sum(1))
        found = pc.queries.log_conditional(plan, parameters, values, asked, evidence)
        tally.compare("log_conditional", found, expected)
        if evidence.batch_size == trial.batch:
            found = pc.queries.conditional_log_likelihood(plan, parameters, values, evidence)
            place = worlds.place(values)
            tally.compare(
                "conditional_log_likelihood",
                found,
                np.log(worlds.posterior[np.arange(trial.batch), place]),
            )
        if not evidence.latent_log_potentials:
            found = pc.queries.log_likelihood(plan, parameters, values, asked)
            tally.compare("log_likelihood", found, np.log((worlds.bare * match.all(2)).sum(1)))


def check_marginals(trial: Trial) -> None:
    worlds, tally = trial.worlds, trial.tally
    found = pc.queries.marginals(*trial.given)
    for variable in range(trial.length):
        size = worlds.categories[variable]
        tally.compare("marginals", found[:, variable, :size], worlds.table([variable]))
        tally.holds("marginals", not found[:, variable, size:].any())
    others = worlds.bare[:, None] * np.stack(
        [np.delete(worlds.factors, i, axis=2).prod(2) for i in range(trial.length)], axis=1
    )
    alone = np.zeros(found.shape)
    for variable in range(trial.length):
        at = (slice(None), worlds.worlds[:, variable])
        np.add.at(alone[:, variable], at, others[:, variable])
    alone /= alone.sum(-1, keepdims=True)
    tally.compare("leave_one_out", pc.queries.leave_one_out(*trial.given), alone)


def check_latent_marginals(trial: Trial) -> None:
    """Of one node: log Z with each of its units alone, by enumeration."""
    case = trial.case
    nodes = list(case.circuit.node_names.items())
    node, name = nodes[trial.dice.integers(len(nodes))]
    given = dict(case.evidence.latent_log_potentials or {})
    own = given.get(name, torch.zeros(trial.batch, node.num_units, dtype=torch.float64))
    shares = []
    for factor in (1.0, 2.0):
        for unit in range(node.num_units):
            scaled = own.clone()
            scaled[:, unit] += np.log(factor)
            spread = _spread(case.evidence, trial.batch)
            evidence = pc.Evidence(
                spread.values,
                spread.observed,
                spread.log_potentials,
                {**(spread.latent_log_potentials or {}), name: scaled},
                spread.categories,
            )
            shares.append(oracle_of(Case(case.circuit, case.parameters, evidence)).weights.sum(1))
    once, twice = np.stack(shares, 1).reshape(trial.batch, 2, -1).transpose(1, 0, 2)
    # log Z is linear in each unit's factor.
    found = pc.queries.latent_marginals(*trial.given, [name])[name]
    trial.tally.compare("latent_marginals", found, (twice - once) / once)


def _spread(evidence: pc.Evidence, batch: int) -> pc.Evidence:
    return map_evidence(evidence, lambda t: t.expand(batch, *t.shape[1:]))


def check_tables(trial: Trial) -> None:
    worlds, tally = trial.worlds, trial.tally
    names = trial.some_variables(3)
    tally.compare(
        "joint_marginal", pc.queries.joint_marginal(*trial.given, names), worlds.table(names)
    )
    pairs = [tuple(trial.dice.integers(trial.length, size=2).tolist()) for _ in range(3)]
    joint = pc.queries.pairwise_marginals(*trial.given, pairs)
    for place, (i, j) in enumerate(pairs):
        a, b = worlds.categories[i], worlds.categories[j]
        single = worlds.table([i])
        expected = worlds.table([i, j]) if i != j else single[:, :, None] * np.eye(a)
        tally.compare("pairwise_marginals", joint[:, place, :a, :b], expected)
    if len(names) > 1:
        found = pc.queries.conditional(*trial.given, names[1:], names[:1])
        table = worlds.table(names)
        total = table.sum(tuple(range(2, table.ndim)), keepdims=True)
        tally.compare("conditional", found, table / np.where(total > 0, total, 1.0))


def check_moments(trial: Trial) -> None:
    worlds, tally = trial.worlds, trial.tally
    plan, parameters, evidence = trial.given
    shape = (2, trial.length, plan.num_categories)
    functions = trial.dice.normal(size=shape)
    values = worlds.additive(functions)
    mean = worlds.posterior @ values.T
    second = np.einsum("bw,fw,gw->bfg", worlds.posterior, values, values)
    expected = second - mean[:, :, None] * mean[:, None]
    tables = torch.as_tensor(functions)
    tally.compare("expectation", pc.queries.expectation(plan, parameters, tables, evidence), mean)
    tally.compare("covariance", pc.queries.covariance(plan, parameters, tables, evidence), expected)
    found = pc.queries.variance(plan, parameters, tables[0], evidence)
    tally.compare("variance", found, np.maximum(expected[:, 0, 0], 0))


def check_information(trial: Trial) -> None:
    worlds, tally = trial.worlds, trial.tally
    plan, parameters, evidence = trial.given
    expected = np.zeros((trial.batch, trial.length, trial.length))
    for i in range(trial.length):
        expected[:, i, i] = worlds.entropy([i])
        for j in range(i):
            shared = worlds.information([i], [j], [])
            expected[:, i, j] = expected[:, j, i] = shared
    tally.compare("mutual_information", pc.queries.mutual_information(*trial.given), expected)
    names = trial.some_variables(4)
    if len(names) < 2:
        return
    first, second, given = names[:1], names[1:2], names[2:]
    found = pc.queries.conditional_mutual_information(
        plan, parameters, first, second, given, evidence
    )
    tally.compare("conditional_mutual_information", found, worlds.information(first, second, given))
    targets = names[: trial.dice.integers(1, len(names))]
    best = pc.queries.most_informative(plan, parameters, targets, evidence)
    scores = np.stack([worlds.information([c], targets, []) for c in best.candidates], axis=1)
    tally.compare("most_informative", best.information, scores)
    tally.compare("most_informative", best.target_entropy, worlds.entropy(targets))
    for row, variable in enumerate(best.variable.tolist()):
        if variable >= 0:
            own = scores[row, best.candidates.index(variable)]
            mask = evidence.mask()
            free = [mask is None or not bool(mask[row % len(mask), c]) for c in best.candidates]
            tally.holds("most_informative", own >= scores[row][free].max() - 1e-9)


def check_map(trial: Trial) -> None:
    worlds, tally = trial.worlds, trial.tally
    best = worlds.weights.max(1)
    for method in ("max_product", "local_search", "branch_and_bound"):
        found = pc.queries.map(*trial.given, method=method, restarts=1, generator=trial.generator())
        own = worlds.weights[np.arange(trial.batch), worlds.place(found.values)]
        tally.compare("map", found.log_probability, np.log(own))
        tally.holds("map", (found.upper_bound.numpy() >= np.log(best) - 1e-9).all())
        exact = found.exact.numpy()
        tally.compare("map", found.log_probability[found.exact], np.log(best[exact]))
        deterministic = pc.validate(trial.case.circuit).deterministic
        tally.holds("map", exact.all() or not (deterministic or method == "branch_and_bound"))


def check_entropy(trial: Trial) -> None:
    expected, tally = entropy(trial.worlds.posterior), trial.tally
    pairwise = bool(trial.dice.integers(2))
    found = pc.queries.entropy(*trial.given, pairwise=pairwise)
    exact = found.exact
    tally.compare("entropy", found.upper_bound[exact], expected[exact.numpy()])
    tally.compare("entropy", found.lower_bound[exact], expected[exact.numpy()])
    tally.holds("entropy", (found.lower_bound.numpy() <= expected + 1e-9).all())
    tally.holds("entropy", (found.upper_bound.numpy() >= expected - 1e-9).all())
    tally.holds("entropy", exact.all() or not pc.validate(trial.case.circuit).deterministic)


def check_divergence(trial: Trial) -> None:
    """Of the same circuit under this evidence and under none."""
    plan, parameters, evidence = trial.given
    circuit, tally = trial.case.circuit, trial.tally
    nothing = oracle_of(Case(circuit, parameters, pc.Evidence()))
    if not (nothing.weights.sum(1) > 0).all():
        return
    known = pc.validate(circuit).deterministic and compatible(circuit, circuit)
    arguments = (plan, parameters, plan, parameters, evidence)
    if not known:
        try:
            pc.queries.kl_divergence(*arguments)
        except pc.errors.StructureError as error:
            tally.holds("kl_divergence", "no exact value" in str(error))
            return
        # Zero weights made it deterministic.
    p, q = np.broadcast_arrays(trial.worlds.posterior, nothing.posterior)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossed = -np.where(p > 0, p * np.log(q), 0.0).sum(1)
    found = pc.queries.cross_entropy(*arguments)
    tally.compare("cross_entropy", found.value, crossed)
    found = pc.queries.kl_divergence(*arguments)
    tally.compare("kl_divergence", found.value, np.maximum(crossed - entropy(p), 0))


def check_samples(trial: Trial) -> None:
    """Only worlds that are possible; their frequencies have a test of their own."""
    drawn = pc.queries.sample(
        trial.plan, trial.case.parameters, 4, trial.case.evidence, generator=trial.generator()
    )
    for row, samples in enumerate(drawn.view(trial.batch, 4, -1)):
        weights = trial.worlds.weights[row, trial.worlds.place(samples)]
        trial.tally.holds("sample", (weights > 0).all())


def check_gradients(trial: Trial) -> None:
    """One number of each parameter, by an imaginary step: no difference, so no rounding."""
    plan, parameters, evidence = trial.given
    found = pc.queries.gradients(plan, parameters, evidence)
    tally, worlds = trial.tally, trial.worlds
    tally.compare("gradients", found.log_evidence, np.log(worlds.weights.sum(1)))
    for name, tensor in parameters.items():
        at = tuple(trial.dice.integers(tensor.shape).tolist())
        step = torch.zeros(tensor.shape, dtype=torch.complex128)
        step[at] = 1e-30j
        changed = {**parameters, name: tensor + step}
        total = oracle_of(Case(trial.case.circuit, changed, evidence)).weights.sum(1)
        expected = (total.imag / total.real).sum() / 1e-30
        tally.compare("gradients", found.parameters[name][at], expected)
    if evidence.log_potentials is None:
        single = pc.queries.marginals(*trial.given)
        mask = evidence.mask()
        kept = single if mask is None else single.masked_fill(mask[..., None], 0.0)
        tally.compare("gradients", found.log_potentials, kept.numpy())


CHECKS: tuple[Callable[[Trial], None], ...] = (
    check_likelihoods,
    check_marginals,
    check_latent_marginals,
    check_tables,
    check_moments,
    check_information,
    check_map,
    check_entropy,
    check_divergence,
    check_samples,
    check_gradients,
)
