"""A real browser: pages are opened in Chromium, and checked with axe-core."""

import shutil

import pytest

PAPER = 718  # pixels between the margins of A4


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
    of 1600 pixels, and a printed page.
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
    return page
