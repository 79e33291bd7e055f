"""A circuit under evidence to which values are added one by one, as in any-order decoding."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, prepare_for
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.weights import Weights
from pcircuits.queries.asked import Asked, listed_of
from pcircuits.queries.entries import Pairs, category_weights, input_columns
from pcircuits.queries.lazy import LazyValues
from pcircuits.queries.path import PathValues, path_of
from pcircuits.queries.routes import routes_of


class Conditioner:
    """Posterior marginals while variables are fixed, without evaluating the circuit anew.

    It keeps the value of every node and the message from the root to it. Fixing a variable spoils
    the values on its path to the root and the messages beside that path, and what is asked next
    computes of them only what it needs. On a chain from left to right that is one step of the
    chain for each variable; in a balanced tree a value needs one path to the root. Marginals are
    exact and equal to those of `marginals` given the same evidence. No gradient flows.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name, or prepared.
        evidence: Evidence of any kind to begin with, about B examples.

    Attributes:
        plan: The plan.
        batch_size: Number of examples B.

    Raises:
        EvidenceError: If the evidence does not fit the circuit.
        ParameterError: If the parameters do not.

    Examples:
        Three variables that are equal; one value after the other is fixed:

        >>> rows = torch.tensor([[0, 0, 0], [1, 1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> conditioner = pc.queries.Conditioner(model.plan, model.log_parameters(), pc.Evidence())
        >>> conditioner.marginals()[0, :, 1]
        tensor([0.5000, 0.5000, 0.5000], dtype=torch.float64)
        >>> conditioner.fix(torch.tensor([1]), torch.tensor([1]))  # variable 1 has value 1
        >>> conditioner.marginals()[0, :, 1]
        tensor([1., 1., 1.], dtype=torch.float64)
        >>> conditioner.log_value().exp()
        tensor([0.5000], dtype=torch.float64)
    """

    @torch.no_grad()
    def __init__(self, plan: Plan, parameters: Parameters, evidence: Evidence) -> None:
        check_evidence(plan, evidence)
        self.plan = plan
        self._prepared = prepare_for(plan, parameters, evidence).detach()
        self.batch_size = joint_batch_size(self._prepared, evidence)
        self._routes, path = routes_of(plan), path_of(plan)
        self._lazy = (
            LazyValues(plan, self._prepared, evidence)
            if path is None
            else PathValues(plan, path, self._prepared, evidence)
        )
        self._device, dtype = self._lazy.device, self._prepared.dtype
        # Variables first, as the inputs' folds: the rows of one variable lie together.
        potentials, categories = evidence.log_potentials, evidence.categories
        self._potentials = None if potentials is None else potentials.to(dtype).transpose(0, 1)
        self._categories = None if categories is None else categories.long().transpose(0, 1)
        self._examples, self._sizes = np.arange(self.batch_size), np.array(plan.circuit.categories)
        self._listed = listed_of(plan, self._prepared, self._potentials, self._categories)
        # What is known is asked on the host, where it is decided what to compute.
        self._observed = np.zeros((self.batch_size, plan.num_variables), dtype=bool)
        self._values = np.zeros(self._observed.shape, dtype=np.int64)
        mask = evidence.mask()
        if mask is not None and evidence.values is not None:
            self._observed |= mask.cpu().numpy()
            self._values += torch.where(mask, evidence.values, 0).cpu().numpy()

    @property
    def observed(self) -> Tensor:
        """(B, L) bool, True where a variable has a value by now."""
        return torch.tensor(self._observed, device=self._device)

    @property
    def values(self) -> Tensor:
        """(B, L) values of these variables; 0 elsewhere."""
        return torch.tensor(self._values, device=self._device)

    @torch.no_grad()
    def fix(self, variables: Tensor, values: Tensor, rows: Tensor | None = None) -> None:
        """Gives one variable of each example a value, in place of what was known of it.

        Args:
            variables: (B,) integers 0 .. L-1.
            values: (B,) integers, categories of these variables.
            rows: (B,) bool, examples in which this is done; default all. What the others' entries
                are does not matter.

        Raises:
            EvidenceError: If shapes differ or a variable or a value is out of range.
        """
        asked = self._one_each(variables, rows)
        own = self._host("values", values)[asked.examples]
        self._check_values(asked, own)
        self._observed[asked.examples, asked.variables] = True
        self._values[asked.examples, asked.variables] = own
        listed = self._categories is not None
        for i, by_variable in self._routes.input_folds.items():
            for folds in by_variable[asked.variables].T:
                there = folds >= 0
                if there.any():
                    at = (folds[there], asked.examples[there])
                    leaves = input_columns(self._table(i), *at, own[there], listed=listed)
                    self._lazy.change_leaves(i, *at, leaves)
        self._lazy.spoil(set(asked.variables.tolist()))

    @torch.no_grad()
    def log_value(self) -> Tensor:
        """(B,) as `forward` of the evidence by now; -inf where it is impossible."""
        return self._lazy.root()[0, :, 0].clone()

    @torch.no_grad()
    def marginals(self, wanted: Tensor | None = None) -> Tensor:
        """Posteriors of variables given the evidence by now.

        Args:
            wanted: (B, L) bool, which variables of which examples; default all. The others take no
                time, and their rows are zero.

        Returns:
            (B, L, V), one-hot where a variable has a value; if the evidence to begin with listed
            categories (B, L, k), of these categories in the order listed. Rows sum to one, but
            those of variables with a value that is not listed are zero.

        Raises:
            EvidenceError: If the shape is wrong or the evidence is impossible.
        """
        shape = self._observed.shape
        mask = np.ones(shape, dtype=bool) if wanted is None else wanted.cpu().numpy()
        if mask.shape != shape or mask.dtype != bool:
            raise EvidenceError(
                f"wanted must be bool of shape {shape}; found {mask.dtype} of {mask.shape}"
            )
        variables, examples = mask.T.nonzero()
        if not len(variables):
            return self._nothing().expand(*shape, -1).clone()
        whole = bool((mask == mask[:1]).all())
        rows = self._posteriors(Asked(variables, examples, shape[0] if whole else None))
        if len(rows) == mask.size:
            return rows.view(shape[1], shape[0], -1).transpose(0, 1)
        found = rows.new_zeros(*shape, rows.shape[-1])
        found[examples, variables] = rows
        return found

    @torch.no_grad()
    def marginal(self, variables: Tensor, rows: Tensor | None = None) -> Tensor:
        """Posterior of one variable of each example given the evidence by now.

        Args:
            variables: (B,) integers 0 .. L-1.
            rows: (B,) bool, examples in which it is wanted; default all.

        Returns:
            (B, V), or (B, k), as `marginals`; zero in the other rows.

        Raises:
            EvidenceError: If shapes differ, a variable is out of range or the evidence is
                impossible.
        """
        asked = self._one_each(variables, rows)
        if not len(asked.variables):
            return self._nothing().expand(self.batch_size, -1).clone()
        found = self._posteriors(asked)
        if len(found) == self.batch_size:
            return found
        every = found.new_zeros(self.batch_size, found.shape[1])
        every[asked.examples] = found
        return every

    def _one_each(self, variables: Tensor, rows: Tensor | None) -> Asked:
        """One variable of each example that is meant."""
        own, examples = self._host("variables", variables), self._examples
        if rows is not None:
            examples = self._host("rows", rows).nonzero()[0]
            own = own[examples]
        length = len(self._sizes)
        wrong = (own != own.clip(0, length - 1)).nonzero()[0]
        if len(wrong):
            raise EvidenceError(
                f"variables[{examples[wrong[0]]}] is {own[wrong[0]]}; the circuit has variables "
                f"0 .. {length - 1}"
            )
        whole = len(own) == self.batch_size and bool((own == own[:1]).all())
        return Asked(own, examples, self.batch_size if whole else None)

    def _host(self, name: str, tensor: Tensor) -> np.ndarray:
        if tuple(tensor.shape) != (self.batch_size,):
            raise EvidenceError(
                f"{name} has shape {tuple(tensor.shape)}; expected ({self.batch_size},), one for "
                f"each example"
            )
        found: np.ndarray = tensor.cpu().numpy()
        return found

    def _check_values(self, asked: Asked, values: np.ndarray) -> None:
        sizes = self._sizes[asked.variables]
        wrong = (values != values.clip(0, sizes - 1)).nonzero()[0]
        if len(wrong):
            first = wrong[0]
            raise EvidenceError(
                f"values[{asked.examples[first]}] is {values[first]}; variable "
                f"{asked.variables[first]} has categories 0 .. {sizes[first] - 1}"
            )

    def _table(self, layer: int) -> Weights:
        weights = self._prepared.weights[layer]
        assert isinstance(weights, Weights)
        return weights

    def _nothing(self) -> Tensor:
        """(1, V) or (1, k) zeros."""
        width = self.plan.num_categories
        if self._categories is not None:
            width = self._categories.shape[2]
        return torch.zeros(1, width, device=self._device, dtype=self._prepared.dtype)

    def _posteriors(self, asked: Asked) -> Tensor:
        """(n, V) or (n, k) posteriors."""
        known = self._observed[asked.examples, asked.variables]
        if not known.any():
            return self._unknown(asked)
        found = self._one_hot(asked)
        if not known.all():
            free = torch.as_tensor((~known).nonzero()[0], device=self._device)
            found[free] = self._unknown(asked.only(~known))
        return found

    def _unknown(self, asked: Asked) -> Tensor:
        """As `_posteriors`, of variables that have no value."""
        found = self._listed_at_once(asked)
        if found is not None:
            return found
        log = self._messages_to(asked)
        if self._potentials is not None:
            log = log + asked.take(self._potentials, asked.variables)
        found = torch.softmax(log, dim=-1)
        # Not a number where all are -inf.
        if math.isnan(float(found[:, 0].sum())):
            first = int(found[:, 0].isnan().byte().argmax())
            raise EvidenceError(
                f"the evidence of example {asked.examples[first]} has probability zero; nothing "
                f"can be said of variable {asked.variables[first]}"
            )
        return found

    def _listed_at_once(self, asked: Asked) -> Tensor | None:
        """As `_unknown`, in compiled passes; None without a list, or where they may not do."""
        if self._listed is None:
            return None
        # Imported where it is used: numba takes a second to import.
        from pcircuits.execute.numba.gather import gathered_posteriors

        own, variables = self._listed, asked.variables
        folds = own.folds[variables]
        self._lazy.require_messages(folds + self._routes.start[own.layer])
        messages = self._lazy.messages[own.layer].numpy()
        lists = asked.rows(own.categories, variables), asked.rows(own.potentials, variables)
        x = np.ascontiguousarray(asked.rows(messages, folds))
        found = gathered_posteriors(x, own.columns, *lists, own.floor)
        return None if found is None else torch.from_numpy(found)

    def _messages_to(self, asked: Asked) -> Tensor:
        """(n, V) or (n, k) log-weights of categories by all but the variables' own potentials."""
        routes = self._routes
        tables = {i: folds[asked.variables] for i, folds in routes.input_folds.items()}
        nodes = [folds[folds >= 0] + routes.start[i] for i, folds in tables.items()]
        self._lazy.require_messages(np.concatenate(nodes))
        total: Tensor | None = None
        for i, folds in tables.items():
            for own in folds.T:
                part = self._through(i, own, asked)
                total = part if total is None else torch.logaddexp(total, part)
        assert total is not None
        return total

    def _through(self, i: int, folds: np.ndarray, asked: Asked) -> Tensor:
        """As `_messages_to`, through one input (or none, -1) of one layer for each entry."""
        layer, there = self.plan.layers[i], folds >= 0
        assert isinstance(layer, InputLayer)
        own, folds, width = asked.only(there), folds[there], self.plan.num_categories
        listed = None
        if self._categories is not None:
            listed = own.take(self._categories, own.variables)
            width = listed.shape[1]
        messages = own.take(self._lazy.messages[i], folds)
        part = category_weights(layer, self._table(i), Pairs(folds, own.examples, messages, listed))
        if part.shape == (len(there), width):
            return part
        found = part.new_full((len(there), width), -torch.inf)
        found[torch.as_tensor(there, device=part.device), : part.shape[1]] = part
        return found

    def _one_hot(self, asked: Asked) -> Tensor:
        values = self._values[asked.examples, asked.variables]
        values = torch.as_tensor(values, device=self._device)[:, None]
        if self._categories is None:
            hits = torch.arange(self.plan.num_categories, device=self._device) == values
        else:
            hits = asked.take(self._categories, asked.variables) == values
            hits = hits & (hits.cumsum(-1) == 1)  # of a category listed twice the first entry
        return hits.to(self._prepared.dtype)
