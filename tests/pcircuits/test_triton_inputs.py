"""Input kernels against float64: interpreted without a device, on it with `-m gpu`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.execute import inputs as shared_inputs
from pcircuits.execute.prepare import PreparedParameters
from tests.support.poison import poisoned_memory

pytest.importorskip("triton")
if not torch.cuda.is_available():
    import tests.support.triton_interpreter  # noqa: F401  (rounds products as a device does)

from pcircuits.execute.triton.inputs import leaf_values
from pcircuits.execute.triton.inputs_dense import dense_values
from pcircuits.execute.triton.inputs_gradients import potential_gradient, scaled
from pcircuits.execute.triton.inputs_listed import listed_values
from pcircuits.execute.triton.table_gradients import table_gradient
from pcircuits.execute.triton.tables import make_table
from pcircuits.execute.triton.tables_down import log_leave_one_out, moved_potentials, shares
from tests.support.triton_aot import compile_all

# Relative to the largest number compared; the last is that of operands rounded to 8 bits.
TOLERANCE = {"ieee": 2e-6, "tf32x3": 2e-6, "bf16": 2e-2}
GROUPS, ROWS, UNITS, CATEGORIES, LISTED = 2, 19, 37, 150, 24
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LARGEST = 30.0


def problem(sizes: tuple[int, ...] = (GROUPS, ROWS, UNITS, CATEGORIES, LISTED)) -> tuple:
    """Log-weights, dense potentials, listed ones and their categories, with all that is hard."""
    groups, rows, units, categories, listed = sizes
    random = torch.Generator().manual_seed(1)
    log = torch.randn(groups, units, categories, generator=random).log_softmax(-1)
    log[0, 3, 20:60] = -torch.inf  # zeros among the weights
    log[-1, 5] = -torch.inf  # a unit that allows nothing
    log[0, 7] -= 200.0  # one whose weights are all tiny
    log[0, 9, 0] = -300.0  # a weight that underflows beside the others of its unit
    log[:, :, 77] = -torch.inf  # a category that no unit allows
    log[:, :, 78] -= 120.0  # one that all of them hardly allow
    dense = 3 * torch.randn(groups, categories, rows, generator=random).transpose(1, 2)
    dense[0, 2] = -torch.inf
    dense[0, 4, 1:] = -torch.inf  # a row that reads the weight of -300 alone
    dense[-1, :, 64:96] = -torch.inf  # a whole tile
    names = torch.randint(categories + 5, (groups, rows, listed), generator=random)
    names[0, 0, :5] = 3  # twice and more often in one list
    short = 2 * torch.randn(groups, rows, listed, generator=random)
    short[0, 1, 3:] = -torch.inf
    names[0, 1, :3] = torch.tensor([0, 78, 78])
    return tuple(x.to(DEVICE) for x in (log, dense, short, names))


def terms(log: Tensor, potentials: Tensor, names: Tensor | None) -> Tensor:
    """(G, R, K, V or J) log-terms in float64; -inf for categories that do not exist."""
    own = log[:, None].expand(-1, potentials.shape[1], -1, -1)
    if names is not None:
        own = torch.nn.functional.pad(own, (0, 8), value=-torch.inf)
        own = own.gather(3, names[:, :, None].expand(-1, -1, own.shape[2], -1))
    return potentials[:, :, None] + own


def log_sum(x: Tensor) -> Tensor:
    """Log-sum-exp whose gradient is zero where all is -inf."""
    dead = (x == -torch.inf).all(-1, keepdim=True)
    top = x.detach().amax(-1, keepdim=True).masked_fill(dead, 0.0)
    total = (x - top).exp().sum(-1)
    found = torch.where(dead[..., 0], 1.0, total).log() + top[..., 0]
    return found.masked_fill(dead[..., 0], -torch.inf)


def assert_near(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Same zeros or -inf, and numbers within the tolerance of the largest (at least 1)."""
    assert not found.isnan().any(), what
    finite = expected > -torch.inf
    assert torch.equal(found == -torch.inf, ~finite), what
    error = (found - expected)[finite].abs().max() / expected[finite].abs().max().clamp(min=1.0)
    print(f"{what}: {float(error):.1e}")
    assert float(error) <= tolerance, what


