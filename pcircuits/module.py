"""A circuit with parameters as a thin `nn.Module`: methods call the functions of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from pcircuits import operators, queries
from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.errors import ParameterError
from pcircuits.execute.api import choose_implementation
from pcircuits.execute.choice import Choice
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters, prepare
from pcircuits.io.folder import load_folder, save_folder
from pcircuits.parameters import (
    WeightedCircuit,
    check_log_weights,
    log_of_probabilities,
    normalise_parameter,
    random_parameters,
)
from pcircuits.structure.circuit import Circuit


class CircuitModel(nn.Module):
    """A plan and its parameters.

    The module's parameters are unnormalised log-weights; every use normalises their rows, so any
    optimiser may change them freely.

    Args:
        circuit: The circuit, or a plan made from it.
        seed: Seed of the random initial parameters.
        log_weights: Initial parameters instead, name -> log-weights of the declared shape; copied.

    Raises:
        ParameterError: If a name is missing or unknown, a shape is wrong or a row cannot be
            normalised.

    Attributes:
        plan: The compiled circuit.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(length=2, num_categories=2))
        >>> tables = {"input_0": torch.tensor([[0.5, 0.5]]), "input_1": torch.tensor([[0.2, 0.8]])}
        >>> model.set_probabilities(tables)
        >>> model.log_likelihood(torch.tensor([[1, 1]])).exp().detach()  # 0.5 * 0.8
        tensor([0.4000])
        >>> second = model.condition({0: 1}).marginalise([0])  # a model again, of one variable
        >>> second.marginals(pc.Evidence()).detach()
        tensor([[[0.2000, 0.8000]]])
    """

    def __init__(
        self,
        circuit: Circuit | Plan,
        *,
        seed: int = 0,
        log_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.plan = circuit if isinstance(circuit, Plan) else compile_circuit(circuit)
        self._names = tuple(self.plan.parameter_shapes)
        if log_weights is None:
            initial = random_parameters(self.plan, seed=seed)
        else:
            given = WeightedCircuit(self.plan.circuit, log_weights).log_weights
            check_log_weights(self.plan, given)
            initial = {name: given[name].detach().clone() for name in self._names}
        # A list, since a module's parameter names may not contain dots and a circuit's may.
        self.log_weights = nn.ParameterList([initial[name] for name in self._names])

    @classmethod
    def of(cls, weighted: WeightedCircuit) -> Self:
        """A model of a circuit with the given log-weights, whose rows are normalised.

        What operators return is not normalised as a whole: take it through `operators.normalise`
        first, since to normalise rows alone would change the distribution.

        Raises:
            ParameterError: If a row cannot be normalised.

        Examples:
            >>> tree = pc.chow_liu(torch.tensor([[0, 0], [0, 0], [1, 1], [1, 0]]), pseudocount=0)
            >>> model = pc.CircuitModel.of(tree)
            >>> model.log_likelihood(torch.tensor([[1, 0]])).exp().detach()  # one row of four
            tensor([0.2500], dtype=torch.float64)
        """
        return cls(weighted.circuit, log_weights=weighted.log_weights)

    def weighted(self) -> WeightedCircuit:
        """The circuit with its normalised log-weights, detached: what operators take."""
        return WeightedCircuit(
            self.circuit, {name: log.detach() for name, log in self.log_parameters().items()}
        )

    def condition(
        self,
        values: Mapping[int, int] | None = None,
        *,
        log_potentials: Mapping[int, Sequence[float] | Tensor] | None = None,
        keep: bool = True,
    ) -> CircuitModel:
        """A model of p(x | evidence); see `operators.condition`."""
        conditioned = operators.condition(
            self.weighted(), values, log_potentials=log_potentials, keep=keep
        )
        return CircuitModel.of(operators.normalise(conditioned)[0])

    def marginalise(self, variables: Sequence[int]) -> CircuitModel:
        """A model of the other variables, renumbered in order; see `operators.marginalise`."""
        remaining = operators.marginalise(self.weighted(), variables)
        return CircuitModel.of(operators.normalise(remaining)[0])

    @property
    def circuit(self) -> Circuit:
        """The circuit."""
        return self.plan.circuit

    def log_parameters(self) -> dict[str, Tensor]:
        """Name -> normalised log-weights; gradients flow to the module's parameters."""
        return {
            name: normalise_parameter(self.plan, name, weights)
            for name, weights in zip(self._names, self.log_weights, strict=True)
        }

    @torch.no_grad()
    def set_log_parameters(self, log_weights: Mapping[str, Tensor]) -> None:
        """Replaces log-weights.

        Args:
            log_weights: Name -> log-weights of the declared shape; others stay as they are.

        Raises:
            ParameterError: If a name is unknown, a shape is wrong or a row cannot be normalised.
        """
        for name, new in log_weights.items():
            if name not in self._names:
                raise ParameterError(f"no parameter {name!r}; found {sorted(self._names)[:8]}")
            if tuple(new.shape) != self.plan.parameter_shapes[name]:
                raise ParameterError(
                    f"parameter {name!r} has shape {tuple(new.shape)}; "
                    f"expected {self.plan.parameter_shapes[name]}"
                )
        merged = dict(zip(self._names, self.log_weights, strict=True)) | dict(log_weights)
        check_log_weights(self.plan, merged)
        for name, own in zip(self._names, self.log_weights, strict=True):
            if name in log_weights:
                own.copy_(log_weights[name])

    def probabilities(self) -> dict[str, Tensor]:
        """Name -> probabilities; rows (the last axis) sum to 1."""
        return {name: log.detach().exp() for name, log in self.log_parameters().items()}

    def set_probabilities(self, probabilities: Mapping[str, Tensor]) -> None:
        """Replaces parameters by probabilities.

        Args:
            probabilities: Name -> non-negative numbers whose rows sum to 1; others stay.

        Raises:
            ParameterError: If a name is unknown or a tensor is not a set of distributions.

        Examples:
            >>> coin = pc.CircuitModel(pc.families.factorized(length=1, num_categories=2))
            >>> coin.set_probabilities({"input_0": torch.tensor([[0.3, 0.7]])})
            >>> coin.probabilities()["input_0"]
            tensor([[0.3000, 0.7000]])
            >>> coin.set_probabilities({"input_0": torch.tensor([[0.3, 0.8]])})  # raises
            Traceback (most recent call last):
                ...
            pcircuits.errors.ParameterError: row 0 of parameter 'input_0' sums to 1.1; expected 1
        """
        self.set_log_parameters(
            {n: log_of_probabilities(self.plan, n, p) for n, p in probabilities.items()}
        )

    def prepare(self) -> PreparedParameters:
        """The current parameters laid out once, for many queries in a row without gradients."""
        with torch.no_grad():
            return prepare(self.plan, self.log_parameters())

    def forward(self, evidence: Evidence) -> Tensor:
        """(B,) log Z; see `log_evidence`."""
        return self.log_evidence(evidence)

    def log_likelihood(
        self, values: Tensor, observed: Tensor | None = None, *, impl: str = "auto"
    ) -> Tensor:
        """(B,) log-probability of the observed part of values (B, L)."""
        return queries.log_likelihood(self.plan, self.log_parameters(), values, observed, impl=impl)

    def log_evidence(self, evidence: Evidence, *, impl: str = "auto") -> Tensor:
        """(B,) log of the sum over worlds of probability times potentials."""
        return queries.log_evidence(self.plan, self.log_parameters(), evidence, impl=impl)

    def implementation(self, evidence: Evidence, *, impl: str = "auto") -> Choice:
        """Which implementation evaluates this evidence, and why; can be printed."""
        return choose_implementation(self.plan, self.prepare(), evidence, impl=impl)

    def conditional_log_likelihood(self, values: Tensor, evidence: Evidence) -> Tensor:
        """(B,) log p(values | evidence) of values (B, L)."""
        return queries.conditional_log_likelihood(
            self.plan, self.log_parameters(), values, evidence
        )

    def marginals(self, evidence: Evidence) -> Tensor:
        """(B, L, V) posterior of every variable."""
        return queries.marginals(self.plan, self.log_parameters(), evidence)

    def latent_marginals(self, evidence: Evidence, nodes: Sequence[str]) -> dict[str, Tensor]:
        """Node name -> (B, K) posterior of the units of nodes."""
        return queries.latent_marginals(self.plan, self.log_parameters(), evidence, nodes)

    def leave_one_out(self, evidence: Evidence) -> Tensor:
        """(B, L, V) posterior of every variable given the evidence about all others."""
        return queries.leave_one_out(self.plan, self.log_parameters(), evidence)

    def pairwise_marginals(self, evidence: Evidence, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """(B, P, V, V) posterior of pairs of variables."""
        return queries.pairwise_marginals(self.plan, self.log_parameters(), evidence, pairs)

    def mutual_information(self, evidence: Evidence | None = None) -> Tensor:
        """(B, L, L) mutual information in nats, entropies on the diagonal."""
        return queries.mutual_information(self.plan, self.log_parameters(), evidence)

    def log_conditional(
        self, values: Tensor, queried: Tensor, evidence: Evidence | None = None
    ) -> Tensor:
        """(B,) log p(queried values | evidence) of values and mask (B, L)."""
        return queries.log_conditional(self.plan, self.log_parameters(), values, queried, evidence)

    def joint_marginal(self, evidence: Evidence | None, variables: Sequence[int]) -> Tensor:
        """(B, V, V, ...) posterior of a few variables together, an axis for each."""
        return queries.joint_marginal(self.plan, self.log_parameters(), evidence, variables)

    def conditional(
        self, evidence: Evidence | None, target: Sequence[int], given: Sequence[int] = ()
    ) -> Tensor:
        """(B, axes of the given, axes of the targets) P(target | given, evidence)."""
        return queries.conditional(self.plan, self.log_parameters(), evidence, target, given)

    def map(
        self,
        evidence: Evidence | None = None,
        *,
        method: str = "local_search",
        restarts: int = 0,
        max_steps: int = 1000,
        node_limit: int = 10_000,
        generator: torch.Generator | None = None,
    ) -> queries.MapResult:
        """Probable assignments, their log-probability, an upper bound, and where they are exact."""
        return queries.map(
            self.plan,
            self.log_parameters(),
            evidence,
            method=method,
            restarts=restarts,
            max_steps=max_steps,
            node_limit=node_limit,
            generator=generator,
        )

    def expectation(self, functions: Tensor, evidence: Evidence | None = None) -> Tensor:
        """(B,) or (B, F) expectations of additive functions (L, V) or (F, L, V)."""
        return queries.expectation(self.plan, self.log_parameters(), functions, evidence)

    def variance(self, functions: Tensor, evidence: Evidence | None = None) -> Tensor:
        """(B,) or (B, F) variances of additive functions."""
        return queries.variance(self.plan, self.log_parameters(), functions, evidence)

    def covariance(self, functions: Tensor, evidence: Evidence | None = None) -> Tensor:
        """(B, F, F) covariances of additive functions (F, L, V)."""
        return queries.covariance(self.plan, self.log_parameters(), functions, evidence)

    def entropy(
        self,
        evidence: Evidence | None = None,
        *,
        num_samples: int = 0,
        pairwise: bool = False,
        generator: torch.Generator | None = None,
    ) -> queries.Entropy:
        """Entropy in nats with bounds: exact, or estimated if samples are asked for."""
        return queries.entropy(
            self.plan,
            self.log_parameters(),
            evidence,
            num_samples=num_samples,
            pairwise=pairwise,
            generator=generator,
        )

    def conditional_mutual_information(
        self,
        first: Sequence[int],
        second: Sequence[int],
        given: Sequence[int] = (),
        evidence: Evidence | None = None,
    ) -> Tensor:
        """(B,) information in nats between sets of variables given others and the evidence."""
        return queries.conditional_mutual_information(
            self.plan, self.log_parameters(), first, second, given, evidence
        )

    def most_informative(
        self,
        targets: int | Sequence[int],
        evidence: Evidence | None = None,
        candidates: Sequence[int] | None = None,
    ) -> queries.MostInformative:
        """The variable whose value tells most about the targets, and the score of each."""
        return queries.most_informative(
            self.plan, self.log_parameters(), targets, evidence, candidates
        )

    def kl_divergence(
        self,
        other: CircuitModel,
        evidence: Evidence | None = None,
        other_evidence: Evidence | None = None,
        *,
        num_samples: int = 0,
        generator: torch.Generator | None = None,
    ) -> queries.Divergence:
        """Kullback-Leibler divergence to another model: exact, or estimated on request."""
        return queries.kl_divergence(
            self.plan,
            self.log_parameters(),
            other.plan,
            other.log_parameters(),
            evidence,
            other_evidence,
            num_samples=num_samples,
            generator=generator,
        )

    def cross_entropy(
        self,
        other: CircuitModel,
        evidence: Evidence | None = None,
        other_evidence: Evidence | None = None,
        *,
        num_samples: int = 0,
        generator: torch.Generator | None = None,
    ) -> queries.Divergence:
        """Cross-entropy to another model: exact, or estimated on request."""
        return queries.cross_entropy(
            self.plan,
            self.log_parameters(),
            other.plan,
            other.log_parameters(),
            evidence,
            other_evidence,
            num_samples=num_samples,
            generator=generator,
        )

    def gradients(self, evidence: Evidence | None = None) -> queries.Gradients:
        """Derivatives of log Z in parameters and potentials."""
        return queries.gradients(self.plan, self.log_parameters(), evidence)

    def sample(
        self,
        num_samples: int,
        evidence: Evidence | None = None,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Tensor:
        """(num_samples, L) exact samples, or (B, num_samples, L) with evidence."""
        return queries.sample(
            self.plan,
            self.log_parameters(),
            num_samples,
            evidence,
            temperature=temperature,
            generator=generator,
        )

    def save(self, path: str | Path) -> None:
        """Writes circuit and parameters to a folder; see `docs/reference/file-format.md`."""
        save_folder(path, self.circuit, self.log_parameters())


def load(path: str | Path) -> CircuitModel:
    """Reads a model that `CircuitModel.save` wrote.

    Args:
        path: The folder.

    Returns:
        The model, with the stored floating-point type.

    Raises:
        FormatError: If it is not there, damaged, or of another format or version.
        ParameterError: If a stored row is not a distribution.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(3, num_states=2, num_categories=2))
        >>> model.save("hmm")  # a folder
        >>> rows = torch.tensor([[0, 1, 1]])
        >>> torch.equal(pc.load("hmm").log_likelihood(rows), model.log_likelihood(rows))
        True
    """
    circuit, log_weights = load_folder(path)
    return CircuitModel.of(WeightedCircuit(circuit, log_weights))
