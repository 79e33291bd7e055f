"""Linear space on the CPU: rows that underflow, what is refused, and what its way down gives."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numba.extending import get_cython_function_address
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import BackendError, EvidenceError
from pcircuits.execute.fused import blas, pairs, table_kernels, tables
from pcircuits.execute.fused.evaluation import input_posteriors
from pcircuits.execute.fused.forward import Evaluation
from pcircuits.execute.weights import Weights

Parameters = dict[str, Tensor]


@pytest.mark.parametrize("family", ["chain", "tree", "uneven", "pairs"])
def test_rows_that_underflow_are_computed_exactly(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Factors that are large at different units: no unit of a product survives in float32."""
    plan, parameters, values = sharp_inputs(family)
    rows = count_calls(monkeypatch, "_compute_exactly")
    found = value_and_gradients(plan, parameters, values, "fused")
    assert rows or family == "pairs", "nothing underflowed, so nothing was tested"
    double = {name: own.double() for name, own in parameters.items()}
    expected = value_and_gradients(plan, double, values, "reference")
    for name, own in expected.items():
        torch.testing.assert_close(found[name].double(), own, rtol=2e-5, atol=2e-5, msg=name)


def test_rows_that_lose_nothing_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pc.compile_circuit(pc.families.hmm(5, 8, 6))
    again = count_calls(monkeypatch, "_compute_exactly")
    evidence = pc.Evidence(torch.zeros(4, 5, dtype=torch.long))
    pc.forward(plan, pc.random_parameters(plan, seed=0), evidence, impl="fused")
    assert again == []


@pytest.mark.parametrize("evidence", ["hard", "partial", "soft"])
def test_inputs_that_are_not_learned_have_no_gradient(evidence: str) -> None:
    """Only the sums' weights are asked for: the emissions of a chain are often fixed."""
    plan = pc.compile_circuit(pc.families.hmm(4, 3, 5))
    parameters = pc.random_parameters(plan, seed=0, dtype=torch.float64)
    parameters["transition"].requires_grad_()
    values = torch.arange(8).remainder(5).reshape(2, 4)
    given = {
        "hard": pc.Evidence(values),
        "partial": pc.Evidence(values, values > 1),
        "soft": pc.Evidence(log_potentials=torch.linspace(-1, 1, 40).double().view(2, 4, 5)),
    }[evidence]
    flows = []
    for impl in ("fused", "reference"):
        value = pc.forward(plan, parameters, given, impl=impl).sum()
        flows.append(torch.autograd.grad(value, parameters["transition"])[0])
    torch.testing.assert_close(*flows)


@pytest.mark.parametrize("family", ["chain", "tree", "uneven", "pairs"])
@pytest.mark.parametrize("size", [20.0, 60.0])
def test_weights_beyond_the_range_of_float32_are_computed_in_float64(
    family: str, size: float
) -> None:
    plan, parameters, values = sharp_inputs(family)
    generator = torch.Generator().manual_seed(0)
    sharp = {n: size * torch.randn(p.shape, generator=generator) for n, p in parameters.items()}
    sharp = {name: own.log_softmax(-1) for name, own in sharp.items()}
    assert min(float(own.amin()) for own in sharp.values()) < math.log(1e-25)
    evidence = pc.Evidence(values)
    # Asked without a graph first: what is kept of that must not cut off the gradients.
    with torch.no_grad():
        prepared = pc.prepare(plan, sharp)
        assert "fused" in str(pc.choose_implementation(plan, prepared, evidence, impl="fused"))
        alone = pc.forward(plan, prepared, evidence, impl="fused")
        again = pc.forward(plan, prepared, evidence, impl="fused")
    found = value_and_gradients(plan, sharp, values, "fused")
    expected = value_and_gradients(plan, {n: p.double() for n, p in sharp.items()}, values, "eager")
    assert torch.equal(alone, again)
    torch.testing.assert_close(alone.double(), expected["value"], rtol=1e-6, atol=1e-4)
    for name, own in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), own, rtol=1e-5, atol=1e-5, msg=name)
    leaves = {n: p.clone().requires_grad_() for n, p in sharp.items()}
    pc.choose_implementation(plan, prepared := pc.prepare(plan, leaves), evidence)
    pc.forward(plan, prepared, evidence, impl="fused").sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("factor", [1.0, 20.0])
