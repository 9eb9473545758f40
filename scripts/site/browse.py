"""Open every page of the built site in a real browser, and see that it works.

    mkdocs build -f scripts/site/mkdocs.yml
    python scripts/site/browse.py site [--pictures FOLDER]

Each page loads without an error in the console; each link, anchor and picture leads somewhere; each
block of code has its text and a button to copy it; a narrow window needs no sideways scrolling; and
the search finds pages by their words.  Needs Chromium with its driver, and the package selenium.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

QUIET = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
    *("disable-background-networking", "disable-component-update", "hide-scrollbars"),
)
# What a reader may type, and a page that has to be among the first answers.
SEARCHES = {
    "race report": "tutorials/race.html",
    "operand-transposed": "reference/errors.html",
    "capture": "tutorials/decode-loop.html",
    "zero convention": "explanation/zeros.html",
    "FERRUM_CACHE_DIR": "reference/environment.html",
    "prepare": "reference/launching.html",
}
SHOTS = ("index.html", "tutorials/wrong-launch.html", "reference/launching.html")


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def main() -> None:
    """Look at all pages; exit with 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--pictures", type=Path, help="write screenshots into this folder")
    arguments = parser.parse_args()
    handler = partial(_Silent, directory=str(arguments.site.resolve()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}/"
    pages = sorted(
        str(path.relative_to(arguments.site))
        for path in arguments.site.rglob("*.html")
        if path.name != "404.html"
    )
    with tempfile.TemporaryDirectory() as profile:
        browser = _browser(profile)
        try:
            wrong = _look(browser, base, pages) + _search(browser, base)
            if arguments.pictures is not None:
                _shoot(browser, base, arguments.pictures)
        finally:
            browser.quit()
            server.shutdown()
    print(*wrong, f"{len(pages)} pages, {len(SEARCHES)} searches: {len(wrong)} wrong", sep="\n")
    raise SystemExit(bool(wrong))


def _browser(profile: str) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*QUIET, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def _look(browser: Any, base: str, pages: list[str]) -> list[str]:
    """Problems on the pages."""
    wrong: list[str] = []
    anchors: dict[str, set[str]] = {}
    links: dict[str, set[str]] = {}
    for page in pages:
        browser.set_window_size(1280, 900)
        browser.get(base + page)
        said = [entry["message"] for entry in browser.get_log("browser")]
        wrong += [f"{page}: {each}" for each in said if "127.0.0.1" in each or "rror" in each]
        found = browser.execute_script(
            "return {ids: [...document.querySelectorAll('[id]')].map(e => e.id),"
            " links: [...document.querySelectorAll('article a[href], nav a[href]')]"
            ".map(e => e.getAttribute('href')),"
            " broken: [...document.images].filter(e => !e.naturalWidth).map(e => e.src),"
            " code: [...document.querySelectorAll('pre > code')].map(e => [e.innerText.trim()"
            ".length, !!e.closest('pre').querySelector('button')])}"
        )
        url = base + page
        anchors[url] = set(found["ids"])
        links[url] = {urljoin(url, href) for href in found["links"]}
        wrong += [f"{page}: no picture: {source}" for source in found["broken"]]
        wrong += [f"{page}: an empty block of code" for length, _ in found["code"] if not length]
        wrong += [f"{page}: no button to copy" for _, button in found["code"] if not button]
        browser.set_window_size(500, 900)  # the narrowest that Chromium makes
        wide = browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        wrong += [f"{page}: {wide} pixels wider than a narrow window"] if wide > 1 else []
    for url, targets in links.items():
        for target in targets:
            place, anchor = urldefrag(target)
            if not place.startswith(base):
                continue
            place = place + "index.html" if place.endswith("/") else place
            if place not in anchors:
                wrong.append(f"{url}: a link to nothing: {target}")
            elif anchor and anchor not in anchors[place]:
                wrong.append(f"{url}: a link to no heading: {target}")
    return [each.replace(base, "") for each in wrong]


def _search(browser: Any, base: str) -> list[str]:
    """The searches whose page is not found."""
    wrong = []
    browser.set_window_size(1280, 900)
    for words, page in SEARCHES.items():
        browser.get(f"{base}index.html?q={words}")
        try:
            WebDriverWait(browser, 15).until(
                lambda b: b.find_elements(By.CSS_SELECTOR, ".md-search-result__item a")
            )
        except Exception:
            wrong.append(f"search {words!r}: no answer")
            continue
        found = browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item a")
        hrefs = [each.get_attribute("href") or "" for each in found]
        if not any(page in href for href in hrefs[:12]):
            wrong.append(f"search {words!r}: not {page}, but {hrefs[:3]}")
    return wrong


def _shoot(browser: Any, base: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for page in SHOTS:
        for width in (1280, 500):
            browser.set_window_size(width, 1400)
            browser.get(base + page)
            name = page.replace("/", "-").removesuffix(".html")
            browser.save_screenshot(str(folder / f"{name}-{width}.png"))


if __name__ == "__main__":
    main()
