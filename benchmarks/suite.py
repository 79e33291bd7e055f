"""The cases of `compare`: circuits and their sizes, evidence, and which passes are made over them.

Shapes: B batch, L length, V categories, K units or states, k listed categories.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

import pcircuits as pc

FORWARD, BACKWARD, EM, SAMPLING, MARGINALS = PASSES = (
    "forward",
    "forward+backward",
    "em",
    "sampling",
    "marginals",
)
_BOTH = (FORWARD, BACKWARD)


@dataclass(frozen=True)
class Case:
    """A circuit, a batch and passes.

    Attributes:
        name: Name on the command line and in the results.
        family: Name in `FAMILIES`.
        sizes: Its arguments.
        batch_size: Rows B.
        passes: Passes that are timed.
        evidence: "values", "potentials" (of all categories) or "listed" (of k categories).
        listed: k.
        sharpness: Standard deviation of the random log-weights before they are normalised. Large
            ones make most weights so small that products of linear numbers underflow.
        device: Where the case belongs: "cpu" or "cuda".
    """

    name: str
    family: str
    sizes: Mapping[str, int]
    batch_size: int
    passes: tuple[str, ...] = _BOTH
    evidence: str = "values"
    listed: int = 0
    sharpness: float = 1.0
    device: str = "cpu"

    @property
    def description(self) -> str:
        """Sizes, in words."""
        sizes = ", ".join(f"{_WORDS.get(name, name)} {n:,}" for name, n in self.sizes.items())
        known = {"values": "", "potentials": ", soft evidence"}.get(
            self.evidence, f", soft evidence of {self.listed:,} categories"
        )
        return f"{self.family}: {sizes}, batch {self.batch_size:,}{known}"


_WORDS = {"num_states": "states", "num_units": "units", "num_categories": "categories"}


def _random_tree(length: int) -> list[int]:
    """Parents of a random tree of logarithmic height."""
    chance = random.Random(0)
    return [-1, *(chance.randrange(i) for i in range(1, length))]


FAMILIES: dict[str, Callable[..., pc.Circuit]] = {
    "HMM": pc.families.hmm,
    "binary tree": pc.families.binary_tree,
    "binary tree, all pairs": lambda **sizes: pc.families.binary_tree(product="kronecker", **sizes),
    "HCLT": lambda length, num_units, num_categories: pc.families.hidden_chow_liu(
        _random_tree(length), num_units, num_categories
    ),
    "RAT": lambda length, num_units, num_categories, depth, repetitions: pc.families.rat(
        length,
        num_categories,
        depth=depth,
        repetitions=repetitions,
        num_sums=num_units,
        num_input_units=num_units,
        seed=0,
    ),
    "random trees": lambda **sizes: pc.families.random_binary_tree(seed=0, **sizes),
    "Poon-Domingos": pc.families.poon_domingos,
}


def _hmm(length: int, states: int, categories: int) -> dict[str, int]:
    return {"length": length, "num_states": states, "num_categories": categories}


def _units(length: int, units: int, categories: int, **others: int) -> dict[str, int]:
    return {"length": length, "num_units": units, "num_categories": categories, **others}


_GRID = {"height": 12, "width": 12, "step": 3, "num_units": 16, "num_categories": 256}
_GPU_GRID = {"height": 28, "width": 28, "step": 4, "num_units": 32, "num_categories": 256}
_STEP = _hmm(32, 1024, 126_464)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("hmm", "HMM", _hmm(32, 128, 1000), 64, PASSES),
        Case("hmm-sharp", "HMM", _hmm(32, 128, 1000), 64, sharpness=60.0),
        Case("hmm-long", "HMM", _hmm(512, 64, 1000), 32),
        Case("hmm-wide", "HMM", _hmm(32, 512, 1000), 64),
        Case("hmm-vocabulary", "HMM", _hmm(32, 128, 50_000), 64),
        Case("hmm-one", "HMM", _hmm(32, 128, 1000), 1),
        Case("hmm-soft", "HMM", _hmm(32, 128, 1000), 16, (*_BOTH, MARGINALS), "potentials"),
        Case("hmm-listed", "HMM", _hmm(32, 128, 1000), 16, (*_BOTH, MARGINALS), "listed", 64),
        Case("tree", "binary tree", _units(16, 64, 256), 256, (*_BOTH, EM, SAMPLING)),
        Case("tree-pairs", "binary tree, all pairs", _units(16, 64, 256), 256),
        Case("hclt", "HCLT", _units(64, 64, 2), 256, (*_BOTH, EM, SAMPLING, MARGINALS)),
        Case("rat", "RAT", _units(64, 16, 2, depth=4, repetitions=8), 256, (*_BOTH, EM, SAMPLING)),
        Case("poon-domingos", "Poon-Domingos", _GRID, 64, (*_BOTH, EM)),
        Case("hmm-1024", "HMM", _hmm(32, 1024, 1000), 256, PASSES, device="cuda"),
        Case("hclt-256", "HCLT", _units(64, 256, 256), 256, (*_BOTH, EM), device="cuda"),
        Case(
            "rat-256",
            "random trees",
            _units(64, 256, 256, repetitions=4),
            256,
            (*_BOTH, EM),
            device="cuda",
        ),
        Case("tree-256", "binary tree", _units(64, 256, 256), 256, device="cuda"),
        Case("tree-pairs-64", "binary tree, all pairs", _units(16, 64, 256), 256, device="cuda"),
        Case("poon-domingos-28", "Poon-Domingos", _GPU_GRID, 256, (*_BOTH, EM), device="cuda"),
        Case("step-soft", "HMM", _STEP, 1, (FORWARD,), "potentials", device="cuda"),
        Case("step-listed", "HMM", _STEP, 8, _BOTH, "listed", 1024, device="cuda"),
    )
}


def quick(case: Case) -> Case:
    """The case at sizes that take no time, to see that everything runs."""
    small = {
        "length": 8,
        "num_states": 5,
        "num_units": 4,
        "num_categories": 7,
        "height": 4,
        "width": 4,
        "step": 2,
        "depth": 2,
        "repetitions": 2,
    }
    sizes = {name: min(number, small[name]) for name, number in case.sizes.items()}
    return Case(
        case.name,
        case.family,
        sizes,
        min(case.batch_size, 6),
        case.passes,
        case.evidence,
        min(case.listed, 3),
        case.sharpness,
        case.device,
    )


@dataclass(frozen=True, eq=False)
class Work:
    """A case with everything that the libraries are given.

    Attributes:
        case: The case.
        plan: The plan.
        log_parameters: Name -> normalised log-weights, float32.
        evidence: The batch.
        device: Where the tensors are.
        seen: Results of float64 that were computed before, by name.
    """

    case: Case
    plan: pc.Plan
    log_parameters: Mapping[str, Tensor]
    evidence: pc.Evidence
    device: torch.device
    seen: dict[str, object] = field(default_factory=dict)

    @property
    def values(self) -> Tensor:
        """(B, L) values, of a case that has them."""
        assert self.evidence.values is not None
        return self.evidence.values

    @property
    def latents(self) -> list[str]:
        """Names of the inputs, in the order of their variables."""
        names = self.plan.circuit.node_names
        return [names[node] for node in sorted(self.plan.circuit.inputs, key=lambda n: n.variable)]


def build(case: Case, device: torch.device) -> Work:
    """Compiles a case's circuit and draws its parameters and its batch."""
    plan = pc.compile_circuit(FAMILIES[case.family](**case.sizes))
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: case.sharpness * torch.randn(shape, generator=generator)
        for name, shape in plan.parameter_shapes.items()
    }
    log_parameters = {
        name: pc.normalise_parameter(plan, name, tensor).to(device)
        for name, tensor in weights.items()
    }
    evidence = _evidence(case, plan, generator, device)
    return Work(case, plan, log_parameters, evidence, device)


def _evidence(
    case: Case, plan: pc.Plan, generator: torch.Generator, device: torch.device
) -> pc.Evidence:
    shape = case.batch_size, plan.num_variables
    if case.evidence == "values":
        values = torch.randint(plan.num_categories, shape, generator=generator)
        return pc.Evidence(values.to(device))
    # As peaked as a denoiser's predictions.
    logits = 3 * torch.randn(*shape, plan.num_categories, generator=generator)
    potentials = log_softmax(logits.to(device), dim=-1)
    if case.evidence == "potentials":
        return pc.Evidence(log_potentials=potentials)
    top = potentials.topk(case.listed, dim=-1)
    return pc.Evidence(log_potentials=top.values, categories=top.indices)