def test_few_columns_of_large_tables_are_read_alone(homogeneous: bool, factor: float) -> None:
    """Sums in float64, where weights need it, of inputs whose table stays in float32."""
    plan = pc.compile_circuit(pc.families.hmm(4, 19, 300, homogeneous=homogeneous))
    parameters = pc.random_parameters(plan, seed=0)
    for name in parameters:
        if name.startswith("transition"):
            parameters[name] = (factor * 3.0 * parameters[name]).log_softmax(-1)
    # Two variables share a category, and two rows: what both add to is one column.
    values = torch.tensor([[7, 7, 299, 0], [7, 1, 299, 2], [150, 7, 299, 0]])
    found = value_and_gradients(plan, parameters, values, "fused")
    double = {name: own.double() for name, own in parameters.items()}
    expected = value_and_gradients(plan, double, values, "reference")
    for name, own in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), own, rtol=1e-5, atol=1e-5, msg=name)
    second = second_gradients(plan, parameters, pc.Evidence(values), "fused")
    reference = second_gradients(plan, double, pc.Evidence(values), "eager")
    for one, other in zip(second, reference, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_posteriors_and_second_gradients_in_float64() -> None:
    plan, parameters, values = sharp_inputs("chain")
    sharp = {**parameters, "transition": (5.0 * parameters["transition"]).log_softmax(-1)}
    assert math.log(1e-280) < float(sharp["transition"].amin()) < math.log(1e-25)
    evidence = pc.Evidence(values)
    names = [f"state_{i}" for i in range(6)]
    places = [plan.places[name] for name in names]
    root, is_possible, own = input_posteriors(plan, pc.prepare(plan, sharp), evidence, places)
    double = pc.prepare(plan, {n: p.double() for n, p in sharp.items()})
    expected = pc.queries.latent_marginals(plan, double, evidence, names)
    assert is_possible and root.dtype == own[0].dtype == torch.float32
    for state, name in zip(own, names, strict=True):
        torch.testing.assert_close(state.double(), expected[name], rtol=1e-5, atol=1e-5)
    second = second_gradients(plan, sharp, evidence, "fused")
    reference = second_gradients(plan, {n: p.double() for n, p in sharp.items()}, evidence, "eager")
    for one, other in zip(second, reference, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sums", [1, 2, 3])
def test_posteriors_of_an_input_beside_several_sums(sums: int) -> None:
    """Of more than two factors the products are still needed when the input has its share."""
    first = pc.Input(0, num_units=3, num_categories=4, name="first")
    others = [
        pc.Sum(pc.Input(i, num_units=5, num_categories=4, name=f"input_{i}"), num_units=3)
        for i in range(1, sums + 1)
    ]
    plan = pc.compile_circuit(pc.Circuit(pc.Sum(pc.Product(first, *others), num_units=1)))
    parameters = pc.random_parameters(plan, seed=4, dtype=torch.float64)
    evidence = pc.Evidence(torch.tensor([[0, 3, 1, 2], [2, 1, 1, 0]])[:, : sums + 1])
    names = ["first", *(f"input_{i}" for i in range(1, sums + 1))]
    places = [plan.places[name] for name in names]
    root, is_possible, found = input_posteriors(
        plan, pc.prepare(plan, parameters), evidence, places
    )
    torch.testing.assert_close(root, pc.forward(plan, parameters, evidence, impl="reference"))
    assert is_possible
    expected = pc.queries.latent_marginals(plan, parameters, evidence, names)
    for name, own in zip(names, found, strict=True):
        torch.testing.assert_close(own, expected[name])


@pytest.mark.parametrize(
    "circuit",
    [
        pc.families.hmm(5, 8, 6),
        pc.families.hidden_chow_liu([-1, 0, 1, 1, 0], 8, 6),
        pc.families.mixture(5, 8, 6),
        pc.families.binary_tree(5, 8, 6),
        pc.families.binary_tree(5, 3, 6, product="kronecker"),
    ],
)
def test_posteriors_of_inputs_outlive_later_calls(circuit: pc.Circuit) -> None:
    """Products with one input, with two and with many; what was returned is not written again."""
    plan = pc.compile_circuit(circuit)
    prepared = pc.prepare(plan, pc.random_parameters(plan, seed=0))
    rows = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(1))
    evidence = [pc.Evidence(row.expand(3, -1)) for row in rows]
    names = [name for name, (layer, _) in plan.places.items() if layer in plan.input_layers]
    places = [plan.places[name] for name in names]
    kept = [input_posteriors(plan, prepared, own, places)[2] for own in evidence]
    for own, found in zip(evidence, kept, strict=True):
        expected = posteriors_by_gradient(plan, prepared, own, names)
        for posterior, gradient in zip(found, expected, strict=True):
            torch.testing.assert_close(posterior, gradient, rtol=1e-4, atol=1e-6)


def posteriors_by_gradient(
    plan: pc.Plan, prepared: pc.PreparedParameters, evidence: pc.Evidence, names: list[str]
) -> list[Tensor]:
    """Posteriors of units by the eager implementation."""
    units = [plan.layers[plan.places[name][0]].num_units for name in names]
    probes = [torch.zeros(evidence.batch_size, k, requires_grad=True) for k in units]
    given = replace(evidence, latent_log_potentials=dict(zip(names, probes, strict=True)))
    value = pc.forward(plan, prepared, given, impl="eager").sum()
    return list(torch.autograd.grad(value, probes))


def test_impossible_evidence_is_minus_infinity_with_gradient_zero() -> None:
    plan, parameters, values = sharp_inputs("chain")
    parameters["emission"][:, values[0, 1]] = -torch.inf
    found = value_and_gradients(plan, parameters, values, "fused")
    assert found["value"][0] == -torch.inf
    only = value_and_gradients(plan, parameters, values[:1], "fused")
    assert all(bool((only[name] == 0).all()) for name in parameters)


def test_posteriors_given_impossible_evidence_name_the_example() -> None:
    plan = pc.compile_circuit(pc.families.hmm(8, num_states=16, num_categories=6))
    parameters = pc.random_parameters(plan, seed=0)
    parameters["emission"][:, 2] = -torch.inf
    prepared = pc.prepare(plan, parameters)
    evidence = pc.Evidence(torch.zeros(64, 8, dtype=torch.long))
    assert pc.choose_implementation(plan, prepared, evidence).implementation == "fused"
    evidence.values[37, 5] = 2  # type: ignore[index]
    root, is_possible, (own,) = input_posteriors(plan, prepared, evidence, [plan.places["state_3"]])
    assert not is_possible and (root == -torch.inf).nonzero().tolist() == [[37]]
    assert (own[37] == 0).all()
    torch.testing.assert_close(own.sum(-1), (root > -torch.inf).float())
    with pytest.raises(EvidenceError, match=r"example 37 \(of 1 such\)"):
        pc.queries.latent_marginals(plan, prepared, evidence, ["state_3"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: {**p, "transition": with_entry(p["transition"], -torch.inf)}, "zero or nearly"),
        (lambda p: {**p, "transition": p["transition"] - 200.0}, "very large"),
        (lambda p: {**p, "transition": p["transition"][None].repeat(4, 1, 1)}, "per example"),
        (lambda p: {**p, "transition": with_entry(p["transition"], -700.0)}, "different size"),
    ],
)
def test_it_says_why_not(change: Callable[[Parameters], Parameters], reason: str) -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, 4, 5))
    parameters = change(pc.random_parameters(plan, seed=0))
    values = torch.zeros(4, 3, dtype=torch.long)
    with pytest.raises(BackendError, match=reason):
        pc.forward(plan, parameters, pc.Evidence(values), impl="fused")


