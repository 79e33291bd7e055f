"""Evaluation of circuits of single nodes by compiled passes, with an exact gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import BackendError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.inputs import joint_batch_size, latent_potentials, leaf_values
from pcircuits.execute.layers import evaluate
from pcircuits.execute.numba.graph import Graph, graph_of, has_single_units
from pcircuits.execute.numba.kernels import WIDTH, downward, upward
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import AnyWeights


def why_not(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> str | None:
    """What keeps these passes from evaluating this; None if nothing does."""
    if not has_single_units(plan):
        return "some node has more than one unit"
    if any(w.log.shape[1] > 1 for w in prepared.weights.values()):
        return "parameters are given per example"
    if any(w.log.device.type != "cpu" for w in prepared.weights.values()):
        return "parameters are not on the CPU"
    if evidence.latent_log_potentials:
        return "there are latent potentials"
    return None


def log_value(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B,) log of the circuit's value under checked evidence, differentiable twice.

    A gradient of the gradient repeats the pass as ordinary operations.

    Raises:
        BackendError: If `why_not` says so.
    """
    reason = why_not(plan, prepared, evidence)
    if reason is not None:
        raise BackendError(f"impl='numba' evaluates circuits of single nodes; {reason}")
    leaves = leaf_values(plan, prepared, evidence, latent_potentials(plan, prepared, evidence))
    weights = {i: w for i, w in prepared.weights.items() if i not in leaves}
    graph = graph_of(plan, prepared.weights)
    if len(graph.starts) == 1:
        return leaves[0][0, :, 0]  # the root is an input
    distinct = {graph.weight_starts[i]: w.log for i, w in weights.items()}
    tensors = [leaves[i] for i in graph.input_layers]
    tensors += [distinct[start] for start in sorted(distinct)]
    value: Tensor = _Evaluation.apply(plan, graph, weights, *tensors)
    return value.expand(joint_batch_size(prepared, evidence))


class _Evaluation(torch.autograd.Function):
    """The inner nodes as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, graph: Graph, weights: Mapping[int, AnyWeights], *tensors: Tensor
    ) -> Tensor:
        leaves, logs = _arrays(graph, tensors)
        tiles = -(-leaves.shape[1] // WIDTH)
        keep = any(ctx.needs_input_grad)
        values = np.empty((tiles if keep else 0, graph.num_nodes, WIDTH), leaves.dtype)
        roots = np.empty(leaves.shape[1], leaves.dtype)

        def run(first: int, last: int) -> None:
            own = values if keep else np.empty((1, graph.num_nodes, WIDTH), leaves.dtype)
            structure = (graph.starts, graph.children, graph.places, logs)
            upward(leaves, *structure, own, roots, first, last)

        _in_threads(run, tiles)
        ctx.plan, ctx.graph, ctx.weights, ctx.values = plan, graph, weights, values
        ctx.save_for_backward(*tensors)
        return torch.from_numpy(roots)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        tensors: tuple[Tensor, ...] = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, None, *_differentiable_gradients(ctx, tensors, gradient))
        return (None, None, None, *_gradients(ctx.graph, ctx.values, tensors, gradient))


def _gradients(
    graph: Graph, values: np.ndarray, tensors: tuple[Tensor, ...], gradient: Tensor
) -> list[Tensor]:
    leaves, logs = _arrays(graph, tensors)
    batch = leaves.shape[1]
    dead = values[:, -1].reshape(-1)[:batch] == -np.inf
    root = np.where(dead, 0.0, gradient.numpy()).astype(leaves.dtype)
    leaf_gradient = np.empty_like(leaves)
    parts: list[np.ndarray] = []

    def run(first: int, last: int) -> None:
        own = np.zeros_like(logs)
        parts.append(own)
        structure = (graph.starts, graph.children, graph.places, logs, values)
        downward(root, *structure, leaf_gradient, own, first, last)

    _in_threads(run, len(values))
    total = torch.from_numpy(np.sum(parts, axis=0))
    split = torch.from_numpy(leaf_gradient).split([len(t) for t in _leaves(graph, tensors)])
    logs_split = total.split([t.numel() for t in tensors[len(split) :]])
    flat = [*split, *logs_split]
    return [part.reshape(t.shape) for part, t in zip(flat, tensors, strict=True)]


def _differentiable_gradients(
    ctx: Any, tensors: tuple[Tensor, ...], gradient: Tensor
) -> list[Tensor | None]:
    graph: Graph = ctx.graph
    leaves = dict(zip(graph.input_layers, tensors, strict=False))
    starts = sorted(set(graph.weight_starts.values()))
    logs = dict(zip(starts, tensors[len(leaves) :], strict=True))
    made = {start: type(ctx.weights[i])(logs[start]) for i, start in graph.weight_starts.items()}
    weights = {i: made[start] for i, start in graph.weight_starts.items()}
    root = evaluate(ctx.plan, leaves, {}, weights, False)[len(ctx.plan.layers) - 1][0, :, 0]
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    alive = gradient.masked_fill(root.detach() == -torch.inf, 0.0)
    found = iter(torch.autograd.grad(root, wanted, alive, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def _leaves(graph: Graph, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tensors[: len(graph.input_layers)]


def _arrays(graph: Graph, tensors: tuple[Tensor, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(I, B) log-values of the inputs and (W,) log-weights."""
    values = [leaf.detach()[..., 0] for leaf in _leaves(graph, tensors)]
    leaves = values[0] if len(values) == 1 else torch.cat(values)
    logs = [log.detach().reshape(-1) for log in tensors[len(graph.input_layers) :]]
    joined = torch.cat(logs) if logs else leaves.new_zeros(0)
    return leaves.contiguous().numpy(), joined.contiguous().numpy()


def _in_threads(run: Callable[[int, int], None], tiles: int) -> None:
    """Calls run(first, last) on equal ranges of tiles, as many at once as torch has threads."""
    threads = min(torch.get_num_threads(), tiles)
    ends = [tiles * part // threads for part in range(threads + 1)] if threads else [0]
    if threads <= 1:
        run(0, tiles)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, ends[:-1], ends[1:]))
