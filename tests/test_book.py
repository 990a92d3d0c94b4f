"""Every page of the built book in a real browser, on a phone's width and on a desk's, served and straight from the disk."""

import functools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from playwright.sync_api import Browser, sync_playwright

from ncbook.build import build_book

ROOT = Path(__file__).resolve().parent.parent
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
ITALIAN = {chapter["file"] for part in TOC["parts"] if part["caption"].startswith("Parte") for chapter in part["chapters"]}
WIDTHS = [390, 1280]

BROWSER_ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
    --disable-sync""".split()

UNRENDERED = re.compile(r"\{[a-z:-]+\}|\{\{|\}\}|```|:::|\bnan\b|\bNaN\b|\bNone\b|<NA>")
"""What is left of a role, a directive, a substitution or a number where none came; sought in prose, not in code."""


@pytest.fixture(scope="session")
def html() -> Path:
    return build_book().parent


@pytest.fixture(scope="session")
def served(html: Path) -> Iterator[str]:
    """The address of a web server over the book."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.fail("Chromium, in which pages are tested, is missing: install Debian's package chromium, or name the program in CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Seen:
    """What a browser found on a page, once formulas were typeset."""

    faults: list[str]
    """Errors of scripts, failed requests, and requests to anything but the book."""
    scroll_width: int
    lost_images: list[str]
    clipped: list[str]
    """Figures that reach beyond the window."""
    untypeset: int
    """Formulas that MathJax left alone or could not read."""
    language: str
    """The language in which a screen reader reads the page's title."""
    links: list[str]
    prose: str
    """The article's text without code and formulas."""


LOOK = """async () => {
    if (window.MathJax) await MathJax.startup.promise;
    const article = document.querySelector("article"), all = query => [...article.querySelectorAll(query)];
    const formulas = all(".math"), prose = article.cloneNode(true);
    prose.querySelectorAll("pre, code, mjx-container, script, style").forEach(e => e.remove());
    return {
        scroll_width: document.documentElement.scrollWidth,
        lost_images: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
        clipped: all("img, svg.flow").filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 100)),
        untypeset: formulas.filter(e => !e.querySelector("mjx-container") || e.querySelector("mjx-merror, [data-mjx-error]")).length,
        language: article.querySelector("h1").closest("[lang]").lang,
        links: [...document.querySelectorAll("a[href]")].map(a => a.href),
        prose: prose.textContent,
    };
}"""


@pytest.fixture(scope="session")
def look(browser: Browser) -> Callable[[str, int], Seen]:
    """Visits an address in a window of some width, each once."""

    @functools.cache
    def visit(address: str, width: int) -> Seen:
        own = ("data:", "blob:", address.split("/")[0] + "//" + address.split("/")[2] + "/")
        faults: list[str] = []
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("response", lambda response: response.status >= 400 and faults.append(f"{response.status}: {response.url}"))
        page.on("request", lambda request: request.url.startswith(own) or faults.append(f"not of this book: {request.url}"))
        page.goto(address, wait_until="load")
        seen = Seen(faults=faults, **page.evaluate(LOOK))
        page.close()
        return seen

    return visit


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_loads_and_fits(look, served: str, name: str, width: int) -> None:
    seen = look(f"{served}/{name}.html", width)
    assert seen.faults == []
    assert seen.lost_images == []
    assert seen.clipped == []
    assert seen.scroll_width <= width


@pytest.mark.parametrize("name", PAGES)
def test_page_works_from_the_disk(look, html: Path, name: str) -> None:
    assert look((html / f"{name}.html").as_uri(), 1280).faults == []


@pytest.mark.parametrize("name", PAGES)
def test_everything_is_rendered(look, served: str, name: str) -> None:
    seen = look(f"{served}/{name}.html", 1280)
    assert seen.untypeset == 0
    assert UNRENDERED.findall(seen.prose) == []


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_the_book_arrive(look, served: str, html: Path, name: str) -> None:
    lost = []
    for link in {link for link in look(f"{served}/{name}.html", 1280).links if link.startswith(served)}:
        fragment = unquote(urlsplit(link).fragment)
        target = html / urlsplit(link).path.lstrip("/")
        if not target.is_file() or (fragment and f'id="{fragment}"' not in target.read_text(encoding="utf-8")):
            lost.append(link.removeprefix(served))
    assert lost == []


@pytest.mark.parametrize("name", PAGES)
def test_italian_pages_and_no_others_are_marked_as_italian(look, served: str, name: str) -> None:
    assert look(f"{served}/{name}.html", 1280).language == ("it" if name in ITALIAN else "en")


def test_performance_page_shows_the_measured_numbers(look, served: str) -> None:
    bench = json.loads((ROOT / "book" / "bench.json").read_text(encoding="utf-8"))
    prose = look(f"{served}/book/performance.html", 1280).prose
    assert f"{bench['ratio_median']:.2f} times as fast" in prose and bench["date"] in prose and bench["hardware"] in prose
    for number in (f"{measured['stacked_seconds']:.1f}" for measured in bench["rounds"]):
        assert number in prose