@pytest.mark.parametrize("listed", [False, True], ids=["dense", "listed"])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_values_and_gradients(precision: str, listed: bool) -> None:
    log, dense, short, names = problem()
    potentials = short if listed else dense
    categories = names if listed else None
    with poisoned_memory():
        table = make_table(log, precision)
        run = listed_values(table, potentials, names) if listed else dense_values(table, potentials)
        gradient = torch.randn(run.value.shape, device=DEVICE).masked_fill(
            run.value == -torch.inf, 0
        )
        own = scaled(run, gradient)
        assert own.rows.any(), "no total underflowed: the exact path was not tried"
        of_potentials = potential_gradient(table, potentials, run, own, categories)
        of_table = table_gradient(table, potentials, run, own, categories)
    exact_log, exact = log.double().requires_grad_(), potentials.double().requires_grad_()
    value = log_sum(terms(exact_log, exact, categories))
    assert_near(run.value, value.detach(), TOLERANCE[precision], f"{precision} values")
    wanted = torch.autograd.grad(value, (exact, exact_log), gradient.double())
    for name, found, expected in zip(
        ("potentials", "table"), (of_potentials, of_table), wanted, strict=True
    ):
        assert_near(found, expected.nan_to_num(0.0), TOLERANCE[precision], f"{precision} {name}")


@pytest.mark.parametrize("listed", [False, True], ids=["dense", "listed"])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_downward(precision: str, listed: bool) -> None:
    log, dense, short, names = problem()
    old, categories = (short, names) if listed else (dense, None)
    messages = 4 * torch.randn(GROUPS, ROWS, UNITS, device=DEVICE)
    messages[0, 3, 1:] = -torch.inf
    messages[1, 4] = -torch.inf
    target = torch.randn(old.shape, device=DEVICE).masked_fill(
        torch.rand(old.shape).to(DEVICE) < 0.1, -torch.inf
    )
    with poisoned_memory():
        table = make_table(log, precision)
        found = log_leave_one_out(table, messages, categories)
        moved = moved_potentials(
            table, messages, old.nan_to_num(neginf=0), target, 0.3, LARGEST, categories
        )
    joint = messages.double()[..., None] + log.double()[:, None]
    whole = joint.logsumexp(2)
    norm = whole.logsumexp(-1, keepdim=True).nan_to_num(neginf=0.0)
    expected = whole - norm
    if listed:
        expected = torch.nn.functional.pad(expected, (0, 8), value=-torch.inf).gather(2, names)
    assert_near(found, expected, TOLERANCE[precision], f"{precision} leave one out")
    fitted = (target.nan_to_num(neginf=0.0) - expected).clamp(max=LARGEST)
    step = 0.7 * old.nan_to_num(neginf=0) + 0.3 * fitted
    step = step.masked_fill(target == -torch.inf, -torch.inf)
    assert_near(moved, step, TOLERANCE[precision], f"{precision} moved")


def test_shares_of_inactive_rows_are_zero() -> None:
    log, dense, _, _ = problem()
    table = make_table(log, "ieee")
    top = dense.amax(-1)
    top[:, ::2] = -torch.inf
    found = shares(table, dense, top, torch.rand(GROUPS, ROWS, UNITS, device=DEVICE))
    assert (found[:, ::2] == 0).all()
    assert (found[:, 1::2].sum(-1) > 0).all()


def test_inactive_rows_are_not_read() -> None:
    log, dense, _, _ = problem()
    active = torch.arange(ROWS, device=DEVICE).expand(GROUPS, -1) % 2 == 0
    spoilt = dense.masked_fill(~active[..., None], torch.nan)
    table = make_table(log, "ieee")
    found = dense_values(table, spoilt, active).value
    assert (found[~active] == -torch.inf).all()
    assert torch.equal(found[active], dense_values(table, dense).value[active])