def test_it_refuses_potentials_of_sums_and_other_layers() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, 4, 5))
    parameters = pc.random_parameters(plan, seed=0)
    evidence = pc.Evidence(latent_log_potentials={"step_0": torch.zeros(2, 4)})
    with pytest.raises(BackendError, match="'step_0', which is no input"):
        pc.forward(plan, parameters, evidence, impl="fused")
    mixed = pc.compile_circuit(pc.families.gated_hmm(3, 4, 5))
    parameters = pc.random_parameters(mixed, seed=0)
    with pytest.raises(BackendError, match="is not a sum over products"):
        pc.forward(mixed, parameters, pc.Evidence(torch.zeros(1, 3).long()), impl="fused")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [50.0, 44.0, 180.0])
def test_second_gradients_where_a_total_is_tiny(dtype: torch.dtype, distance: float) -> None:
    """The larger child has the smaller weight: the shifted total is exp(-distance)."""
    first, second = (pc.Input(0, num_units=1, num_categories=2, name=name) for name in "ab")
    plan = pc.compile_circuit(pc.Circuit(pc.Sum(first, second, num_units=1, parameter="w")))
    half = torch.full((1, 2), 0.5, dtype=dtype).log()
    evidence = pc.Evidence(latent_log_potentials={"b": torch.full((1, 1), -distance, dtype=dtype)})
    weights = torch.tensor([-distance, 0.0], dtype=dtype, requires_grad=True)
    value = pc.forward(plan, {"a": half, "b": half, "w": weights}, evidence, impl="eager")
    (gradient,) = torch.autograd.grad(value.sum(), weights, create_graph=True)
    (second_gradient,) = torch.autograd.grad(gradient[0], weights)
    torch.testing.assert_close(second_gradient, torch.tensor([0.25, -0.25], dtype=dtype))


