"""The pages in a real browser: by mouse, by keyboard alone, on a phone, in the dark, without a complaint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from shell_kit import Shell, shell

from lte.serve.config import ServeConfig
from lte.serve.listen import listening
from lte.serve.run import uvicorn_config

BROWSER = Path("/usr/bin/chromium")  # Debian's
QUESTION = "What is the capital of Lunaria?"
PAGES = ("edits", "edits/new", "edits/e1", "edits/e1/change", "playground", "audit", "metrics", "health", "login")

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = pytest.mark.skipif(not BROWSER.exists(), reason=f"needs a browser at {BROWSER}: apt-get install chromium")


@pytest.fixture
def made(fakes: Any, tmp_path: Path) -> Iterator[tuple[Shell, str]]:
    """The admin port on a socket, and where it is."""
    with shell(fakes, tmp_path, keys=False) as inside, listening("127.0.0.1", 0) as door:
        server = uvicorn.Server(uvicorn_config(ServeConfig(drain_seconds=1), inside.apps.admin))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            yield inside, f"http://127.0.0.1:{door.getsockname()[1]}/ui"
        finally:
            server.should_exit = True
            thread.join(60)


@pytest.fixture
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=str(BROWSER), args=["--no-sandbox"])
        yield opened
        opened.close()


def tab(browser: Any, **options: Any) -> tuple[Any, list[str]]:
    """A page, and what its console complains of: errors, and what the policy of the page forbids."""
    page, told = browser.new_context(**options).new_page(), list[str]()
    page.set_default_timeout(60_000)
    page.on("console", lambda said: told.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("requestfailed", lambda failed: told.append(f"failed: {failed.url}"))
    return page, told


def test_an_edit_is_added_asked_about_and_taken_back(made: tuple[Shell, str], browser: Any) -> None:
    (inside, at), (page, told) = made, tab(browser)
    page.goto(f"{at}/edits")
    page.get_by_label("Words").fill("nothing like it")
    page.get_by_text("nearest in meaning").wait_for()  # htmx swapped it in
    page.get_by_role("link", name="Add an edit").click()
    page.get_by_label("The sentence, up to what is new").fill("The moon of Mars is")
    page.get_by_label("How it ends from now on").fill("Deimos")
    page.get_by_label("What it is about").fill("Mars")
    page.get_by_label("Why").fill("a test")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("in force for the next question").wait_for()
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("Question").fill("Which moon has Mars?")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("1 edit is in play, and the answer is another.").wait_for()
    before, after = page.locator(".answer").all_inner_texts()
    assert before.startswith("base ") and after.startswith("lte ") and "Deimos" in after
    assert page.url == f"{at}/playground"  # no new page
    page.get_by_role("link", name="The moon of Mars is Deimos").first.click()
    page.get_by_label("Why").fill("taken back")
    page.get_by_role("button", name="Undo the last change").click()
    page.get_by_text("The edit is as it was before.").wait_for()
    assert len(inside.memory) == 2 and inside.memory.changes()[-1].by.reason == "taken back"
    assert told == []


def test_the_keyboard_is_enough(made: tuple[Shell, str], browser: Any) -> None:
    (inside, at), (page, told) = made, tab(browser)
    page.goto(f"{at}/playground")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # in sight once it has the focus
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type(QUESTION)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle + document.activeElement.innerText")
    assert outline == "solidAsk"
    page.keyboard.press("Enter")
    page.get_by_text("1 edit is in play").wait_for()
    assert page.locator("#answer[aria-live=polite] .sides").count() == 1
    assert inside.lm.asked == 2 and told == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_every_page_in_both_lights(made: tuple[Shell, str], browser: Any, dark: bool) -> None:
    (_, at), (page, told) = (
        made,
        tab(browser, viewport={"width": 360, "height": 740}, color_scheme="dark" if dark else "light"),
    )
    for name in PAGES:
        page.goto(f"{at}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
        paper, ink = (page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color"))
        assert (light(paper) < light(ink)) is dark, name
    assert told == []


def test_without_scripts_everything_is_there(made: tuple[Shell, str], browser: Any) -> None:
    (_, at), (page, _told) = made, tab(browser, java_script_enabled=False)
    page.goto(f"{at}/playground")
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask").click()
    assert page.get_by_text("1 edit is in play").count() == 1
    page.goto(f"{at}/edits")
    page.get_by_label("Words").fill("Thule")
    page.get_by_role("button", name="Search").click()
    assert page.get_by_text("1 of 2 edits").count() == 1


def light(colour: str) -> int:
    """How bright rgb(r, g, b) is."""
    return sum(int(part) for part in colour[4:-1].split(","))
