"""Exact queries, each a function of (plan, parameters, evidence).

Examples:
    `CircuitModel` has a method for most of them, which fills in plan and parameters:

    >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
    >>> rows = torch.tensor([[0, 1, 1, 0]])
    >>> by_function = pc.queries.log_likelihood(model.plan, model.log_parameters(), rows)
    >>> torch.equal(by_function, model.log_likelihood(rows))
    True
"""

from pcircuits.execute.chains import ChainMessages, ChainPasses, ChainWindow, is_chain
from pcircuits.queries.chain_passes import captured_step, chain_latents, chain_passes
from pcircuits.queries.conditional import conditional, joint_marginal, log_conditional
from pcircuits.queries.divergence import Divergence, cross_entropy, kl_divergence
from pcircuits.queries.entropy import Entropy, entropy
from pcircuits.queries.gradients import Gradients, gradients
from pcircuits.queries.incremental import Conditioner
from pcircuits.queries.information import (
    MostInformative,
    conditional_mutual_information,
    most_informative,
    mutual_information,
)
from pcircuits.queries.input_values import log_input_values
from pcircuits.queries.latents import latent_marginals
from pcircuits.queries.likelihood import conditional_log_likelihood, log_evidence, log_likelihood
from pcircuits.queries.map import MapResult, map
from pcircuits.queries.marginals import (
    leave_one_out,
    log_leave_one_out,
    marginals,
)
from pcircuits.queries.moments import covariance, expectation, variance
from pcircuits.queries.pairwise import pairwise_marginals
from pcircuits.queries.sampling import sample

__all__ = [
    "ChainMessages",
    "ChainPasses",
    "ChainWindow",
    "Conditioner",
    "Divergence",
    "Entropy",
    "Gradients",
    "MapResult",
    "MostInformative",
    "captured_step",
    "chain_latents",
    "chain_passes",
    "conditional",
    "conditional_log_likelihood",
    "conditional_mutual_information",
    "covariance",
    "cross_entropy",
    "entropy",
    "expectation",
    "gradients",
    "is_chain",
    "joint_marginal",
    "kl_divergence",
    "latent_marginals",
    "leave_one_out",
    "log_conditional",
    "log_evidence",
    "log_input_values",
    "log_leave_one_out",
    "log_likelihood",
    "map",
    "marginals",
    "most_informative",
    "mutual_information",
    "pairwise_marginals",
    "sample",
    "variance",
]
