"""A browser for all tests of pages."""

import pytest

from tests.workflows.reports.browser import launched


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
    with api.sync_playwright() as playwright, launched(playwright, api.Error) as chromium:
        yield chromium
