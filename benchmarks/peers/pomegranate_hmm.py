"""pomegranate: dense hidden Markov models in PyTorch."""

from __future__ import annotations

import torch
from pomegranate.distributions import Categorical
from pomegranate.hmm import DenseHMM
from torch import Tensor

from benchmarks.peers import Contender, NotApplicableError
from benchmarks.suite import EM, FORWARD, MARGINALS, Work


def contender(work: Work, pass_: str) -> Contender:
    """Log-probabilities, posteriors, and a step of EM (which includes making the model)."""
    if work.case.family != "HMM" or work.evidence.values is None or work.device.type != "cpu":
        raise NotApplicableError("hidden Markov models with observed values on the CPU")
    values = work.values[:, :, None]
    if pass_ == FORWARD:
        model = _model(work)
        forward = torch.no_grad()(lambda: model.log_probability(values))
        return Contender(forward, forward)
    if pass_ == MARGINALS:
        model = _model(work)
        states = torch.no_grad()(lambda: model.predict_proba(values))
        return Contender(states, lambda: states().transpose(0, 1), "of the states")
    if pass_ == EM:
        step = torch.no_grad()(lambda: _step(work, values))
        return Contender(step, step, "with making the model")
    raise NotApplicableError("no gradients in its parameters; samples one by one")


def _model(work: Work) -> DenseHMM:
    initial, transition, emission = (
        work.log_parameters[name].exp() for name in ("initial", "transition", "emission")
    )
    model = DenseHMM(
        [Categorical(row[None]) for row in emission],
        edges=transition,
        starts=initial,
        # Any state may end a sequence, at no cost.
        ends=torch.ones_like(initial),
    )
    return model


def _step(work: Work, values: Tensor) -> dict[str, Tensor]:
    model = _model(work)
    model.summarize(values)
    model.from_summaries()
    return {
        "initial": model.starts.exp(),
        "transition": model.edges.exp() / model.edges.exp().sum(-1, keepdim=True),
        "emission": torch.cat([d.probs for d in model.distributions]),
    }
