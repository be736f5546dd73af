"""What the tests of pages share: a browser without a network, in which nothing may go wrong."""

import os
import shutil

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def open_page():
    """Opens pages of a site in headless Chromium, offline; at the end, nothing may have gone wrong in any."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; Debian's package of that name has it")
    wrong = []
    with sync_api.sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        context = browser.new_context(offline=True, viewport={"width": 1400, "height": 900})

        def open_page(path):
            page = context.new_page()
            page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
            page.goto(path.as_uri())
            return page

        yield open_page
        browser.close()
    assert wrong == []
