"""dynamax: its functions on log-likelihoods of the states that were gathered beforehand."""

from __future__ import annotations

import os

# One thread, as the figures are for: XLA reads this once, when jax is imported.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import torch
from dynamax.hidden_markov_model.inference import hmm_filter, hmm_smoother
from torch import Tensor

from benchmarks.expected import maximised
from benchmarks.peers import Contender, NotApplicableError
from benchmarks.programs import emissions
from benchmarks.suite import BACKWARD, EM, FORWARD, MARGINALS, Work

_NOTE = "gathered emissions ready-made"


def contender(work: Work, pass_: str) -> Contender:
    """Compiled filter and its gradient, smoother; under soft evidence the emissions are timed."""
    if work.case.family != "HMM" or work.device.type != "cpu":
        raise NotApplicableError("hidden Markov models on the CPU")
    tables = {name: log.exp().numpy() for name, log in work.log_parameters.items()}
    start, moves = jnp.asarray(tables["initial"]), jnp.asarray(tables["transition"])
    if work.evidence.log_potentials is not None:
        return _soft(work, pass_, start, moves, jnp.asarray(tables["emission"].T))
    emitted = emissions(work, work.log_parameters["emission"].T).transpose(0, 1)
    ready = jnp.asarray(emitted.contiguous().numpy())  # (B, L, K)
    if pass_ == FORWARD:
        forward = jax.jit(_log_likelihood)
        call = lambda: forward(start, moves, ready).block_until_ready()  # noqa: E731
        return Contender(call, lambda: _tensor(call()), _NOTE)
    if pass_ in (BACKWARD, EM):
        return _gradient(work, pass_, start, moves, ready)
    if pass_ == MARGINALS:
        smooth = jax.jit(
            lambda p, a, e: jax.vmap(lambda one: hmm_smoother(p, a, one).smoothed_probs)(e)
        )
        states = lambda: smooth(start, moves, ready).block_until_ready()  # noqa: E731
        return Contender(states, lambda: _tensor(states()).transpose(0, 1), _NOTE)
    raise NotApplicableError("its samples come from a class, one by one")


def _log_likelihood(start: jax.Array, moves: jax.Array, emitted: jax.Array) -> jax.Array:
    return jax.vmap(lambda one: hmm_filter(start, moves, one).marginal_loglik)(emitted)


def _gradient(
    work: Work, pass_: str, start: jax.Array, moves: jax.Array, ready: jax.Array
) -> Contender:
    gradient = jax.jit(
        jax.value_and_grad(lambda *given: _log_likelihood(*given).sum(), argnums=(0, 1, 2))
    )
    call = lambda: jax.block_until_ready(gradient(start, moves, ready))  # noqa: E731

    def counts() -> dict[str, Tensor]:
        """Gradients in log-parameters; the emissions' are summed where they were gathered."""
        _, (of_start, of_moves, of_emitted) = call()
        table = torch.zeros_like(work.log_parameters["emission"].T)
        table.index_add_(0, work.values.flatten(), _tensor(of_emitted).flatten(0, 1))
        return {
            "initial": _tensor(of_start * start),
            "transition": _tensor(of_moves * moves),
            "emission": table.T,
        }

    if pass_ == BACKWARD:
        return Contender(call, counts, _NOTE)
    step = lambda: maximised(work.plan, counts(), work.log_parameters)  # noqa: E731
    return Contender(step, step, "counts by its gradient")


def _soft(
    work: Work, pass_: str, start: jax.Array, moves: jax.Array, table: jax.Array
) -> Contender:
    """Potentials -> emissions -> filter, compiled as one; marginals are its gradient."""
    if work.evidence.categories is not None or pass_ == BACKWARD:
        raise NotApplicableError("not written")
    assert work.evidence.log_potentials is not None
    potentials = jnp.asarray(work.evidence.log_potentials.numpy())

    def log_z(given: jax.Array) -> jax.Array:
        top = given.max(-1, keepdims=True)
        return _log_likelihood(start, moves, jnp.log(jnp.exp(given - top) @ table) + top)

    function = log_z if pass_ == FORWARD else jax.grad(lambda given: log_z(given).sum())
    compiled = jax.jit(function)
    call = lambda: compiled(potentials).block_until_ready()  # noqa: E731
    return Contender(call, lambda: _tensor(call()), "compiled with the product of its emissions")


def _tensor(array: jax.Array) -> Tensor:
    return torch.from_numpy(jax.device_get(array).copy())
