"""Questions that `pcircuits query` answers: a new one is one entry here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from pcircuits import queries
from pcircuits.cli.codebook import Codebook
from pcircuits.cli.results import Result
from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a model.

    Attributes:
        plan: The compiled circuit.
        parameters: Its parameters.
        evidence: What is known of N examples.
        codebook: What the variables and their categories are called.
        target: Variables that are asked about, where the question has some.
        condition: Variables that are conditioned on, where the question has some.
        method: How to search for the most probable values.
        other: Another model's plan and parameters, where the question compares two.
        num_samples: Samples of an estimate; 0: none.
        generator: Source of randomness.
    """

    plan: Plan
    parameters: PreparedParameters
    evidence: Evidence
    codebook: Codebook
    target: tuple[int, ...]
    condition: tuple[int, ...]
    method: str
    other: tuple[Plan, PreparedParameters] | None
    num_samples: int
    generator: torch.Generator


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    Attributes:
        about: What it is, for the help text.
        options: Names of the options it takes.
        answer: Answers about all examples at once.
    """

    about: str
    options: tuple[str, ...]
    answer: Callable[[Question], Result]


@torch.no_grad()
def answer(kind: str, question: Question, chunk_size: int) -> Result:
    """Answers a question about all examples, some at a time.

    Args:
        kind: Its name.
        question: What is asked.
        chunk_size: Examples at a time: bounds memory, changes nothing else.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible.
        ValueError: If `chunk_size` is below one.
    """
    if chunk_size < 1:
        raise ValueError(f"--batch-size: expected at least 1; found {chunk_size}")
    parts = [KINDS[kind].answer(part) for part in _chunks(question, chunk_size)]
    columns = {
        name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns
    }
    return Result(columns, np.concatenate([part.array for part in parts]))


def _chunks(question: Question, size: int) -> Iterator[Question]:
    evidence = question.evidence
    if evidence.values is None:
        yield question
        return
    for start in range(0, len(evidence.values), size):
        rows = slice(start, start + size)
        observed = None if evidence.observed is None else evidence.observed[rows]
        yield replace(question, evidence=Evidence(evidence.values[rows], observed))


def _log_likelihood(q: Question) -> Result:
    found = _numpy(queries.log_evidence(q.plan, q.parameters, q.evidence))
    return Result({"log_likelihood": found}, found)


def _marginals(q: Question) -> Result:
    found = _numpy(queries.marginals(q.plan, q.parameters, q.evidence))
    columns = {
        f"{name}={q.codebook.label(variable, category)}": found[:, variable, category]
        for variable, name in enumerate(q.codebook.names)
        for category in range(q.plan.circuit.categories[variable])
    }
    return Result(columns, found)


def _map(q: Question) -> Result:
    found = queries.map(q.plan, q.parameters, q.evidence, method=q.method, generator=q.generator)
    values = found.values.cpu().numpy()
    columns = q.codebook.spelled(values)
    columns["log_probability"] = _numpy(found.log_probability)
    columns["upper_bound"] = _numpy(found.upper_bound)
    columns["exact"] = found.exact.cpu().numpy()
    return Result(columns, values)


def _conditional(q: Question) -> Result:
    if not q.target:
        raise EvidenceError("--query conditional needs --target, the variables it is about")
    found = _numpy(queries.conditional(q.plan, q.parameters, q.evidence, q.target, q.condition))
    variables = (*q.condition, *q.target)
    sizes = [range(q.plan.circuit.categories[variable]) for variable in variables]
    columns = {}
    for index in product(*sizes):
        texts = [
            f"{q.codebook.names[v]}={q.codebook.label(v, c)}"
            for v, c in zip(variables, index, strict=True)
        ]
        given, asked = texts[: len(q.condition)], texts[len(q.condition) :]
        title = " ".join([*asked, *(["|", *given] if given else [])])
        columns[title] = np.moveaxis(found, 0, -1)[index]
    return Result(columns, found)


def _entropy(q: Question) -> Result:
    found = queries.entropy(
        q.plan, q.parameters, q.evidence, num_samples=q.num_samples, generator=q.generator
    )
    columns = {
        "lower_bound": _numpy(found.lower_bound),
        "upper_bound": _numpy(found.upper_bound),
        "exact": found.exact.cpu().numpy(),
    }
    if found.estimate is not None and found.standard_error is not None:
        columns["estimate"] = _numpy(found.estimate)
        columns["standard_error"] = _numpy(found.standard_error)
    return Result(columns, np.stack([columns["lower_bound"], columns["upper_bound"]], 1))


def _mutual_information(q: Question) -> Result:
    found = _numpy(queries.mutual_information(q.plan, q.parameters, q.evidence))
    if len(found) == 1:
        # One example: the matrix itself is the table.
        table = {"variable": np.array(q.codebook.names)}
        table |= {name: found[0, :, j] for j, name in enumerate(q.codebook.names)}
        return Result(table, found)
    columns = {
        f"{q.codebook.names[i]} {q.codebook.names[j]}": found[:, i, j]
        for i in range(len(q.codebook.names))
        for j in range(i + 1, len(q.codebook.names))
    }
    return Result(columns, found)


def _most_informative(q: Question) -> Result:
    if not q.target:
        raise EvidenceError("--query most-informative needs --target, the variables to learn of")
    found = queries.most_informative(q.plan, q.parameters, q.target, q.evidence)
    best = found.variable.cpu().numpy()
    information = _numpy(found.information)
    columns = {"variable": np.array(["" if i < 0 else q.codebook.names[i] for i in best])}
    for place, variable in enumerate(found.candidates):
        columns[q.codebook.names[variable]] = information[:, place]
    return Result(columns, information)


def _divergence(ask: Callable[..., queries.Divergence]) -> Callable[[Question], Result]:
    """A question that compares the model with another, both given the same row."""

    def compare(q: Question) -> Result:
        if q.other is None:
            raise EvidenceError("the query compares two models and needs --other MODEL")
        found = ask(
            q.plan,
            q.parameters,
            *q.other,
            q.evidence,
            q.evidence,
            num_samples=q.num_samples,
            generator=q.generator,
        )
        value, error = _numpy(found.value), _numpy(found.standard_error)
        columns = {"value": value, "standard_error": error}
        columns["exact"] = np.full(len(value), found.exact)
        return Result(columns, value)

    return compare


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


KINDS: dict[str, Kind] = {
    "log-likelihood": Kind("log-probability of what is observed, in nats", (), _log_likelihood),
    "marginals": Kind("probabilities of every variable's categories", (), _marginals),
    "map": Kind("most probable values, with a bound", ("method",), _map),
    "conditional": Kind(
        "table of p(--target | --condition, row)", ("target", "condition"), _conditional
    ),
    "entropy": Kind(
        "entropy in nats: bounds, and an estimate from --samples", ("samples",), _entropy
    ),
    "kl-divergence": Kind(
        "from --other, in nats: exact, or an estimate from --samples",
        ("other", "samples"),
        _divergence(queries.kl_divergence),
    ),
    "cross-entropy": Kind(
        "with --other, in nats: exact, or an estimate from --samples",
        ("other", "samples"),
        _divergence(queries.cross_entropy),
    ),
    "mutual-information": Kind(
        "of all pairs of variables, in nats; entropies on the diagonal", (), _mutual_information
    ),
    "most-informative": Kind(
        "which variable tells most about --target, and the nats each tells",
        ("target",),
        _most_informative,
    ),
}
"""Name on the command line -> kind of question."""


def check_options(kind: str, given: Sequence[str]) -> None:
    """Checks that a kind of question takes the options that are given.

    Raises:
        EvidenceError: If it does not.
    """
    for name in given:
        if name not in KINDS[kind].options:
            takes = ", ".join(f"--{option}" for option in KINDS[kind].options) or "none"
            raise EvidenceError(f"--query {kind} has no --{name}; the options it takes: {takes}")
