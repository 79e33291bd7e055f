"""The page in a real browser: the slider moves, pointing tells the library's own numbers.

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium. Without them the
tests are skipped, unless CODD_BROWSER=required says that they have to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from codd import viz
from tests.support.coupled import TEXT, tiny_model
from tests.support.hostile import HOSTILE

MODEL = tiny_model(sharpness=8.0)


@pytest.fixture(scope="module")
def recordings() -> dict[str, viz.Recording]:
    return {
        name: viz.record(
            MODEL, TEXT[:8], new_tokens=8, block_length=8, steps=4, seed=1, coupling=name
        )
        for name in ("factorised", "copula")
    }


@pytest.fixture
def page(browser: Any, recordings: dict[str, viz.Recording], tmp_path: Path) -> Iterator[Any]:
    path = viz.write_page(tmp_path / "page.html", list(recordings.values()))
    browser.get(path.as_uri())
    yield browser
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert errors == []
    # One file: the page itself is all that was loaded.
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def find(page: Any, css: str) -> list[Any]:
    found: list[Any] = page.find_elements("css selector", css)
    return found


def cells(page: Any, label: str) -> list[Any]:
    return find(page, f'[data-label="{label}"] .cell')


def point_at(page: Any, element: Any) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).move_to_element(element).perform()


def press(page: Any, key: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(key).perform()


def seen(token: int) -> str:
    if token == MODEL.mask_id:
        return "■"
    return MODEL.vocabulary.decode([token]).replace(" ", "␣")


def state_of(recording: viz.Recording, step: int) -> torch.Tensor:
    states = [*(moment.tokens for moment in recording.moments), recording.tokens]
    return states[step]


def assert_state(page: Any, recordings: dict[str, viz.Recording], step: int) -> None:
    assert find(page, "#where")[0].text == f"after step {step} of 4"
    for label, recording in recordings.items():
        shown = [cell.text for cell in cells(page, label)]
        assert shown == [seen(i) for i in state_of(recording, step).tolist()]


def test_slider_and_keys_move_over_the_steps(
    page: Any, recordings: dict[str, viz.Recording]
) -> None:
    from selenium.webdriver import ActionChains, Keys

    assert_state(page, recordings, 0)
    press(page, Keys.ARROW_RIGHT)
    assert_state(page, recordings, 1)
    [slider] = find(page, "#step")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert_state(page, recordings, 2)
    ActionChains(page).move_to_element_with_offset(
        slider, slider.size["width"] // 2 - 2, 0
    ).click().perform()
    assert_state(page, recordings, 4)
    find(page, "#first")[0].click()
    assert_state(page, recordings, 0)
    find(page, "#next")[0].click()
    assert_state(page, recordings, 1)


@torch.no_grad()
@pytest.mark.parametrize("step", [0, 2])
def test_pointing_tells_the_joints_numbers(
    page: Any, recordings: dict[str, viz.Recording], step: int
) -> None:
    """Every number that is shown is computed anew from the model, not from the recording."""
    from selenium.webdriver import Keys

    for _ in range(step):
        press(page, Keys.ARROW_RIGHT)
    recording = recordings["copula"]
    state = state_of(recording, step)
    tokens = torch.cat((recording.prompt, state))[None]
    joint = MODEL.joint(tokens, coupling="copula")
    marginals, information = joint.marginals()[0], joint.mutual_information()[0]
    alone = MODEL.denoise(tokens).logits[0, -8:].softmax(-1)
    position = int((state == MODEL.mask_id).nonzero()[-1])

    point_at(page, cells(page, "copula")[position])

    pane = '[data-label="copula"]'
    assert find(page, f"{pane} .what")[0].text == (
        f"position {position}: masked, before step {step + 1}"
    )
    rows = find(page, f"{pane} .candidates tr")[1:]
    top = marginals[position].topk(8)
    for row, token, probability in zip(
        rows, top.indices.tolist(), top.values.tolist(), strict=True
    ):
        name, first, second = (
            row.find_element("css selector", css) for css in (".token", ".joint", ".alone")
        )
        assert name.text == seen(token)
        assert float(first.get_attribute("data-value")) == pytest.approx(probability, rel=1e-4)
        assert first.text == f"{probability:.3f}" or probability < 1e-3
        assert float(second.get_attribute("data-value")) == pytest.approx(
            float(alone[position, token]), rel=1e-4
        )
    others = [
        i for i, token in enumerate(state.tolist()) if token == MODEL.mask_id and i != position
    ]
    for place, cell in enumerate(cells(page, "copula")):
        shown = cell.get_attribute("data-information")
        assert (shown is not None) == (place in others)
        if shown is not None:
            expected = float(information[position, place])
            assert float(shown) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    strongest = max(others, key=lambda i: float(information[position, i]))
    first_row = find(page, f"{pane} .bonds td")
    assert first_row[0].text == str(strongest)
    assert first_row[1].text == f"{float(information[position, strongest]):.3f}"
    assert find(page, f"{pane} svg.lines path")


def test_the_factorised_output_shows_no_dependencies(page: Any) -> None:
    point_at(page, cells(page, "factorised")[3])
    assert "independent" in find(page, '[data-label="factorised"] .bonds')[0].text
    assert not find(page, '[data-label="factorised"] svg.lines path')
    assert find(page, '[data-label="copula"] .what')  # both panes tell of the same position


def test_colours_are_of_steps_or_confidences(
    page: Any, recordings: dict[str, viz.Recording]
) -> None:
    from selenium.webdriver import Keys
    from selenium.webdriver.support.ui import Select

    press(page, Keys.END)
    recording = recordings["copula"]
    by_step = {}
    for step, moment in enumerate(recording.moments):
        for position in moment.fixed.nonzero()[:, 0].tolist():
            cell = cells(page, "copula")[position]
            assert cell.get_attribute("data-step") == str(step + 1)
            shown = float(cell.get_attribute("data-confidence"))
            assert shown == pytest.approx(float(moment.confidence[position]), rel=1e-5)
            by_step.setdefault(step, set()).add(cell.value_of_css_property("background-color"))
    assert all(len(colours) == 1 for colours in by_step.values())
    assert len(set.union(*by_step.values())) == 4
    before = cells(page, "copula")[0].value_of_css_property("background-color")
    Select(find(page, "#colour")[0]).select_by_value("confidence")
    after = cells(page, "copula")[0].value_of_css_property("background-color")
    assert before != after
    point_at(page, cells(page, "copula")[0])
    assert "fixed by step" in find(page, '[data-label="copula"] .what')[0].text


def test_a_click_keeps_a_token_and_escape_lets_it_go(page: Any) -> None:
    from selenium.webdriver import Keys

    cells(page, "copula")[2].click()
    point_at(page, find(page, "footer")[0])
    assert "position 2" in find(page, '[data-label="copula"] .what')[0].text
    press(page, Keys.ESCAPE)
    assert not find(page, ".what")


def test_dark_mode_is_dark(page: Any) -> None:
    def paper() -> str:
        found: str = find(page, "body")[0].value_of_css_property("background-color")
        return found

    light = paper()
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    dark = paper()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light != dark


def test_panes_and_tables_lie_side_by_side_inside_the_window(page: Any) -> None:
    point_at(page, cells(page, "copula")[3])
    boxes = [pane.rect for pane in find(page, ".pane")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    for box in boxes:
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1400
    for pane in find(page, ".pane"):
        first, second = (table.rect for table in pane.find_elements("css selector", "table"))
        apart = first["x"] + first["width"] <= second["x"]
        below = first["y"] + first["height"] <= second["y"]
        assert apart or below


def test_hostile_text_is_shown_and_does_nothing(browser: Any, tmp_path: Path) -> None:
    model = tiny_model(text=HOSTILE)
    found = viz.record(model, HOSTILE[:12], new_tokens=4, steps=2, label=HOSTILE)
    browser.get(viz.write_page(tmp_path / "x.html", [found], title=HOSTILE).as_uri())
    assert browser.execute_script("return window.hacked") is None
    assert find(browser, "img") == [] and len(find(browser, "script")) == 2
    assert find(browser, "h2")[0].get_property("textContent") == HOSTILE
    assert find(browser, "h1")[0].get_property("textContent") == HOSTILE
    assert len(find(browser, ".cell")) == 4
    point_at(browser, find(browser, ".cell")[0])
    assert len(find(browser, ".candidates tr")) == 9
    assert browser.execute_script("return window.hacked") is None
