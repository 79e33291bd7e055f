"""Recordings say what the tokens were drawn from; the page holds them and nothing that acts."""

from __future__ import annotations

import html
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import codd
import pcircuits as pc
from codd import viz
from codd.errors import DecodingError, EvaluationError
from tests.support.coupled import TEXT, tiny_model
from tests.support.hostile import HOSTILE

MODEL = tiny_model()


def data_of(page: str) -> dict[str, object]:
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    loaded: dict[str, object] = json.loads(found)
    return loaded


@torch.no_grad()
def test_moments_are_the_librarys_joint_of_each_state() -> None:
    found = viz.record(MODEL, TEXT[:8], new_tokens=8, steps=4, seed=3)
    assert len(found.moments) == 4
    for moment in found.moments:
        end = 4 if bool((moment.tokens[:4] == MODEL.mask_id).any()) else 8  # of the block
        tokens = torch.cat((found.prompt, moment.tokens[:end]))[None]
        joint = MODEL.joint(tokens)
        alone = MODEL.denoise(tokens).logits[0, -8:].double().softmax(-1)
        masked = (~joint.observed[0]).nonzero()[:, 0]
        assert moment.positions.tolist() == (masked - 8 + end).tolist()
        top = joint.marginals()[0, masked].double().topk(8, dim=1)
        torch.testing.assert_close(moment.probabilities, top.values, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            moment.alone, alone[masked].gather(1, moment.candidates), rtol=1e-4, atol=1e-6
        )
        information = joint.mutual_information()[0][masked][:, masked].double()
        torch.testing.assert_close(moment.information, information, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("prompt", [TEXT[:8], TEXT[:2]], ids=["long", "padded"])
def test_the_text_and_its_confidences_are_those_of_generate(mode: str, prompt: str) -> None:
    options = {"new_tokens": 8, "steps": 4, "mode": mode, "seed": 5, "sampler": "any_order"}
    found = viz.record(MODEL, prompt, dependencies=False, **options)
    usual = MODEL.generate_tokens(prompt, log_probs=True, record_history=True, **options)
    assert found.text == MODEL.vocabulary.decode(usual.tokens[0])
    confidence = torch.stack([moment.confidence for moment in found.moments]).nan_to_num().sum(0)
    if mode == "block":  # with several windows the later ones have seen the tokens of the first
        torch.testing.assert_close(
            confidence, usual.log_probs[0].exp().double(), rtol=1e-4, atol=1e-6
        )
    for moment, record in zip(found.moments, usual.history, strict=True):
        assert moment.fixed.tolist() == record.fixed[0].tolist()
        fixed = set(moment.fixed.nonzero()[:, 0].tolist())
        assert fixed <= set(moment.positions.tolist())
        assert moment.information is None
        assert bool((moment.confidence.isnan() == ~moment.fixed).all())


@pytest.mark.parametrize(
    ("new_tokens", "options"), [(4, {}), (8, {"block_length": 2}), (6, {"mode": "full"})]
)
def test_what_is_constrained_is_recorded_as_constrained(
    new_tokens: int, options: dict[str, Any]
) -> None:
    model = tiny_model(modulator="static", window=4)
    alphabet = [model.vocabulary.decode([i]) for i in range(model.vocabulary.size)]
    constraint = pc.families.regular_expression("(at|ta)*", new_tokens, alphabet)
    given = {"new_tokens": new_tokens, "steps": 4, "constraint": constraint, **options}
    found = viz.record(model, TEXT[:8], **given)
    assert re.fullmatch("(at|ta)*", found.text[8:])
    assert found.tokens.equal(model.generate_tokens([TEXT[:8]], **given).completions[0])
    for moment in found.moments:
        likely = moment.candidates[moment.probabilities > 1e-6].tolist()
        assert {alphabet[i] for i in likely} <= {"a", "t"}


def test_a_constraint_is_about_what_is_recorded() -> None:
    model = tiny_model(modulator="static")
    constraint = pc.families.automaton([{None: 0}], {0}, 5, model.num_categories)
    with pytest.raises(DecodingError, match="expected one over the 4 new tokens, found 5"):
        viz.record(model, TEXT[:8], new_tokens=4, steps=2, constraint=constraint)


def test_the_factorised_output_has_no_dependencies() -> None:
    found = viz.record(MODEL, TEXT[:8], new_tokens=4, steps=2, coupling="factorised")
    assert found.label == "factorised"
    for moment in found.moments:
        torch.testing.assert_close(moment.information, torch.diag(moment.entropy))
        torch.testing.assert_close(moment.probabilities, moment.alone)


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    viz.record(MODEL, TEXT[:8], new_tokens=4, steps=2, progress=lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]


def test_the_page_holds_the_recording(tmp_path: Path) -> None:
    found = viz.record(MODEL, TEXT[:8], new_tokens=4, steps=2)
    path = viz.write_page(tmp_path / "page.html", [found])
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    [shown] = data_of(path.read_text())["recordings"]
    assert shown["states"][0] == [None] * 4
    assert "".join(shown["states"][-1]) == found.text[8:]
    for moment, told in zip(found.moments, shown["moments"], strict=True):
        assert told["positions"] == moment.positions.tolist()
        assert told["fixed"] == moment.fixed.nonzero()[:, 0].tolist()
        numbers = torch.tensor([[joint for _, joint, _ in row] for row in told["candidates"]])
        torch.testing.assert_close(numbers.double(), moment.probabilities, rtol=1e-5, atol=1e-9)
        information = torch.tensor(told["information"]).double()
        torch.testing.assert_close(information, moment.information, rtol=1e-5, atol=1e-9)


def test_hostile_text_stays_text() -> None:
    model = tiny_model(text=HOSTILE)
    found = viz.record(model, HOSTILE[:12], new_tokens=4, steps=2, label=HOSTILE)
    page = viz.page_of([found], title=HOSTILE)
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "<img" not in page and "<!--" not in page
    data = data_of(page)
    assert data["recordings"][0]["label"] == HOSTILE
    assert "".join(data["prompt"]) == HOSTILE[:12]
    frame = found._repr_html_()
    assert frame.count("<") == 2 and 'sandbox="allow-scripts"' in frame
    assert html.unescape(re.search('srcdoc="(.*?)"', frame, re.S).group(1)) == viz.page_of([found])


def test_the_page_asks_for_nothing() -> None:
    page = viz.page_of([viz.record(MODEL, TEXT[:8], new_tokens=4, steps=2)])
    assert "default-src &#x27;none&#x27;" in page
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    for request in ("http:", "https:", "src=", "href=", "url(", "import(", "fetch(", "@import"):
        assert request not in without_names


def test_wrong_recordings() -> None:
    with pytest.raises(DecodingError, match="num_candidates"):
        viz.record(MODEL, TEXT[:8], num_candidates=0)
    with pytest.raises(DecodingError, match="block_length"):
        viz.record(MODEL, TEXT[:8], block_size=4)
    with pytest.raises(EvaluationError, match="found none"):
        viz.page_of([])
    one, other = (viz.record(MODEL, TEXT[:n], new_tokens=4, steps=1) for n in (7, 8))
    with pytest.raises(EvaluationError, match="2 prompts"):
        viz.page_of([one, other])


def test_numbers_that_are_none_are_null() -> None:
    found = viz.record(MODEL, TEXT[:8], new_tokens=4, steps=2)
    assert math.isnan(float(found.moments[0].confidence.sum()))
    assert "NaN" not in json.dumps(data_of(viz.page_of([found])))
    assert isinstance(found, codd.viz.Recording)
