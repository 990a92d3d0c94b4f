"""Every page of the built book in a real browser: served, light, on a desk's width and a phone's; and straight from the disk, dark."""

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
    """What axe finds to stand in the way of people with disabilities."""


VISITS = {"web": ("light", {1280: (), 390: ("scrollable-region-focusable",)}), "disk": ("dark", {1280: ("color-contrast",)})}
"""How a page is looked at: colours, widths of the window, and what axe looks for at each (everything if nothing is named)."""

LOOK = """async () => {
    if (window.MathJax) await MathJax.startup.promise;
    const frame = () => new Promise(requestAnimationFrame), later = time => new Promise(resolve => setTimeout(resolve, time));
    await frame(), await frame(), await later(400);  // 300 ms after a resize the theme lets the keyboard reach what scrolls
    const article = document.querySelector("article"), all = query => [...article.querySelectorAll(query)];
    const formulas = all(".math"), prose = article.cloneNode(true);
    prose.querySelectorAll("pre, code, mjx-container, script, style").forEach(e => e.remove());
    return {
        scroll_width: document.documentElement.scrollWidth,
        lost_images: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
        clipped: [...all("img, svg.flow"), ...document.querySelectorAll(".prev-next-area *")]
            .filter(e => e.getBoundingClientRect().right > innerWidth)
            .concat(all("div.math, div.math mjx-container").filter(e => e.scrollWidth > e.clientWidth + 1))
            .map(e => e.outerHTML.slice(0, 100)),
        untypeset: formulas.filter(e => !e.querySelector("mjx-container") || e.querySelector("mjx-merror, [data-mjx-error]")).length,
        language: article.querySelector("h1").closest("[lang]").lang,
        links: [...document.querySelectorAll("a[href]")].map(a => a.href),
        prose: prose.textContent,
    };
}"""


@pytest.fixture(scope="session")
def look(open_page, barriers, served: str, html: Path) -> Callable[..., dict[int, Seen]]:
    """Visits a page of the book, each once: what is seen by the width of the window."""

    @functools.cache
    def visit(name: str, place: str = "web") -> dict[int, Seen]:
        scheme, widths = VISITS[place]
        page, faults = open_page(f"{served if place == 'web' else html.as_uri()}/{name}.html", scheme=scheme)
        seen = {}
        for width, rules in widths.items():
            page.set_viewport_size({"width": width, "height": 900})
            seen[width] = Seen(faults=faults, **page.evaluate(LOOK), barriers=barriers(page, rules))
        page.close()
        return seen

    return visit


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_and_fits(look, name: str) -> None:
    for width, seen in look(name).items():
        assert seen.faults == []
        assert seen.lost_images == []
        assert seen.clipped == []
        assert seen.scroll_width <= width


@pytest.mark.parametrize("name", PAGES)
def test_page_works_from_the_disk(look, name: str) -> None:
    (seen,) = look(name, "disk").values()
    assert seen.faults == []
    assert seen.lost_images == []


@pytest.mark.parametrize("name", PAGES)
def test_page_has_no_barriers(look, name: str) -> None:
    assert [barrier for seen in [*look(name).values(), *look(name, "disk").values()] for barrier in seen.barriers] == []


@pytest.mark.parametrize("name", PAGES)
def test_everything_is_rendered(look, name: str) -> None:
    seen = look(name)[1280]
    assert seen.untypeset == 0
    assert UNRENDERED.findall(seen.prose) == []


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_the_book_arrive(look, served: str, html: Path, name: str) -> None:
    lost = []
    for link in {link for link in look(name)[1280].links if link.startswith(served)}:
        fragment = unquote(urlsplit(link).fragment)
        target = html / urlsplit(link).path.lstrip("/")
        if not target.is_file() or (fragment and f'id="{fragment}"' not in target.read_text(encoding="utf-8")):
            lost.append(link.removeprefix(served))
    assert lost == []


@pytest.mark.parametrize("name", PAGES)
def test_italian_pages_and_no_others_are_marked_as_italian(look, name: str) -> None:
    assert look(name)[1280].language == ("it" if name in ITALIAN else "en")


def test_performance_page_shows_the_measured_numbers(look) -> None:
    saved = json.loads((ROOT / "book" / "bench.json").read_text(encoding="utf-8"))
    prose = look("book/performance")[1280].prose
    for bench in (bench for results in saved.values() for bench in results):
        assert (
            f"{bench['ratio_median']:.2f} times as fast" in prose
            and f"{bench['date']}, commit {bench['commit']})" in prose
            and bench["hardware"] in prose
        )
    for first, *_ in saved.values():
        assert all(f"{measured['stacked_seconds']:.1f}" in prose for measured in first["rounds"])
    for limited in saved["mlp"] + saved["mlp_bf16"]:
        assert f"matrix products alone it would be {limited['limit_median']:.2f}" in prose
    for limited in (saved["mlp"][0], saved["mlp_bf16"][0]):
        assert all(f"{measured['products_seconds']:.1f}" in prose for measured in limited["rounds"])
    for rounded in saved["mlp_bf16"]:
        assert f"under autocast {rounded['ratio_bf16_median']:.2f} times" in prose


def test_performance_page_compares_the_two_precisions(look) -> None:
    runs = json.loads((ROOT / "book" / "precision.json").read_text(encoding="utf-8"))["runs"]
    prose = look("book/performance")[1280].prose
    for dtype in ("float32", "bf16"):
        values = [run["fn_star"] for run in runs if run["dtype"] == dtype]
        assert f"{dtype}: {len(values)} seeds" in prose and f"{sum(values) / len(values):.3f} [" in prose
