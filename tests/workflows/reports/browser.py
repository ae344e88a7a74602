"""A real browser: pages are opened in Chromium, and checked with axe-core."""

import shutil

import pytest

PAPER = 718  # pixels between the margins of A4
REACHED = """() => [...document.querySelectorAll("a[href], summary, select, input, button, [tabindex]")]
  .filter(one => one.checkVisibility()).map(one => one.outerHTML.slice(0, 99))"""
FOCUSED = """() => {
  const one = document.activeElement, box = one.getBoundingClientRect();
  const {outlineStyle, outlineWidth} = getComputedStyle(one);
  return {html: one.outerHTML.slice(0, 99), ringed: outlineStyle === "solid" && parseFloat(outlineWidth) >= 2,
    inside: box.height > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth};
}"""
UNREAD = """() => [...document.querySelectorAll("figure")].filter(one =>
  !one.querySelector("figcaption :is(h2, h3)")?.innerText || !one.querySelector("tbody td")
  || one.querySelector("svg:not([aria-hidden=true])")).map(one => one.outerHTML.slice(0, 200))"""


def launched(playwright, failure):
    """Return Chromium, of the system or of Playwright; skip the test if there is none."""
    system = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        return playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
    except failure as error:
        pytest.skip(f"needs a browser: install chromium, or run `playwright install chromium` ({error})")


def audit(browser, html):
    """Open a page at 400 pixels, light and dark, check what every page owes its readers, and return it.

    No request, no message on the console, nothing that axe-core objects to, and nothing wider than the window, also one
    of 1600 pixels, and a printed page. Tab reaches all that can be used, in the order of the page, and shows where it
    is. A figure has a title, and its numbers as a table for those who do not see the picture.
    """
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.set_content(html)
        for media, width in (("print", PAPER), ("screen", 1600), ("screen", 400)):
            page.emulate_media(media=media)
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width, media
        problems = Axe().run(page).response["violations"]
        assert not [(problem["id"], problem["nodes"][0]["html"][:200]) for problem in problems]
        assert (said, [url for url in asked if not url.startswith("data:")]) == ([], [])
    assert page.evaluate(UNREAD) == []
    assert [stop["html"] for stop in stops(page)] == page.evaluate(REACHED)
    return page


def stops(page):
    """Press Tab from the top of a page to its end; return what has had the focus, which is always to be seen."""
    found = []
    for _ in page.evaluate(REACHED):
        page.keyboard.press("Tab")
        found.append(page.evaluate(FOCUSED))
        assert found[-1]["ringed"], found[-1]
        assert found[-1]["inside"], found[-1]
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)["html"] != found[-1]["html"], "the focus cannot leave the page"
    return found
