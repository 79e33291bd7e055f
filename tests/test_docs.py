"""What the documentation shows runs as it stands."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot

import codd
import pcircuits as pc
from tests.support.pages import RUN, blocks, run_page
from tests.support.published import WORDS, write_masked_lm

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if any(block.language in RUN for block in blocks(path))
]


def prepare(folder: Path) -> None:
    """What the pages take for granted: a published network, a published circuit, and a text."""
    write_masked_lm(folder / "network")
    words = random.Random(0).choices(WORDS[5:], k=1200)
    paragraphs = [" ".join(words[i : i + 30]) for i in range(0, len(words), 30)]
    (folder / "my.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    circuit = pc.CircuitModel(pc.families.hmm(length=8, num_states=5, num_categories=len(WORDS)))
    codd.save_published_circuit(folder / "circuit", circuit)


def check_first_steps(found: dict[str, Any], drawn: str) -> None:
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


CHECKS = {"first-steps": check_first_steps}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_a_page_shows_runs(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    found = run_page(path, tmp_path)
    CHECKS.get(path.stem, lambda found, printed: None)(found, capfd.readouterr().out)
    pyplot.close("all")


def test_what_is_not_run_says_why() -> None:
    notes = [block.note for path in PAGES for block in blocks(path)]
    reasons = [said for kind, said in notes if kind == "not run"]
    assert all(len(reason) > 10 for reason in reasons)
    # Most of what is shown is run.
    assert len(reasons) < 0.3 * len(notes)