def test_posteriors_of_inputs_are_those_of_the_general_way() -> None:
    """One way down gives them; the other is the gradient for potentials of the same nodes."""
    plan = pc.compile_circuit(pc.families.hmm(6, 64, 9))
    parameters = pc.random_parameters(plan, seed=3)
    values = torch.randint(9, (100, 6), generator=torch.Generator().manual_seed(0))
    observed = torch.rand(100, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    names = ["state_4", "state_0", "state_5"]
    for evidence in (pc.Evidence(values), pc.Evidence(values, observed)):
        assert pc.choose_implementation(plan, parameters, evidence).implementation == "fused"
        found = pc.queries.latent_marginals(plan, parameters, evidence, names)
        probes = {name: torch.zeros(100, 64, requires_grad=True) for name in names}
        given = pc.Evidence(evidence.values, evidence.observed, latent_log_potentials=probes)
        total = pc.forward(plan, parameters, given, impl="eager").sum()
        expected = torch.autograd.grad(total, list(probes.values()))
        assert list(found) == names
        for name, own in zip(names, expected, strict=True):
            torch.testing.assert_close(found[name], own, rtol=1e-4, atol=1e-6)


def test_posteriors_with_potentials_and_without_gradients() -> None:
    plan = pc.compile_circuit(pc.families.hmm(4, 3, 5))
    parameters = pc.random_parameters(plan, seed=0)
    values = torch.zeros(2, 4, dtype=torch.long)
    given = torch.tensor([[0.0, 1.0, -1.0]]).repeat(2, 1)
    evidence = pc.Evidence(values, latent_log_potentials={"state_0": given})
    with torch.no_grad():
        assert pc.queries.latent_marginals(plan, parameters, evidence, []) == {}
        found = pc.queries.latent_marginals(plan, parameters, evidence, ["state_0", "step_0"])
    without = pc.queries.latent_marginals(plan, parameters, pc.Evidence(values), ["state_0"])
    expected = (without["state_0"] * given.exp()).log().softmax(-1)
    torch.testing.assert_close(found["state_0"], expected)
    torch.testing.assert_close(found["step_0"].sum(-1), torch.ones(2))
    with pytest.raises(EvidenceError, match="no node 'nobody'"):
        pc.queries.latent_marginals(plan, parameters, evidence, ["nobody"])


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_listed_categories_give_the_gradient_of_a_shared_table(impl: str) -> None:
    """That of the same potentials written for all categories; and so do second gradients."""
    plan = pc.compile_circuit(pc.families.hmm(3, 4, 7))
    parameters = {n: p.double() for n, p in pc.random_parameters(plan, seed=1).items()}
    generator = torch.Generator().manual_seed(0)
    categories = torch.rand(5, 3, 7, generator=generator).argsort(-1)[..., :3]
    potentials = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    everywhere = torch.full((5, 3, 7), -torch.inf, dtype=torch.float64)
    dense = everywhere.scatter(2, categories, potentials)
    listed = second_gradients(
        plan, parameters, pc.Evidence(None, None, potentials, None, categories), impl
    )
    expected = second_gradients(plan, parameters, pc.Evidence(log_potentials=dense), "reference")
    for own, other in zip(listed, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("brought_by", ["PyTorch", "SciPy"])
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)])
def test_compiled_code_multiplies_matrices(
    dtype: torch.dtype, brought_by: str, transposed: tuple[bool, bool]
) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(shape[::-1] if turned else shape, generator=generator, dtype=dtype)
        for shape, turned in zip([(5, 3), (3, 4)], transposed, strict=True)
    )
    out = torch.ones(5, 4, dtype=dtype)
    name = {torch.float32: "sgemm", torch.float64: "dgemm"}[dtype]
    scipy = get_cython_function_address("scipy.linalg.cython_blas", name)
    routine = blas.address_of(dtype) if brought_by == "PyTorch" else scipy
    blas.multiply_matrices(
        *(routine, left.data_ptr(), transposed[0], right.data_ptr(), transposed[1]),
        *(out.data_ptr(), 5, 3, 4, np.array([1.0, 2.0], out.numpy().dtype)),
        np.empty(blas.SIZES, np.int64),
    )
    sides = [
        own.T if turned else own for own, turned in zip((left, right), transposed, strict=True)
    ]
    torch.testing.assert_close(out, sides[0] @ sides[1] + 2.0)


