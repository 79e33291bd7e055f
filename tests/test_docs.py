"""What the documentation shows runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot

import pcircuits as pc

ROOT = Path(__file__).resolve().parents[1]


def blocks(path: str) -> str:
    """All Python blocks of a page, at their lines, so that errors name the right one."""
    text = (ROOT / path).read_text(encoding="utf-8")
    lines = text.split("\n")
    kept = [""] * len(lines)
    inside = False
    for number, line in enumerate(lines):
        if line.startswith("```"):
            inside = line == "```python"
        elif inside:
            kept[number] = line
    return "\n".join(kept)


def run(path: str) -> dict[str, object]:
    namespace: dict[str, object] = {}
    exec(compile(blocks(path), str(ROOT / path), "exec"), namespace)
    return namespace


def test_first_steps(capsys: pytest.CaptureFixture[str]) -> None:
    found = run("docs/tutorials/first-steps.md")
    # The network: its joint distribution is the product of its tables.
    network = found["sprinkler_network"]
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 3)
    p_rain, p_sprinkler = torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.01])
    p_wet = torch.tensor([[0.0, 0.9], [0.8, 0.99]])
    expected = [
        p_rain[r]
        * (p_sprinkler[r] if s else 1 - p_sprinkler[r])
        * (p_wet[r, s] if w else 1 - p_wet[r, s])
        for r, s, w in worlds.tolist()
    ]
    log = network.log_likelihood(worlds).detach().exp()
    torch.testing.assert_close(log, torch.stack(expected).double())
    # The constraint: samples match, and probabilities are the model's given the pattern.
    drawn = capsys.readouterr().out
    assert len(re.findall(r"^a[ab]*-b+$", drawn, flags=re.M)) == 5
    worlds = torch.cartesian_prod(*[torch.arange(3)] * 6)
    matching = [bool(re.fullmatch("a[ab]*-b+", "".join("ab-"[t] for t in w))) for w in worlds]
    before = found["hmm"].log_likelihood(worlds).detach().double().exp()
    after = found["model"].log_likelihood(worlds).detach().double().exp()
    wanted = torch.where(torch.tensor(matching), before, 0.0)
    torch.testing.assert_close(after, wanted / wanted.sum(), atol=1e-6, rtol=1e-4)
    # The tree from data: better than independent variables; all is drawn.
    valid, train = found["valid"], found["train"]
    shares = train.double().mean(0)
    independent = torch.where(valid == 1, shares, 1 - shares).log().sum(1).mean()
    assert found["hclt"].log_likelihood(valid).mean() > independent + 0.1
    for name in ("axes", "tree_axes", "dependence_axes", "curve_axes"):
        assert found[name].has_data() or found[name].patches or found[name].texts
    pyplot.close("all")


def modules() -> list[str]:
    found = pkgutil.walk_packages(pc.__path__, "pcircuits.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    return ["pcircuits", *names, "codd.denoisers.wrapped"]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    torch.manual_seed(0)  # examples draw without a generator, to be short
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
