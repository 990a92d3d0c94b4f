"""Every page of the built book in a real browser: served, light, on a phone's width and on a desk's; and straight from the disk, dark."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
ITALIAN = {chapter["file"] for part in TOC["parts"] if part["caption"].startswith("Parte") for chapter in part["chapters"]}
WIDTHS = [390, 1280]

UNRENDERED = re.compile(r"\{[a-z:-]+\}|\{\{|\}\}|```|:::|\bnan\b|\bNaN\b|\bNone\b|<NA>")
"""What is left of a role, a directive, a substitution or a number where none came; sought in prose, not in code."""


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
    barriers: list[str]
    """What stands in the way of people with disabilities, as far as `AXE_RULES` goes."""


AXE_RULES = {(390, "light"): ["scrollable-region-focusable"], (1280, "light"): [], (1280, "dark"): ["color-contrast"]}
"""By width and mode: what axe looks for, everything if nothing is named."""
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
def look(open_page, barriers) -> Callable[[str, int, str], Seen]:
    """Visits an address in a window of some width, in light or dark mode, each once."""

    @functools.cache
    def visit(address: str, width: int, scheme: str = "light") -> Seen:
        page, faults = open_page(address, width, scheme)
        seen = Seen(faults=faults, **page.evaluate(LOOK), barriers=barriers(page, AXE_RULES[width, scheme]))
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
    assert look((html / f"{name}.html").as_uri(), 1280, "dark").faults == []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_barriers(look, served: str, html: Path, name: str) -> None:
    address = f"{served}/{name}.html"
    seen = [look(address, 390), look(address, 1280), look((html / f"{name}.html").as_uri(), 1280, "dark")]
    assert [barrier for visit in seen for barrier in visit.barriers] == []


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
