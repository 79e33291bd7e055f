"""What is measured: circuits, parameters, evidence, and the plain versions to hold against.

Shapes: B batch, L length, V categories, K units or states, k listed categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

import pcircuits as pc
from benchmarks import plain

LogLikelihood = Callable[[Mapping[str, Tensor], Tensor], Tensor]

OURS, PLAIN, MODEL, STACKED = "pcircuits", "plain", "model", "plain, stacked parameters"


@dataclass(frozen=True, eq=False)
class Variant:
    """One way to compute a log-likelihood.

    Attributes:
        name: Its name in the report.
        leaves: Name -> tensor that the gradient is taken for.
        function: (leaves, values) -> (B,) log-likelihoods.
        reference: An independent function of the same, called in float64.
    """

    name: str
    leaves: Mapping[str, Tensor]
    function: LogLikelihood
    reference: LogLikelihood


@dataclass(frozen=True, eq=False)
class LikelihoodCase:
    """Ways to compute the log-likelihood of the same values under the same circuit.

    Attributes:
        name: Name in the report.
        description: Sizes, in words.
        values: (B, L) integers.
        variants: `pcircuits` and `plain`, which take the same leaves, and others beside them.
    """

    name: str
    description: str
    values: Tensor
    variants: tuple[Variant, ...]


def hmm_case(
    length: int = 32,
    num_states: int = 128,
    num_categories: int = 1000,
    batch_size: int = 64,
    *,
    device: torch.device,
) -> LikelihoodCase:
    """Homogeneous hidden Markov model against the forward algorithm in plain PyTorch."""
    circuit = pc.families.hmm(length, num_states, num_categories)
    values = _values(batch_size, length, num_categories, device)
    description = (
        f"homogeneous HMM, length {length}, {num_states} states, {num_categories:,} categories, "
        f"batch {batch_size}"
    )
    variants = _variants(circuit, plain.hmm_log_likelihood, device)
    return LikelihoodCase("hmm", description, values, variants)


def binary_tree_case(
    length: int = 16,
    num_units: int = 64,
    num_categories: int = 256,
    batch_size: int = 256,
    *,
    device: torch.device,
) -> LikelihoodCase:
    """Binary tree with elementwise products against one batched product a level."""
    circuit = pc.families.binary_tree(length, num_units, num_categories)
    values = _values(batch_size, length, num_categories, device)

    def tree(leaves: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return plain.tree_log_likelihood(plain.stacked_tree(leaves, length), values)

    def stacked_tree(leaves: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return plain.tree_log_likelihood(list(leaves.values()), values)

    variants = _variants(circuit, tree, device)
    levels = plain.stacked_tree(variants[0].leaves, length)
    leaves = {f"level_{i}": level.detach().requires_grad_() for i, level in enumerate(levels)}
    stacked = Variant(STACKED, leaves, stacked_tree, stacked_tree)
    description = (
        f"binary tree, {length} variables, {num_units} units, {num_categories} categories, "
        f"elementwise products, batch {batch_size}"
    )
    return LikelihoodCase("binary tree", description, values, (*variants, stacked))


@dataclass(frozen=True)
class StepSizes:
    """Sizes of one decoding step's coupling: an HMM over the tokens, batch 1.

    Attributes:
        length: Positions L.
        num_states: States K.
        num_categories: Size of the vocabulary V.
        num_listed: Tokens k that the top-k form keeps at each position.
    """

    length: int = 32
    num_states: int = 1024
    num_categories: int = 126_464
    num_listed: int = 1024


@dataclass(frozen=True, eq=False)
class StepCase:
    """One decoding step: an HMM's parameters and a denoiser's log-probabilities.

    Attributes:
        sizes: Sizes.
        plan: The HMM's plan.
        log_parameters: `initial`, `transition`, `emission`.
        log_potentials: (1, L, V) log-probabilities of the tokens at each position.
    """

    sizes: StepSizes
    plan: pc.Plan
    log_parameters: Mapping[str, Tensor]
    log_potentials: Tensor

    def evidence(self) -> dict[str, pc.Evidence]:
        """The exact form with all tokens, and the form with the likeliest tokens alone."""
        top = self.log_potentials.topk(self.sizes.num_listed, dim=-1)
        return {
            "exact": pc.Evidence(log_potentials=self.log_potentials),
            "top-k": pc.Evidence(log_potentials=top.values, categories=top.indices),
        }


def step_case(
    sizes: StepSizes, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> StepCase:
    """Random parameters, and potentials as peaked as a denoiser's."""
    circuit = pc.families.hmm(sizes.length, sizes.num_states, sizes.num_categories)
    plan = pc.compile_circuit(circuit)
    parameters = pc.random_parameters(plan, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, sizes.length, sizes.num_categories, generator=generator)
    potentials = log_softmax(logits.to(device, dtype), dim=-1)
    return StepCase(sizes, plan, {n: p.to(device) for n, p in parameters.items()}, potentials)


def _variants(
    circuit: pc.Circuit, reference: LogLikelihood, device: torch.device
) -> tuple[Variant, ...]:
    model = pc.CircuitModel(circuit, seed=0).to(device)
    plan = model.plan
    leaves = {name: p.detach().requires_grad_() for name, p in model.log_parameters().items()}
    weights = dict(zip(plan.parameter_shapes, model.log_weights, strict=True))

    def ours(leaves: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return pc.forward(plan, leaves, pc.Evidence(values))

    def with_model(leaves: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return model.log_likelihood(values)

    def normalised(leaves: Mapping[str, Tensor], values: Tensor) -> Tensor:
        return reference({n: log_softmax(p, dim=-1) for n, p in leaves.items()}, values)

    return (
        Variant(OURS, leaves, ours, reference),
        Variant(PLAIN, leaves, reference, reference),
        Variant(MODEL, weights, with_model, normalised),
    )


def _values(batch_size: int, length: int, num_categories: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(num_categories, (batch_size, length), generator=generator).to(device)
