"""The book as one page, and that page printed."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from pypdf import PdfReader
from test_book import PAGES

from ncbook.build import BuildError
from ncbook.chapters import ROOT
from ncbook.pdf import build_pdf, chromium, one_page

TOC = """
format: jb-book
root: first
parts:
  - {caption: Parte prima, chapters: [{file: folder/widgets}]}
  - {caption: Second part, chapters: [{file: folder/last}]}
"""
FIRST = "# A small book\n\nSee {doc}`the last page <folder/last>`, {ref}`its end <the-end>` and $x^2$.\n"
LAST = "# The last page\n\n## Setting\n\nWords of the setting.\n\n(the-end)=\n## The end\n\nBack to {doc}`the first <../first>`.\n"
WIDGET = "import ipywidgets\n\nipywidgets.HTML('what only a browser shows')"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The built pages of a book of three pages, one of which is Italian and holds a widget."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("runs", "*.md"))
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "folder").mkdir()
    for name, text in {"_toc.yml": TOC, "first.md": FIRST, "folder/last.md": LAST}.items():
        (folder / name).write_text(text)
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [markdown("# Una pagina\n\n## Setting\n"), code(WIDGET, metadata={"tags": ["hide-input"]})]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"lang": "it"})
    NotebookClient(notebook, kernel_name="python3").execute()
    nbformat.write(notebook, folder / "folder" / "widgets.ipynb")
    build = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "-W", "-n", "."]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    return folder / "_build" / "html"


def targets_and_links(page: BeautifulSoup) -> tuple[Counter, set[str]]:
    ids = Counter(element["id"] for element in page.find_all(id=True) if not element.find_parent("svg"))
    return ids, {link["href"] for link in page.find_all("a", href=True)}


def test_links_from_page_to_page_stay_inside(small):
    ids, links = targets_and_links(BeautifulSoup(one_page(small), "html.parser"))
    assert set(ids.values()) == {1}
    assert {"#folder/last", "#folder/last:the-end", "#first"} <= links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_a_widget_is_a_sentence_in_the_language_of_its_page(small):
    page = BeautifulSoup(one_page(small), "html.parser")
    (widgets,) = page.find_all("article", id="folder/widgets")
    assert widgets["lang"] == "it" and "Qui la pagina HTML ha un grafico da esplorare." in widgets.get_text()
    assert "ipywidgets" not in widgets.get_text() and not widgets.find("script")
    assert [part.get_text() for part in page.find_all("h1", class_="part")] == ["Parte prima", "Second part"]


def test_the_contents_tell_the_printed_pages(small):
    print_it = f"from pathlib import Path; from ncbook.pdf import build_pdf; build_pdf(Path({str(small)!r}))"
    subprocess.run([sys.executable, "-c", print_it], check=True)  # two Playwrights do not get along in one process
    assert sorted(file.name for file in small.parent.glob("*.*") if file.is_file()) == ["ncbook.pdf"]
    reader = PdfReader(small.with_name("ncbook.pdf"))
    texts = [page.extract_text() for page in reader.pages]
    assert "A small book" in texts[0] and "ncbook" in texts[0]
    contents = dict(re.findall(r"^(.*\S)\s+(\d+)$", texts[1], re.MULTILINE))
    assert {"A small book", "Una pagina", "The last page"} <= set(contents)
    for title in ("A small book", "Una pagina", "The last page"):
        text = texts[int(contents[title]) - 1]
        assert title in text and contents[title] in text.splitlines()
    assert "Words of the setting." in texts[int(contents["The last page"]) - 1]


def test_the_whole_book_is_there(html):
    page = BeautifulSoup(one_page(html), "html.parser")
    ids, links = targets_and_links(page)
    assert [(name, count) for name, count in ids.items() if count > 1] == []
    inside = {link.removeprefix("#") for link in links if link.startswith("#")}
    assert inside - set(ids) == set()
    assert [link for link in links if not link.startswith(("#", "http"))] == []
    files = [*(image["src"] for image in page.find_all("img")), *(link["href"].split("?")[0] for link in page.find_all("link"))]
    assert [file for file in files if not (html.parent / file).is_file()] == []
    assert [article["id"] for article in page.find_all("article")] == PAGES


def test_without_a_browser_it_says_what_to_do(small, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(BuildError, match="There is no Chromium.*CHROMIUM"):
        build_pdf(small)
    monkeypatch.setenv("CHROMIUM", "my-browser")
    assert chromium() == "my-browser"
