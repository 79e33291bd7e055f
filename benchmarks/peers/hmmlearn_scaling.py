"""hmmlearn: scaled recursions in float64, one sequence after the other."""

from __future__ import annotations

import numpy as np
import torch
from hmmlearn.hmm import CategoricalHMM
from torch import Tensor

from benchmarks.expected import maximised
from benchmarks.peers import Contender, NotApplicableError, ours
from benchmarks.suite import BACKWARD, EM, FORWARD, MARGINALS, Work


def contender(work: Work, pass_: str) -> Contender:
    """Its score, the expected counts of its E-step, posteriors and samples."""
    if work.case.family != "HMM" or work.evidence.values is None or work.device.type != "cpu":
        raise NotApplicableError("hidden Markov models with observed values on the CPU")
    model = _model(work)
    batch, length = work.values.shape
    rows = work.values.numpy().reshape(-1, 1)
    lengths = [length] * batch
    note = "float64"
    if pass_ == FORWARD:
        each = lambda: torch.tensor([model.score(row[:, None]) for row in work.values.numpy()])  # noqa: E731
        return Contender(lambda: model.score(rows, lengths), each, note)
    if pass_ in (BACKWARD, EM):
        counts = lambda: _counts(model, rows, lengths)  # noqa: E731
        if pass_ == BACKWARD:
            return Contender(counts, counts, note + ", expected counts of its E-step")
        step = lambda: maximised(work.plan, counts(), work.log_parameters)  # noqa: E731
        return Contender(step, step, note)
    if pass_ == MARGINALS:
        states = lambda: model.predict_proba(rows, lengths)  # noqa: E731
        shape = batch, length, -1
        return Contender(
            states, lambda: torch.from_numpy(states()).reshape(shape).transpose(0, 1), note
        )

    def sample(number: int) -> Tensor:
        return torch.from_numpy(np.stack([model.sample(length)[0][:, 0] for _ in range(number)]))

    # Two hundred times slower than others: fewer samples are checked.
    return Contender(lambda: sample(ours.NUM_SAMPLES), lambda: sample(1000), note)


def _model(work: Work) -> CategoricalHMM:
    tables = {name: log.double().exp().numpy() for name, log in work.log_parameters.items()}
    tables = {name: table / table.sum(-1, keepdims=True) for name, table in tables.items()}
    model = CategoricalHMM(
        len(tables["initial"]), implementation="scaling", params="ste", init_params=""
    )
    model.n_features = work.plan.num_categories
    model.startprob_, model.transmat_ = tables["initial"], tables["transition"]
    model.emissionprob_ = tables["emission"]
    return model


def _counts(model: CategoricalHMM, rows: np.ndarray, lengths: list[int]) -> dict[str, Tensor]:
    found, _ = model._do_estep(rows, lengths)
    names = {"initial": "start", "transition": "trans", "emission": "obs"}
    return {name: torch.from_numpy(found[own]) for name, own in names.items()}
