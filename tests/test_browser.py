"""What a reader does in the browser with neither kernel nor network: turn widgets, by keyboard; search; read figures in the dark."""

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from conftest import serve
from matplotlib.image import imread
from nbclient import NotebookClient
from playwright.sync_api import expect

from ncbook import analysis, pages
from ncbook.chapters import CHAPTERS, ROOT, chapter_specs
from ncbook.sweep import load_runs, table

WIDGETS = """
import ipywidgets

widths = ["2", "10", "64"]
slider = ipywidgets.SelectionSlider(options=widths, description="Larghezza")
drawings = [f'<svg viewBox="0 0 64 9" role="img" aria-label="una rete larga {w}"><rect width="{w}" height="9"/></svg>' for w in widths]
stack = ipywidgets.Stack([ipywidgets.HTML(drawing) for drawing in drawings], selected_index=0)
ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
play = ipywidgets.Play(max=len(widths) - 1, interval=50)
ipywidgets.jslink((play, "value"), (slider, "index"))
ipywidgets.VBox([ipywidgets.HBox([play, slider]), stack])
"""


@pytest.fixture(scope="module")
def widget_book(tmp_path_factory) -> Path:
    """A book of one Italian page that holds widgets, made the way the book is made, and one that holds none."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("runs", "*.md"))
    shutil.copy(ROOT / "_config.yml", folder)
    (folder / "_toc.yml").write_text("{format: jb-book, root: widgets, chapters: [file: plain]}")
    (folder / "plain.md").write_text("# No widgets\n")
    cells = [nbformat.v4.new_markdown_cell("# Una pagina"), nbformat.v4.new_code_cell(WIDGETS, metadata={"tags": ["hide-input"]})]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"lang": "it"})
    NotebookClient(notebook, kernel_name="python3").execute()
    nbformat.write(notebook, folder / "widgets.ipynb")
    build = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "-W", "-n", "."]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    return folder / "_build" / "html"


@pytest.fixture(params=["http", "file"])
def widget_address(request, widget_book: Path) -> Iterator[str]:
    if request.param == "file":
        yield widget_book.as_uri()
    else:
        with serve(widget_book) as address:
            yield address


def test_arrow_keys_turn_a_widget_with_neither_kernel_nor_network(open_page, widget_address: str) -> None:
    page, faults = open_page(f"{widget_address}/widgets.html")
    slider = page.get_by_role("slider", name="Larghezza")
    slider.focus()
    for key, width in {"ArrowRight": "10", "End": "64", "ArrowLeft": "10", "Home": "2"}.items():
        page.keyboard.press(key)
        expect(page.get_by_role("img", name="una rete larga")).to_have_accessible_name(f"una rete larga {width}")
        expect(slider).to_have_attribute("aria-valuetext", width)
    assert faults == []
    page.close()


def test_play_goes_to_the_end_and_is_named_in_the_language_of_the_page(open_page, widget_address: str) -> None:
    page, faults = open_page(f"{widget_address}/widgets.html")
    page.get_by_role("button", name="Avvia o ferma").press("Enter")
    expect(page.get_by_role("img", name="una rete larga")).to_have_accessible_name("una rete larga 64")
    page.get_by_role("button", name="Torna all’inizio").press("Enter")
    expect(page.get_by_role("img", name="una rete larga")).to_have_accessible_name("una rete larga 2")
    assert faults == []
    page.close()


def test_controls_have_names_and_code_opens_in_the_language_of_the_page(open_page, widget_book: Path, barriers) -> None:
    page, _ = open_page(f"{widget_book.as_uri()}/widgets.html")
    page.get_by_role("slider", name="Larghezza").wait_for()
    assert barriers(page) == []
    expect(page.get_by_role("heading").get_by_title("Link diretto")).to_have_count(1)
    page.get_by_text("Mostra il codice").click()
    expect(page.get_by_text("ipywidgets.SelectionSlider")).to_be_visible()
    expect(page.get_by_text("Nascondi il codice")).to_be_visible()
    page.close()


def test_only_pages_with_widgets_load_their_manager(widget_book: Path) -> None:
    manager = "html-manager/embed.js"
    assert manager in (widget_book / "widgets.html").read_text() and manager not in (widget_book / "plain.html").read_text()


@pytest.mark.parametrize("place", ["http", "file"])
def test_search_finds_a_term(open_page, served: str, html: Path, place: str) -> None:
    page, faults = open_page(f"{served if place == 'http' else html.as_uri()}/search.html?q=CKA")
    expect(page.locator("#search-results a[href*=exp4_cka]").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert faults == []
    page.close()


def test_figures_are_as_light_or_as_dark_as_the_page(open_page, html: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page, _ = open_page(f"{html.as_uri()}/executed/exp1_model_wise.html", scheme=scheme)
        picture = imread(io.BytesIO(page.locator("figure img").first.screenshot()), format="png")
        shades[scheme] = picture[..., :3].mean()
        page.close()
    assert shades["light"] > 0.8 and shades["dark"] < 0.2


@pytest.fixture(params=["http", "file"])
def book_address(request, html: Path) -> str:
    return html.as_uri() if request.param == "file" else request.getfixturevalue("served")


def test_every_network_of_the_width_explorer_is_shown_by_keyboard(open_page, book_address: str) -> None:
    last = analysis.last_epoch(table(load_runs(chapter_specs(CHAPTERS["explore_width"], {}))))
    errors = last.groupby(["model", "optimizer", "width"])[["test_error", "train_error"]].mean()
    page, faults = open_page(f"{book_address}/executed/explore_width.html")
    network, width = page.get_by_role("combobox", name="Rete"), page.get_by_role("slider", name="Larghezza W")
    for number_of_curve, (model, optimizer) in enumerate(dict.fromkeys(zip(last["model"], last["optimizer"]))):
        if number_of_curve:
            network.press("ArrowDown")
        width.press("Home")
        for size in sorted(set(last["width"])):
            test, train = map(pages.number, errors.loc[model, optimizer, size])
            title = f"{pages.curve_name(model, optimizer)}, W = {size}"
            words = f"{title}: errori e collasso lungo le larghezze; errore di test {test}, di addestramento {train}."
            expect(page.get_by_role("img", name=words, exact=True)).to_be_visible()
            expect(page.get_by_role("img", name=f"{title}: ")).to_have_count(4)
            expect(page.locator("svg.drawing")).to_have_count(4)
            width.press("ArrowRight")
    assert faults == []
    page.close()


def test_every_network_of_the_dimension_explorer_is_shown_by_keyboard(open_page, book_address: str) -> None:
    last = analysis.last_epoch(table(load_runs(chapter_specs(CHAPTERS["explore_dimension"], {}))))
    reached = last.groupby("feature_dim")["nc2_gram_noisy"].mean()
    page, faults = open_page(f"{book_address}/executed/explore_dimension.html")
    dimension = page.get_by_role("slider", name="Dimensione d")
    dimension.press("Home")
    for size in sorted(reached.index):
        expect(page.get_by_role("img", name=f"d = {size}: ")).to_have_count(4)
        words = f"d = {size}: un ETF di 10 classi {'è' if size >= 9 else 'non è'} possibile"
        expect(page.locator(".explorer p").filter(has_text=words)).to_contain_text(f"è {pages.number(reached[size])}")
        dimension.press("ArrowRight")
    page.get_by_role("button", name="Torna all’inizio").press("Enter")
    expect(page.get_by_role("img", name=f"d = {min(reached.index)}: ")).to_have_count(4)
    assert faults == []
    page.close()
