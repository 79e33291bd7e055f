"""The kernels of inputs, tables and samples as a decoding step of real size launches them."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.execute.triton.inputs_dense import Leaves, dense_launches
from pcircuits.execute.triton.inputs_gradients import Scaled, lost_launch
from pcircuits.execute.triton.inputs_listed import listed_launches
from pcircuits.execute.triton.launch import Launch
from pcircuits.execute.triton.sampling import category_launches, states_launch
from pcircuits.execute.triton.table_gradients import dense_gradient_launch, listed_gradient_launch
from pcircuits.execute.triton.tables import Table
from pcircuits.execute.triton.tables_down import (
    LEAVE_ONE_OUT,
    MOVED,
    SHARES,
    down_arguments,
    down_launches,
)
from pcircuits.execute.triton.tables_listed import listed_down_launch
from tests.support.triton_aot import Spec

PRODUCTS = ("dense totals", "dense moved", "dense table gradient")
UNITS, CATEGORIES, LISTED, LENGTH = 1024, 126_464, 1024, 32


def specs() -> list[Spec]:
    """1,024 states, 126,464 categories, 32 positions: batch 1; products also lower and batch 8."""
    launches = dict(_samples())
    for rows, precision in ((32, "tf32x3"), (32, "bf16"), (256, "tf32x3")):
        table, whole = _table(precision), (rows, precision) == (32, "tf32x3")
        own = {**_dense(table, rows), **_listed(table, rows)}
        for name in own if whole else PRODUCTS:
            launches[f"{name}, {rows} rows, {precision}"] = own[name]
    return [Spec(name, own.kernel, own.arguments, own.options) for name, own in launches.items()]


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _table(precision: str) -> Table:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    linear = _empty(1, CATEGORIES, UNITS, dtype=dtype)
    return Table(linear, _empty(1, UNITS, CATEGORIES), _empty(1, UNITS), precision)


def _scaled(rows: int) -> tuple[Leaves, Scaled]:
    values = _empty(1, rows, UNITS)
    flags = _empty(1, rows, dtype=torch.uint8)
    return Leaves(values, values, _empty(1, rows)), Scaled(values, values, flags)


def _down(rows: int, width: int, mode: int) -> dict[str, object]:
    factors, potentials = _empty(1, rows, UNITS), _empty(1, rows, width)
    return down_arguments(factors, _empty(1, rows), potentials, _empty(1, rows, width), mode)


def _dense(table: Table, rows: int) -> dict[str, Launch]:
    potentials, (leaves, own) = _empty(1, rows, CATEGORIES), _scaled(rows)
    total, finish, _ = dense_launches(table, potentials, leaves.top)
    (shares,) = down_launches(table, _down(rows, CATEGORIES, SHARES))
    moved, repair = down_launches(table, _down(rows, CATEGORIES, MOVED))
    return {
        "dense totals": total,
        "dense finish": finish,
        "dense shares": shares,
        "dense leave one out": down_launches(table, _down(rows, CATEGORIES, LEAVE_ONE_OUT))[0],
        "dense moved": moved,
        "dense repair": repair,
        "dense lost": lost_launch(table, potentials, leaves, own, None, potentials),
        "dense table gradient": dense_gradient_launch(
            table, potentials, leaves, own, _empty(1, CATEGORIES, UNITS)
        ),
    }


def _listed(table: Table, rows: int) -> dict[str, Launch]:
    potentials, (leaves, own) = _empty(1, rows, LISTED), _scaled(rows)
    names = _empty(1, rows, LISTED, dtype=torch.int64)
    total, finish, _ = listed_launches(table, potentials, names, leaves.top)
    return {
        "listed totals": total,
        "listed finish": finish,
        "listed shares": listed_down_launch(table, _down(rows, LISTED, SHARES), names),
        "listed moved": listed_down_launch(table, _down(rows, LISTED, MOVED), names),
        "listed lost": lost_launch(table, potentials, leaves, own, names, potentials),
        "listed table gradient": listed_gradient_launch(
            table, potentials, leaves, own, names, _empty(1, CATEGORIES, UNITS)
        ),
    }


def _samples() -> dict[str, Launch]:
    states = _empty(8, 1, LENGTH, dtype=torch.int64)
    uniforms, log = _empty(8, 1, LENGTH, 2), _empty(1, UNITS, CATEGORIES)
    found = {
        "states": states_launch(
            _empty(UNITS), _empty(1, UNITS, UNITS), _empty(LENGTH, 8, UNITS), uniforms, states
        )
    }
    tiles, pick = category_launches(
        log, states, _empty(8, LENGTH, CATEGORIES), uniforms, 1.0, None, states
    )
    found |= {"category tiles": tiles, "category pick": pick}
    names = _empty(8, LENGTH, LISTED, dtype=torch.int64)
    _, pick = category_launches(
        log, states, _empty(8, LENGTH, LISTED), uniforms, 1.0, names, states
    )
    return {**found, "listed category pick": pick}
