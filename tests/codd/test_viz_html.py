"""What notebooks show of joints and generations: the library's numbers, and text as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

import codd
from codd.errors import DecodingError
from tests.support.coupled import TEXT, tiny_model
from tests.support.hostile import HOSTILE

MODEL = tiny_model()


def tree(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page)  # every element is closed


def joint_of(model: codd.CoupledModel, coupling: str) -> codd.TokenDistribution:
    tokens = model.vocabulary.encode(TEXT[:16]).repeat(2, 1)
    tokens[0, [9, 13]] = model.mask_id
    return model.joint(tokens, coupling=coupling)


@pytest.mark.parametrize("coupling", ["copula", "factorised"])
def test_a_joint_shows_the_likeliest_tokens_of_masked_positions(coupling: str) -> None:
    joint = joint_of(MODEL, coupling)
    for page, texts in (
        (joint._repr_html_(), None),
        (codd.viz.joint_html(joint, MODEL.vocabulary), MODEL.vocabulary),
    ):
        rows = list(tree(page).iter("tr"))[1:]
        assert [row[0].text for row in rows] == ["1", "5"]
        for row, position in zip(rows, (1, 5), strict=True):
            marginal = joint.marginals()[0, position].detach().double()
            assert float(row[1].text) == pytest.approx(
                float(torch.special.entr(marginal).sum()), abs=1e-3
            )
            top = marginal.topk(5)
            shown = re.findall(
                r"([\d.]+) $", "\n".join(code.tail or "" for code in row.iter("code")), re.M
            )
            assert [float(s) for s in shown] == pytest.approx(top.values.tolist(), abs=1e-3)
            names = [code.text for code in row.iter("code")]
            if texts is None:
                assert names == [str(i) for i in top.indices.tolist()]
            else:
                assert names[0] == texts.decode([int(top.indices[0])]).replace(" ", "␣")
    assert repr(joint).endswith(
        f"Distribution(2 windows of 8 tokens, {MODEL.num_categories} categories, 2 masked)"
    )
    assert "2 windows of 8 tokens" in page and "2 tokens masked" in page


def test_a_generation_shows_its_tokens_on_the_colour_of_their_step() -> None:
    found = MODEL.generate_tokens([TEXT[:8], TEXT[2:7]], new_tokens=8, steps=4)
    assert found.texts == MODEL.generate([TEXT[:8], TEXT[2:7]], new_tokens=8, steps=4)
    page = found._repr_html_()
    codes = list(tree(page).iter("code"))
    for row, code in enumerate(codes):
        cells = list(code)
        assert "".join(cell.text or "" for cell in cells) == (
            MODEL.vocabulary.decode(found.completions[row]).replace(" ", "␣").replace("\ufffd", "·")
        )
        styles = [cell.attrib["style"] for cell in cells]
        for a in range(8):
            for b in range(a):
                same = bool(found.fixed_at[row, a] == found.fixed_at[row, b])
                assert (styles[a] == styles[b]) == same
    assert code.text == TEXT[2:7].replace(" ", "␣")
    assert "4 denoiser calls" in page
    assert repr(found).startswith("Generation(2 texts of 8 new tokens; 4 denoiser calls")


def test_texts_need_a_vocabulary() -> None:
    found = codd.generate(MODEL, [MODEL.vocabulary.encode(TEXT[:8])], 4, 2, block_length=4)
    with pytest.raises(DecodingError, match="vocabulary"):
        _ = found.texts
    cells = next(tree(found._repr_html_()).iter("code"))
    assert [cell.text for cell in cells] == [str(i) for i in found.completions[0].tolist()]


def test_hostile_text_stays_text() -> None:
    model = tiny_model(text=HOSTILE)
    found = model.generate_tokens(HOSTILE[:12], new_tokens=4, steps=2)
    tokens = model.vocabulary.encode(HOSTILE[:8])[None].clone()
    tokens[0, 3:] = model.mask_id
    for page in (
        found._repr_html_(),
        codd.viz.joint_html(model.joint(tokens), model.vocabulary),
    ):
        assert "<script" not in page and "<img" not in page
        assert {element.tag for element in tree(page).iter()} <= {
            "div",
            "p",
            "code",
            "span",
            "table",
            "tr",
            "th",
            "td",
        }
