"""The page: whole in itself, escaped, small, and shown by a real browser."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import ferrum_numba as fe
from ferrum_numba.report import comparison_page, layer_page, page, write_page
from ferrum_numba.report.comparison import compare_checkpoints
from tests.gptq.fixtures import fixture
from tests.report.results import failing, many, one_of_each, passing

pytest.importorskip("jinja2", reason="the report extra is not installed")
pytest.importorskip("matplotlib", reason="the report extra is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
FACTS = [("device", "cpu: a CPU, 2 threads"), ("versions", "ferrum-numba 1")]


def html_of(results):
    return page.render(layer_page("a <model>", FACTS, results))


class Elements(HTMLParser):
    """Start tags with their attributes; the text of each element with an id."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_a_page_needs_nothing_beside_it():
    html = html_of(one_of_each())
    for tag, attributes in Elements(html).tags:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), f"{tag} {name}={value}"
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp", html)


def test_what_a_checkpoint_says_is_text():
    html = html_of(one_of_each())
    assert "<script>alert" not in html
    assert "a.&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<script>") == 1


def test_the_worst_come_first():
    html = html_of([passing(), *one_of_each()])
    rows = re.findall(r'<tr class="(\w+)" data-verdict', html)
    assert rows == ["error", "mismatch", "mismatch", "refused", "pass", "pass"]
    names = re.findall(r'<td class="layer" data-sort="([^"]*)"', html)
    assert names[1] == "b.unwritten"  # NaN is worse than any number


def test_a_failing_layer_has_its_cause_and_pictures():
    html = html_of([failing()])
    found = Elements(html)
    sentence = failing().explanation.cause.sentence
    assert html.count(sentence) == 2  # above the table, and in the details
    images = [image["src"] for image in found.all("img")]
    assert len(images) == 2
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert len(found.all("rect")) == len(failing().explanation.histogram)


@pytest.mark.parametrize("layers", [[passing], [failing], [passing, failing]])
def test_a_large_model_makes_a_small_page(layers):
    html = html_of(many(224, *(layer() for layer in layers)))
    assert html.count('<td class="layer"') == 224
    assert len(html.encode()) < 3_000_000


def test_a_comparison_has_the_same_form():
    v1, v2 = (fe.Checkpoint.open(fixture(name)) for name in ("gm_v1_sym_g128", "gm_v2_asym_gm1"))
    results = list(compare_checkpoints(v1, v2, list(v1.layers)))
    html = page.render(comparison_page("v1 and v2", FACTS, results))
    assert html.count('<td class="layer"') == len(results)


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(fe.FerrumError, match=r'pip install "ferrum-numba\[report\]"'):
        write_page(tmp_path / "page.html", layer_page("a", FACTS, [passing()]))


def test_the_libraries_are_not_loaded_before_they_are_needed():
    code = (
        "import sys, ferrum_numba.cli.app\n"
        "print([m for m in ('jinja2', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# In a browser


def chromium(tmp_path, file, *options, timeout=120):
    """Standard output of a browser that has opened a file with an empty profile."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    quiet = ("--no-first-run", "--disable-background-networking", "--hide-scrollbars")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet, profile]
    done = subprocess.run(
        [*command, *options, file], capture_output=True, text=True, timeout=timeout, check=True
    )
    return done.stdout


@pytest.fixture
def opened(tmp_path):
    """open(results, script) -> the page's DOM after the script has run in it."""

    def open_page(results, script=""):
        file = tmp_path / "page.html"
        html = html_of(results)
        report = (
            "<script>onerror = message => document.title = 'error: ' + message;</script>",
            f"<script>{script}</script>",
        )
        html = html.replace("<style>", f"{report[0]}<style>", 1).replace("</body>", report[1])
        file.write_text(html, encoding="utf-8")
        return chromium(tmp_path, file.as_uri(), "--dump-dom")

    return open_page


@browser
def test_a_browser_shows_all_layers(opened):
    dom = opened(many(224, passing(), failing()))
    assert "<title>Layers verified: a &lt;model&gt;</title>" in dom
    assert '<output id="shown">224 of 224</output>' in dom
    assert dom.count('<tr class="mismatch"') == 112


@browser
def test_the_filter_and_the_buttons_hide_rows(opened):
    script = """
      const input = document.getElementById("filter");
      input.value = "layers.3."; input.dispatchEvent(new Event("input"));
      document.querySelector("button[data-verdict=mismatch]").click();
    """
    dom = opened(many(224, passing(), failing()), script)
    assert '<output id="shown">4 of 224</output>' in dom
    assert dom.count("hidden=") == 220


@browser
@pytest.mark.parametrize(("clicks", "first"), [(1, "error"), (2, "refused")])
def test_a_header_sorts(opened, clicks, first):
    click = 'document.querySelector("thead th:last-child button").click();'
    rows = re.findall(r'<tr class="(\w+)" data-verdict', opened(one_of_each(), click * clicks))
    assert rows[0] == first
    assert rows == sorted(rows, reverse=clicks == 2)


@browser
def test_numbers_sort_as_numbers(opened):
    layers = [
        replace(layer, K=K) for K, layer in zip((1024, 88, 512), many(3, passing()), strict=True)
    ]
    click = 'document.querySelectorAll("thead th button")[1].click();'
    dom = opened(layers, click)
    assert re.findall(r'wide" data-sort="(\d+)">(?:1024|88|512)<', dom) == ["1024", "512", "88"]


@browser
def test_a_link_unfolds_its_layer(opened):
    script = 'location.hash = "layer-20";'
    dom = opened(many(30, failing()), f"{script} dispatchEvent(new Event('hashchange'));")
    assert re.search(r'<details id="layer-20" class="mismatch" open="">', dom)
    assert re.search(r'<details id="layer-21" class="mismatch">', dom)


@browser
@pytest.mark.parametrize("width", [420, 800, 1120])
def test_nothing_is_wider_than_the_window(opened, tmp_path, width):
    file = tmp_path / "page.html"
    opened(
        one_of_each()[1:],
        "const widths = [...document.querySelectorAll('html, .table, figure')].map("
        "e => e.scrollWidth - e.clientWidth);"
        "document.title = Math.max(...widths);",
    )
    dom = chromium(tmp_path, file.as_uri(), "--dump-dom", f"--window-size={width},900")
    assert "<title>0</title>" in dom
    picture = tmp_path / "page.png"
    size = f"--window-size={width},900"
    chromium(tmp_path, file.as_uri(), f"--screenshot={picture}", size)
    assert struct.unpack(">II", picture.read_bytes()[16:24]) == (width, 900)
