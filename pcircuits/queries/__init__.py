"""Exact queries, each a function of (plan, parameters, evidence)."""

from pcircuits.queries.information import mutual_information
from pcircuits.queries.likelihood import conditional_log_likelihood, log_evidence, log_likelihood
from pcircuits.queries.marginals import (
    latent_marginals,
    leave_one_out,
    log_leave_one_out,
    marginals,
    pairwise_marginals,
)
from pcircuits.queries.sampling import sample

__all__ = [
    "conditional_log_likelihood",
    "latent_marginals",
    "leave_one_out",
    "log_evidence",
    "log_leave_one_out",
    "log_likelihood",
    "marginals",
    "mutual_information",
    "pairwise_marginals",
    "sample",
]
