"""The whole book as one PDF: the built pages one after the other, as a single page that Chromium prints."""

import os
import posixpath
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader

from ncbook import __version__
from ncbook.build import HTML, BuildError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
BROWSER_ARGUMENTS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update
    --disable-sync""".split()
NUMBER_CONTENTS = """numbers => document.querySelectorAll("nav a").forEach(link => {
    link.nextElementSibling.textContent = numbers[link.hash.slice(1)];
})"""
_WIDGET = {"it": "Qui la pagina HTML ha un grafico da esplorare.", "en": "Here the HTML page has a figure to explore."}
_SCREEN_ONLY = "script, a.headerlink, button, details.hide, .visually-hidden"
_OTHER_IDS = ("aria-labelledby", "aria-describedby", "for", "headers")
_PATIENCE = 300_000  # milliseconds that Chromium has for all formulas


def chromium() -> str:
    """The browser's program: what the environment variable CHROMIUM names, else the first of `BROWSERS` that is there.

    Raises `BuildError` if there is none.
    """
    if program := os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None):
        return program
    raise BuildError(
        "There is no Chromium, which prints the book and opens its pages in tests: install Debian's package chromium, "
        "or name a browser's program in CHROMIUM."
    )


def build_pdf(html: Path = HTML) -> Path:
    """Prints the built pages in `html` into a file beside that folder; returns it.

    Raises `BuildError` without a browser, or if it cannot print.
    """
    from playwright.sync_api import Error, sync_playwright

    program = chromium()
    page, pdf, unfinished = (html.with_name(name) for name in ("print.html", "ncbook.pdf", "unfinished.pdf"))
    page.write_text(one_page(html), encoding="utf-8")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=BROWSER_ARGUMENTS)
            opened = browser.new_page(color_scheme="light")
            opened.set_default_timeout(_PATIENCE)
            opened.goto(page.as_uri(), wait_until="load")
            opened.evaluate("window.MathJax?.startup.promise")
            for _ in range(2):  # only once it is printed one knows the pages' numbers, for which the contents leave room
                opened.pdf(path=unfinished, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
                opened.evaluate(NUMBER_CONTENTS, chapter_pages(unfinished))
            browser.close()
        unfinished.replace(pdf)
    except Error as error:
        raise BuildError(f"{program} cannot print the book: {str(error).splitlines()[0]} CHROMIUM names another browser.") from None
    finally:
        for file in (page, unfinished):
            file.unlink(missing_ok=True)
    return pdf


def chapter_pages(pdf: Path) -> dict[str, int]:
    """Name of a page of the book -> number of the printed page on which it begins."""
    reader = PdfReader(pdf)
    places = {name.removeprefix("/"): place for name, place in reader.named_destinations.items() if ":" not in name}
    return {name: reader.get_destination_page_number(place) + 1 for name, place in places.items()}


def one_page(html: Path) -> str:
    """All pages of the table of contents in their order, as the text of a page that lies beside the folder `html`.

    That folder is where Jupyter Book builds it, `_build/html` of the book. What only a screen has use for is left out; links from page to
    page become links inside the one.
    """
    toc, config = (yaml.safe_load((html.parents[1] / name).read_text(encoding="utf-8")) for name in ("_toc.yml", "_config.yml"))
    names = {"": [toc["root"]]} | {part["caption"]: [chapter["file"] for chapter in part["chapters"]] for part in toc["parts"]}
    every = {name for those in names.values() for name in those}
    articles = {name: _article(html, name, every) for name in every}
    root = articles[toc["root"]]
    contents, body = [], []
    for caption, those in names.items():
        if caption:
            contents.append(f"<h3>{escape(caption)}</h3>")
            body.append(f'<h1 class="part">{escape(caption)}</h1>')
        entries = [f'<li><a href="#{name}">{_title(articles[name])}</a><span></span></li>' for name in those]
        contents.append(f"<ul>{''.join(entries)}</ul>")
        body += [str(articles[name]) for name in those]
    head = BeautifulSoup((html / f"{toc['root']}.html").read_text(encoding="utf-8"), "html.parser").head
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{escape(config["title"])}</title>'
        f"{''.join(_head(head, html.name, toc['root']))}</head><body>"
        f'<header><p class="title">{_title(root)}</p>'
        f"<p>{escape(config['title'])} {__version__}</p><p>{escape(config['author'])}</p></header>"
        f'<nav><h2>Contents</h2>{"".join(contents)}</nav><main class="bd-content bd-article">{"".join(body)}</main></body></html>'
    )


def _title(article: Tag) -> str:
    return escape(article.h1.get_text().strip())


def _head(head: Tag, folder: str, root: str) -> Iterator[str]:
    """Style sheets, then MathJax and its settings, as the page that lies beside the folder of the pages names them."""
    for link in head.select("link[rel=stylesheet]"):
        yield f'<link rel="stylesheet" href="{_from_page(link["href"], folder, root)}">'
    yield f'<link rel="stylesheet" href="{folder}/_static/print.css">'
    for script in head.find_all("script"):
        if "MathJax" in script.get_text():
            yield str(script)
        elif "mathjax" in script.get("src", ""):
            yield f'<script src="{_from_page(script["src"], folder, root)}"></script>'


def _from_page(address: str, folder: str, name: str) -> str:
    """An address on the page `name` as it is from beside the folder."""
    return posixpath.normpath(posixpath.join(folder, posixpath.dirname(name), address))


def _article(html: Path, name: str, every: set[str]) -> Tag:
    """The text of a page, ready for the one page: every id preceded by the page's name, which is itself the id of the whole."""
    soup = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    language = article.section.get("lang", "en")
    for widget in article.select(".widget-subarea, script[type='application/vnd.jupyter.widget-view+json']"):
        if not widget.find_parent(class_="widget-subarea"):
            sentence = soup.new_tag("p", attrs={"class": "instead"})
            sentence.string = _WIDGET[language]
            widget.replace_with(sentence)
    for element in article.select(_SCREEN_ONLY):
        element.decompose()
    for details in article.find_all("details"):
        if "provenance" in details.get("class", ()):
            details.name = "p"
            details.string = details.summary.get_text()
        else:
            details["open"] = ""
    for element in article.find_all(True):
        _move(element, html.name, name, every)
    article["id"] = name
    article["lang"] = language
    return article


def _move(element: Tag, folder: str, name: str, every: set[str]) -> None:
    """Give the element's ids and addresses the meaning on the one page that they have on the page `name`."""
    if "id" in element.attrs and not element.find_parent("svg"):
        element["id"] = f"{name}:{element['id']}"
    for attribute in _OTHER_IDS:
        if attribute in element.attrs:
            value = element[attribute]
            element[attribute] = " ".join(f"{name}:{one}" for one in (value if isinstance(value, list) else value.split()))
    if "src" in element.attrs and not re.match(r"\w+:", element["src"]):
        element["src"] = _from_page(element["src"], folder, name)
    address = element.get("href") if element.name == "a" else None
    if address is None or re.match(r"\w+:", address):
        if address and address.startswith("data:"):
            del element["href"]
        return
    path, fragment = urlsplit(address).path, urlsplit(address).fragment
    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)).removesuffix(".html") if path else name
    if target in every:
        element["href"] = f"#{target}:{fragment}" if fragment else f"#{target}"
    else:
        del element["href"]
