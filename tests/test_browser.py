"""The pages in a real browser: `lagamc serve`'s and the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.keys import Keys

from benchmarks.browser import MISSING, Browser, open_browser
from lagamc.app import LabelPage
from lagamc.report_page import write_report
from lagamc.serving import launch
from tests.artifacts import Trained
from tests.conftest import DESCRIPTIONS, ROWS
from tests.runs import some_labels, write_run
from tests.test_serving import free_port

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script> ${7*7} {{7*7}}"

ODD_NAMES = (" padded ", "two\nlines", "007", "1e5", "NaN", "null", "true", "=1+1", "a,b", "日本")


@pytest.fixture(scope="module")
def address(trained_t5: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = LabelPage(trained_t5.load(), [ROWS[0]["text"], HOSTILE], "A model <b>").build()
        yield launch(page, port=free_port())
        page.close(verbose=False)


@pytest.fixture
def browser(address: str) -> Iterator[Browser]:
    with open_browser() as found:
        found.driver.get(address)
        found.find("#predict")
        yield found
        assert found.driver.title == "A model <b>"
        assert found.hosts() == {"127.0.0.1"}


def shown(browser: Browser) -> list[str]:
    """Labels on the page, best first."""
    return [element.text.removeprefix("✓ ") for element in browser.all("#scores .name")]


def given(browser: Browser) -> set[str]:
    return {element.text.removeprefix("✓ ") for element in browser.all("#scores .given .name")}


def cells(browser: Browser) -> list[str]:
    """The label table, cell by cell."""
    return [cell.text for cell in browser.all("#labels [role=gridcell]")]


def predict(browser: Browser, text: str) -> None:
    box = browser.find("#text textarea")
    box.clear()
    box.send_keys(text)
    browser.find("#predict").click()
    browser.wait(lambda: shown(browser))


def test_text_to_labels(browser: Browser, trained_t5: Trained) -> None:
    predict(browser, ROWS[0]["text"])
    prediction = trained_t5.load().predict([ROWS[0]["text"]])[0]
    assert sorted(shown(browser)) == sorted(DESCRIPTIONS)
    assert given(browser) == set(prediction.labels)
    styles = [element.get_attribute("style") or "" for element in browser.all("#scores .lagamc-bar")]
    widths = [float(style.partition("width: ")[2].partition("%")[0]) for style in styles]
    assert widths == pytest.approx([100 * value for value in sorted(prediction.scores.values())[::-1]], abs=0.051)
    written = browser.text("#written")
    for match in prediction.matches:
        assert match.sentence in written
        assert match.label is None or DESCRIPTIONS[match.label].rstrip(".") in written
    assert browser.errors() == []


def test_nothing_covers_anything(browser: Browser) -> None:
    predict(browser, ROWS[0]["text"])
    script = """
        const parts = '#scores h2, #scores .name, #scores .score, #written h2, #written p, #written td';
        return [...document.querySelectorAll(parts)].filter(e => { const r = e.getBoundingClientRect();
            return !e.contains(document.elementFromPoint(r.left + 3, r.top + r.height / 2)); })
            .map(e => e.textContent);
    """
    assert browser.driver.execute_script(script) == []


def test_odd_names_come_back_from_the_table_as_they_went(trained_t5: Trained) -> None:
    odd = {name: f"Late parcel {letter}" for name, letter in zip(ODD_NAMES, "abcdefghij", strict=True)}
    classifier = trained_t5.load().with_labels(odd)
    page = LabelPage(classifier).build()
    address = launch(page, port=free_port())
    with open_browser() as found:
        found.driver.get(address)
        found.find("#predict")
        predict(found, ROWS[0]["text"])
        scores = classifier.predict([ROWS[0]["text"]])[0].scores
        ranked = sorted(scores, key=lambda name: -scores[name])
        texts = found.driver.execute_script(
            "return [...document.querySelectorAll('#scores .name')].map(e => e.textContent)"
        )
        assert [text.removeprefix("✓ ") for text in texts] == ranked
    page.close(verbose=False)


def test_keyboard_alone(browser: Browser) -> None:
    active = browser.driver.switch_to.active_element
    assert active.tag_name == "textarea"  # the text is where one begins
    active.send_keys("Where is my parcel?", Keys.SHIFT, Keys.ENTER)
    browser.wait(lambda: shown(browser))
    reached = set()
    for _ in range(40):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        element = browser.driver.switch_to.active_element
        reached |= {
            name
            for name in ("predict", "tuned", "threshold", "labels", "new-label", "new-description", "add", "reset")
            if browser.driver.execute_script("return !!arguments[0].closest('#' + arguments[1])", element, name)
        }
    assert reached == {"predict", "tuned", "threshold", "labels", "new-label", "new-description", "add", "reset"}


def test_slider_by_keyboard(browser: Browser) -> None:
    predict(browser, ROWS[0]["text"])
    slider = browser.find("#threshold input[type=range]")
    slider.send_keys(Keys.HOME)
    browser.wait(lambda: given(browser) == set(DESCRIPTIONS))
    assert not browser.find("#tuned input").is_selected()
    slider.send_keys(Keys.END)
    browser.wait(lambda: not given(browser))
    browser.find("#tuned input").click()
    browser.wait(lambda: browser.all("#scores .lagamc-limit"))


def test_an_added_label_is_predicted_at_once(browser: Browser) -> None:
    predict(browser, "Where can I leave my car?")
    assert "parking" not in shown(browser)
    browser.find("#new-label textarea, #new-label input").send_keys("parking")
    browser.find("#new-description textarea, #new-description input").send_keys("Parking: where to leave a car.")
    browser.find("#add").click()
    browser.wait(lambda: "parking" in shown(browser))
    assert "parking" in browser.text("#labels")
    browser.find("#reset").click()
    browser.wait(lambda: shown(browser) and "parking" not in shown(browser))


def test_a_cell_of_the_table_is_edited(browser: Browser) -> None:
    predict(browser, "Where is it?")
    browser.wait(lambda: "praise" in cells(browser))
    next(cell for cell in browser.all("#labels [role=gridcell]") if cell.text == "praise").click()
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    field = browser.driver.switch_to.active_element
    field.send_keys(Keys.CONTROL, "a")
    browser.driver.switch_to.active_element.send_keys("kudos", Keys.ENTER)
    browser.wait(lambda: "kudos" in shown(browser))
    assert "praise" not in shown(browser)


def test_hostile_text_and_labels_are_text(browser: Browser) -> None:
    browser.find("#new-label textarea, #new-label input").send_keys(HOSTILE)
    browser.find("#new-description textarea, #new-description input").send_keys(f"Bad: {HOSTILE}")
    browser.find("#add").click()
    predict(browser, HOSTILE)
    browser.wait(lambda: HOSTILE in shown(browser))
    assert "49" not in browser.text("#scores")
    # the same name again: the complaint is text as well
    browser.find("#new-label textarea, #new-label input").send_keys(HOSTILE)
    browser.find("#new-description textarea, #new-description input").send_keys("x")
    browser.find("#add").click()
    browser.wait(lambda: "is there already" in browser.text("#message"))
    assert browser.all("#message img, #scores img, #written img, #labels img") == []
    assert "<b>" in browser.text("h1")


def test_an_example_is_predicted(browser: Browser) -> None:
    row = next(element for element in browser.all("table tr, button.gallery-item") if ROWS[0]["text"] in element.text)
    row.click()
    browser.wait(lambda: shown(browser))
    assert browser.find("#text textarea").get_attribute("value") == ROWS[0]["text"]


def test_complaints_are_shown(browser: Browser) -> None:
    browser.find("#predict").click()
    browser.wait(lambda: browser.text("#message") == "Write a text first.")
    assert browser.all("#message [role=alert]")
    box = browser.find("#text textarea")
    browser.driver.execute_script("arguments[0].removeAttribute('maxlength')", box)
    browser.driver.execute_script(
        "arguments[0].value = 'x'.repeat(10001); arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", box
    )
    browser.find("#predict").click()
    browser.wait(lambda: "takes up to 10,000" in browser.text("#message"))


def test_a_file_is_predicted_and_downloaded(browser: Browser, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"id": row["id"], "text": row["text"]}) + "\n" for row in ROWS), "utf-8")
    next(e for e in browser.all("button") if e.text.strip().startswith("A file")).click()
    browser.find("#file")
    browser.driver.find_element("css selector", "#file input[type=file]").send_keys(str(source))
    browser.wait(lambda: "in.jsonl" in browser.text("#file").replace("\n", ""))
    browser.find("#predict-file").click()
    browser.wait(lambda: "6 rows" in browser.text("#done"))
    link = browser.find("#predictions a[download], #predictions a[href]")
    content = browser.driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then(r => r.text()).then(done)", link.get_attribute("href")
    )
    assert [json.loads(line)["id"] for line in content.splitlines()] == [row["id"] for row in ROWS]


def test_the_report_in_a_browser(tmp_path: Path) -> None:
    names = {HOSTILE: f"Bad: {HOSTILE}", **some_labels(89)}
    report = write_report(write_run(tmp_path / "run", names, rows=100, texts=dict.fromkeys(range(100), HOSTILE)))
    with open_browser() as found:
        found.driver.get(report.as_uri())
        pictures = found.all("img")
        assert len(pictures) == 9
        assert all(found.driver.execute_script("return arguments[0].naturalWidth > 500", p) for p in pictures)
        assert found.driver.title.startswith("LAGAMC on")
        assert found.hosts() == set()
        assert HOSTILE in found.text("body")
        # nothing is wider than the window
        wide = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert found.driver.execute_script(wide)
        for link in found.all("nav a"):
            target = (link.get_attribute("href") or "").rsplit("#", 1)[1]
            assert found.all(f"#{target}")
