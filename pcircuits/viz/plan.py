"""The folded plan: one box for each layer that is computed, repetitions drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from pcircuits.compile.plan import (
    InputLayer,
    KroneckerLayer,
    Layer,
    MixingLayer,
    Plan,
    ProductLayer,
    SegmentProductLayer,
    SegmentSumLayer,
    SumLayer,
    num_folds,
)
from pcircuits.viz.artist import EdgeStyle, Frame, paint
from pcircuits.viz.scene import Symbol, arrange

KINDS: dict[type, tuple[str, str]] = {
    InputLayer: ("input", "inputs"),
    ProductLayer: ("product", "products"),
    KroneckerLayer: ("product", "Kronecker products"),
    SumLayer: ("sum", "sums"),
    MixingLayer: ("sum", "mixing sums"),
    SegmentProductLayer: ("product", "products of unequal fan-in"),
    SegmentSumLayer: ("sum", "sums of unequal fan-in"),
}
_LONGEST_PERIOD, _FEWEST_REPEATS = 8, 3
_MOST_BOXES = 40


@dataclass(frozen=True)
class _Run:
    """Layers start .. start + period * repeats, counted from the root, equal period by period."""

    start: int
    period: int
    repeats: int


def draw_plan(plan: Plan, *, ax: Axes | None = None) -> Axes:
    """Draws the layers of a plan with their folds and units, the root's on top.

    A line joins a layer with each earlier one whose values it reads. Layers that repeat are drawn
    once, framed, with the number of repetitions; of very many different ones the middle is left
    out.

    Args:
        plan: The compiled circuit.
        ax: Where to draw; default a new figure of a fitting size.

    Returns:
        The axes.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.binary_tree(16, num_units=4, num_categories=2))
        >>> ax = pc.viz.draw_plan(plan)
        >>> ax.get_title()
        '9 layers, 356 parameters'
    """
    layers = list(reversed(plan.layers))
    runs = _runs([_signature(plan, place) for place in reversed(range(len(layers)))])
    box = _boxes(runs)
    symbols = _symbols(layers, box)
    reads = [
        (box[place], box[len(layers) - 1 - source])
        for place, layer in enumerate(layers)
        for source in _sources(layer)
    ]
    # From one repetition to the next the line would run upwards: the frame says it.
    edges = sorted({(upper, lower) for upper, lower in reads if upper < lower})
    scene = arrange(symbols, edges, may_turn=False)
    cost = plan.cost()
    title = f"{cost.num_layers:,} layers, {cost.num_parameters:,} parameters"
    styles = [EdgeStyle()] * len(edges)
    return paint(scene, styles, frames=_frames(runs, box), title=title, ax=ax)


def _signature(plan: Plan, place: int) -> tuple[object, ...]:
    """What two layers have in common that look the same: sizes, and how far back they read."""
    layer = plan.layers[place]
    back = tuple(
        "inputs" if isinstance(plan.layers[source], InputLayer) else place - source
        for source in _sources(layer)
    )
    return type(layer), num_folds(layer), layer.num_units, back


def _sources(layer: Layer) -> list[int]:
    if isinstance(layer, InputLayer):
        return []
    return sorted({source.layer for operand in layer.operands for source in operand.sources})


def _runs(signatures: Sequence[tuple[object, ...]]) -> list[_Run]:
    """Cuts a sequence into repetitions, each the one that saves most at its place."""
    runs, start = [], 0
    while start < len(signatures):
        best = _Run(start, 1, 1)
        for period in range(1, _LONGEST_PERIOD + 1):
            repeats = _repeats(signatures, start, period)
            if repeats >= _FEWEST_REPEATS and period * repeats > best.period * best.repeats:
                best = _Run(start, period, repeats)
        runs.append(best)
        start += best.period * best.repeats
    return runs


def _repeats(signatures: Sequence[tuple[object, ...]], start: int, period: int) -> int:
    repeats = 1
    while (
        signatures[start : start + period]
        == signatures[start + repeats * period : start + (repeats + 1) * period]
    ):
        repeats += 1
    return repeats


def _boxes(runs: Sequence[_Run]) -> list[int]:
    """The box of every layer, counted from the root."""
    found: list[int] = []
    first = 0
    for run in runs:
        found.extend(first + step % run.period for step in range(run.period * run.repeats))
        first += run.period
    if first <= _MOST_BOXES:
        return found
    half = _MOST_BOXES // 2
    left_out = first - 2 * half
    return [min(b, half) if b < half + left_out else b - left_out + 1 for b in found]


def _symbols(layers: Sequence[Layer], box: Sequence[int]) -> list[Symbol]:
    symbols = []
    for place in range(max(box) + 1):
        inside = [layer for layer, own in zip(layers, box, strict=True) if own == place]
        kinds = {(type(layer), num_folds(layer), layer.num_units) for layer in inside}
        if len(kinds) > 1:
            symbols.append(Symbol("input", f"{len(inside):,} more layers", boxed=True))
            continue
        kind, title = KINDS[type(inside[0])]
        sizes = (
            f"{_counted(num_folds(inside[0]), 'fold')} × {_counted(inside[0].num_units, 'unit')}"
        )
        symbols.append(Symbol(kind, f"{title}\n{sizes}", boxed=True))
    return symbols


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _frames(runs: Sequence[_Run], box: Sequence[int]) -> list[Frame]:
    found = []
    for run in runs:
        inside = sorted({box[run.start + phase] for phase in range(run.period)})
        if run.repeats > 1 and len(inside) == run.period:
            found.append(Frame(tuple(inside), f"{run.repeats:,} times"))
    return found