def test_a_library_that_shows_no_routine_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "lib" / f"lib{name}_torch_cpu.so").parent.mkdir(exist_ok=True)
        (tmp_path / "lib" / f"lib{name}_torch_cpu.so").touch()
    shown = ctypes.CFUNCTYPE(None)(lambda: None)
    libraries = iter((OSError("no library"), SimpleNamespace(), SimpleNamespace(sgemm_=shown)))

    def load(path: str) -> Any:
        assert Path(path).parent == tmp_path / "lib"
        found = next(libraries)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(blas.torch, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(blas.ctypes, "CDLL", load)
    address = blas.address_of.__wrapped__
    assert address(torch.float32) == ctypes.cast(shown, ctypes.c_void_p).value
    monkeypatch.setattr(blas.torch, "__file__", str(tmp_path / "lib" / "none.py"))
    scipy = get_cython_function_address("scipy.linalg.cython_blas", "sgemm")
    assert address(torch.float32) == scipy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tables_are_exponentiated_to_the_last_place(dtype: type) -> None:
    log = np.linspace(-29.999, 29.999, 3 * 17 * 1003).astype(dtype).reshape(3, 1, 17, 1003)
    exact = np.exp(log.astype(np.float64))
    linear, columns, extremes = np.empty_like(log), np.empty((3, 1003, 17), dtype), np.empty(2)
    assert table_kernels.exponentiate(log, linear, columns, extremes)
    assert list(extremes) == [log.min(), log.max()]
    for found in (linear, columns.swapaxes(1, 2)[:, None]):
        np.testing.assert_allclose(found, exact, rtol=1.5 * np.finfo(dtype).eps)
    columns.fill(np.nan)
    assert table_kernels.exponentiate_columns(log, columns)
    np.testing.assert_array_equal(columns.swapaxes(1, 2)[:, None], linear)


@pytest.mark.parametrize("least, largest", [(-29.0, -0.5), (-29.0, 4.0), (-35.0, -0.25)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_table_knows_its_extreme_logarithms(
    dtype: torch.dtype, least: float, largest: float
) -> None:
    """By the compiled pass, which takes logarithms up to 30, and by NumPy's."""
    # Every row has entries of the whole range.
    log = torch.linspace(least, largest, 51 * 40, dtype=dtype).reshape(40, 51).mT[None, None]
    found = tables.table_of(Weights(log), dtype)
    assert found is not None and found.extremes == (log.min(), log.max())
    np.testing.assert_allclose(found.linear, log.double().exp(), rtol=3e-7)
    np.testing.assert_array_equal(found.columns[0], found.linear[0, 0].T)


@pytest.mark.parametrize("entry", [31.0, -30.5, -np.inf, np.nan])
def test_tables_with_large_logarithms_are_left_to_others(entry: float) -> None:
    log = np.zeros((1, 1, 17, 40), np.float32)
    log[0, 0, 16, 39] = entry
    linear, columns = np.empty_like(log), np.empty((1, 40, 17), np.float32)
    assert not table_kernels.exponentiate(log, linear, columns, np.empty(2))
    assert not table_kernels.exponentiate_columns(log, columns)


@pytest.mark.parametrize("shared", [False, True])
def test_pairs_of_several_blocks_and_sums_with_one_table(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs are made of some left units and some rows at once; tables of sums in several places."""
    monkeypatch.setattr(pairs, "_ROWS", 3)
    monkeypatch.setattr(pairs, "_PAIRS", 2 * 3 * 5)
    name = "table" if shared else None

    def above(*factors: pc.Node) -> pc.Sum:
        return pc.Sum(pc.KroneckerProduct(*factors), num_units=5, parameter=name)

    leaves = [pc.Input(i, num_units=5, num_categories=4, name=f"input_{i}") for i in range(6)]
    low = above(*leaves[:2]), above(*leaves[2:4]), above(*leaves[4:])
    top = pc.Sum(above(above(*low[:2]), low[2]), num_units=1)
    plan = pc.compile_circuit(pc.Circuit(top))
    parameters = pc.random_parameters(plan, seed=1, spread=2.0, dtype=torch.float64)
    values = torch.randint(4, (7, 6), generator=torch.Generator().manual_seed(0))
    found = value_and_gradients(plan, parameters, values, "fused")
    expected = value_and_gradients(plan, parameters, values, "reference")
    for own, gradient in expected.items():
        torch.testing.assert_close(found[own], gradient, rtol=1e-11, atol=1e-11, msg=own)


# Helpers of this file.


def sharp_inputs(family: str) -> tuple[pc.Plan, Parameters, Tensor]:
    """Inputs whose units differ by hundreds of nats."""
    circuit = {
        "chain": lambda: pc.families.hmm(6, 5, 7),
        "tree": lambda: pc.families.binary_tree(4, 5, 7),
        "uneven": _uneven,
        "pairs": lambda: pc.families.binary_tree(4, 5, 7, product="kronecker"),
    }[family]()
    plan = pc.compile_circuit(circuit)
    parameters = pc.random_parameters(plan, seed=0)
    tables = [n for n, p in parameters.items() if p.shape[-1] == 7]
    sharp = {n: (300.0 * parameters[n]).log_softmax(-1) for n in tables}
    if family == "chain":
        # A step's values are at least its weights: these are as small as they may be.
        moves = (100.0 * parameters["transition"]).log_softmax(-1)
        sharp["transition"] = moves.clamp_min(-45.0)
    values = torch.randint(7, (9, plan.num_variables), generator=torch.Generator().manual_seed(0))
    return plan, {**parameters, **sharp}, values


def _uneven() -> pc.Circuit:
    """A layer of sums over one, two and three factors, and one of sums over one and two."""
    leaves = [pc.Input(i, num_units=5, num_categories=7) for i in range(6)]

    def above(*nodes: pc.Node) -> pc.Sum:
        below = pc.Product(*nodes) if len(nodes) > 1 else pc.Sum(*nodes, num_units=5)
        return pc.Sum(below, num_units=5)

    a, b, c = above(*leaves[:3]), above(*leaves[3:5]), above(leaves[5])
    return pc.Circuit(pc.Sum(pc.Product(above(a, b), above(c)), num_units=1))


def with_entry(table: Tensor, log_weight: float) -> Tensor:
    changed = table.clone()
    changed[0, 0] = log_weight
    return changed


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """A list that grows with every call of a method of an evaluation."""
    calls: list[object] = []
    method = getattr(Evaluation, name)

    def counted(self: Evaluation, *arguments: object) -> object:
        calls.append(arguments)
        return method(self, *arguments)

    monkeypatch.setattr(Evaluation, name, counted)
    return calls


def value_and_gradients(
    plan: pc.Plan, parameters: Mapping[str, Tensor], values: Tensor, impl: str
) -> dict[str, Tensor]:
    leaves = {name: own.clone().requires_grad_() for name, own in parameters.items()}
    value = pc.forward(plan, leaves, pc.Evidence(values), impl=impl)
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()))
    return {"value": value.detach(), **dict(zip(leaves, gradients, strict=True))}


def second_gradients(
    plan: pc.Plan, parameters: Mapping[str, Tensor], evidence: pc.Evidence, impl: str
) -> list[Tensor]:
    """First gradients, and those of their squares' sum."""
    leaves = [own.clone().requires_grad_() for own in parameters.values()]
    value = pc.forward(plan, dict(zip(parameters, leaves, strict=True)), evidence, impl=impl)
    first = torch.autograd.grad(value.sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((own**2).sum() for own in first), leaves)
    return [own.detach() for own in (*first, *second)]
