"""A browser without a screen: Playwright's own Chromium, or one that is installed."""

import os
import shutil

import pytest

INSTALLED = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    """Chromium; the tests are skipped where there is none."""
    reason = "needs Playwright: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = (
            own
            if os.path.exists(own)
            else next(filter(None, map(shutil.which, INSTALLED)), None)
        )
        if found is None:
            pytest.skip("no Chromium here: playwright install chromium")
        # Its sandbox needs rights that a container does not give.
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Opens a page; no script of it may fail, and it may ask for nothing elsewhere."""
    contexts, errors, elsewhere = [], [], []

    def open_page(url, width=1280, scheme="light"):
        size = {"width": width, "height": 900}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: elsewhere.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert errors == []
    mine = ("file:", "data:", "http://127.0.0.1:")
    assert [url for url in elsewhere if not url.startswith(mine)] == []