SHARED = {"shared": ("hmm", 0), "own tables": ("inhomogeneous", 0), "per example": ("hmm", 4)}


def _prepared(kind: str, batch: int, dtype: torch.dtype) -> tuple[pc.Plan, PreparedParameters]:
    random = torch.Generator().manual_seed(3)
    plan = pc.compile_circuit(pc.families.hmm(3, 5, 23, homogeneous=kind == "hmm"))
    parameters = {}
    for name, shape in plan.parameter_shapes.items():
        full = (batch, *shape) if batch and name.startswith("emission") else shape
        tensor = torch.randn(full, generator=random).log_softmax(-1)
        parameters[name] = tensor.to(DEVICE, dtype).requires_grad_()
    return plan, pc.prepare(plan, parameters)


def _evidence(kind: str, dtype: torch.dtype) -> tuple[pc.Evidence, list[Tensor]]:
    random = torch.Generator().manual_seed(4)
    values = torch.randint(23, (4, 3), generator=random).to(DEVICE)
    observed = (torch.rand(4, 3, generator=random) < 0.4).to(DEVICE)
    potentials = torch.randn(4, 3, 23, generator=random).to(DEVICE, dtype)
    names = torch.randint(23, (4, 3, 7), generator=random).to(DEVICE)
    short = potentials[..., :7].clone().requires_grad_()
    potentials.requires_grad_()
    return {
        "hard": (pc.Evidence(values), []),
        "missing": (pc.Evidence(values, observed), []),
        "soft": (pc.Evidence(values, observed, potentials), [potentials]),
        "listed": (pc.Evidence(values, observed, short, categories=names), [short]),
    }[kind]


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("kind", ["hard", "missing", "soft", "listed"])
def test_leaf_values_are_those_of_the_shared_ground(kind: str, sharing: str) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        plan, prepared = _prepared(*SHARED[sharing], dtype)
        evidence, potentials = _evidence(kind, dtype)
        leaves = leaf_values if dtype == torch.float32 else shared_inputs.leaf_values
        (value,) = leaves(plan, prepared, evidence, {}).values()
        weight = torch.linspace(-1, 1, value.numel(), device=DEVICE, dtype=dtype)
        log = prepared.weights[0].log
        gradients = torch.autograd.grad((value.flatten() * weight).sum(), [log, *potentials])
        found.append((value.detach(), *gradients))
    for own, expected in zip(*found, strict=True):
        assert_near(own, expected, 5e-6, f"{kind}, {sharing}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiled for the device by the other tests")
def test_kernels_compile_for_hopper_without_spills(capsys: pytest.CaptureFixture[str]) -> None:
    found = compile_all("tests.support.triton_input_specs")
    with capsys.disabled():
        for name, own in found.items():
            print(f"\n{name}: {own}", end="")
    assert len(found) >= 20
    assert {name: own.spills for name, own in found.items() if own.spills} == {}
    assert all(own.shared <= 227 * 1024 for own in found.values())


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [32, 256])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_real_size_on_the_device(precision: str, rows: int) -> None:
    log, dense, _, _ = problem((1, rows, 1024, 126_464, 8))
    table = make_table(log, precision)
    run = dense_values(table, dense)
    value = torch.stack(
        [(log.double() + dense[0, r].double()).logsumexp(-1)[0] for r in range(rows)]
    )[None]
    assert_near(run.value, value, TOLERANCE[precision], f"{precision}, {rows} rows")
    gradient = torch.rand(run.value.shape, device=DEVICE).masked_fill(run.value == -torch.inf, 0)
    own = scaled(run, gradient)
    found = potential_gradient(table, dense, run, own)
    # Every row's gradient over its categories adds up to that of its values.
    assert_near(found.sum(-1), gradient.sum(-1), 10 * TOLERANCE[precision], "conserved flow")
    counts = table_gradient(table, dense, run, own)
    assert_near(counts.sum(-1), gradient.sum(1), 10 * TOLERANCE[precision], "conserved counts")
