"""The built site works in a browser without any other host. `tox -e docs` builds and tests it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

if "AICONTENT_SITE" not in os.environ:
    pytest.skip("run by tox -e docs", allow_module_level=True)
SITE = Path(os.environ["AICONTENT_SITE"])
PAGES = sorted(str(page.relative_to(SITE)) for page in SITE.rglob("*.html"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Resources(HTMLParser):
    """Collect the addresses that a page loads without a click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(names.get("src") or "")
        elif tag == "link" and names.get("rel") in ("stylesheet", "icon", "preload"):
            self.addresses.append(names.get("href") or "")


def test_the_site_has_its_pages():
    assert {"index.html", "tutorial.html", "reference/api.html"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_nothing_from_another_host(page):
    resources = Resources()
    resources.feed((SITE / page).read_text("utf-8"))
    assert [each for each in resources.addresses if "//" in each] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390], ids=["desk", "phone"])
def test_pages_load_without_errors_and_their_pictures_have_a_size(browser, width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    errors: list[str] = []
    page.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(request.url))
    pictures = 0
    for name in PAGES:
        page.goto((SITE / name).as_uri())
        sizes = page.evaluate("[...document.images].map((i) => [i.src, i.naturalWidth, i.width])")
        errors += [f"{name}: {source} has no size" for source, *size in sizes if not all(size)]
        pictures += len(sizes)
        wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
        errors += [f"{name} is {wide} pixels too wide"] if wide > 0 else []
    assert errors == []
    assert pictures >= 3
