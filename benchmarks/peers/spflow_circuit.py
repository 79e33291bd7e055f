"""SPFlow: a balanced binary tree of its own modules; it normalises its weights at every call."""

from __future__ import annotations

import torch
from spflow.meta.data import Scope
from spflow.modules.einsum.einsum_layer import EinsumLayer
from spflow.modules.leaves.categorical import Categorical
from spflow.modules.ops.split import SplitMode
from spflow.modules.products.elementwise_product import ElementwiseProduct
from spflow.modules.sums.sum import Sum
from torch import Tensor

from benchmarks.peers import Contender, NotApplicableError, ours
from benchmarks.plain import stacked_tree, unstacked_tree
from benchmarks.suite import BACKWARD, FORWARD, SAMPLING, Work


def contender(work: Work, pass_: str) -> Contender:
    """Log-likelihoods and gradients in its logits."""
    if not work.case.family.startswith("binary tree") or work.device.type != "cpu":
        raise NotApplicableError("trees on the CPU: other structures have no copy of parameters")
    pairs = work.case.family.endswith("all pairs")
    layers = _layers(work, pairs)
    model = layers[-1].eval()
    rows = work.values.float()
    if pass_ == FORWARD:
        forward = torch.no_grad()(lambda: model.log_likelihood(rows).flatten())
        return Contender(forward, forward)
    if pass_ == SAMPLING:
        sample = torch.no_grad()(lambda number: model.sample(num_samples=number))
        return Contender(lambda: sample(ours.NUM_SAMPLES), lambda: sample(ours.CHECKED_SAMPLES))
    if pass_ != BACKWARD:
        raise NotApplicableError("no single step of EM; all variables are observed")

    def call() -> None:
        model.zero_grad(set_to_none=True)
        model.log_likelihood(rows).sum().backward()

    def result() -> dict[str, Tensor]:
        call()
        inputs, *sums = layers
        levels = [_as_input(inputs._logits.grad)]
        levels += [_as_level(layer.logits.grad, pairs) for layer in sums]
        return unstacked_tree([*levels[:-1], levels[-1].flatten()])

    return Contender(call, result)


def _layers(work: Work, pairs: bool) -> list[torch.nn.Module]:
    length = work.plan.num_variables
    inputs, *sums, root = stacked_tree(work.log_parameters, length)
    _, units, categories = inputs.shape
    layer = Categorical(Scope(list(range(length))), out_channels=units, K=categories)
    layer.logits = inputs.reshape(layer._logits.shape).clone()
    layers: list[torch.nn.Module] = [layer]
    halves = SplitMode.interleaved(num_splits=2)
    for weights in [*sums, root[None, None]]:
        if pairs:
            layer = EinsumLayer(layers[-1], out_channels=weights.shape[1], split_mode=halves)
            logits = weights.unflatten(-1, (units, units))[:, :, None]
        else:
            products = ElementwiseProduct(layers[-1], split_mode=halves)
            layer = Sum(products, out_channels=weights.shape[1])
            logits = weights.transpose(1, 2)[..., None]
        layer.log_weights = logits.clone()
        layers.append(layer)
    return layers


def _as_input(gradient: Tensor) -> Tensor:
    """(L, K, V)."""
    return gradient.reshape(gradient.shape[0], gradient.shape[1], -1)


def _as_level(gradient: Tensor, pairs: bool) -> Tensor:
    """(F, K, C)."""
    return gradient[:, :, 0].flatten(-2) if pairs else gradient[..., 0].transpose(1, 2)
