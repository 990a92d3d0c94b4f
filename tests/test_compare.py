"""Comparing an executed chapter with another execution of it: what differs, on the terminal and as a page; what cannot be compared."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from test_cli import keep_runs, ncbook_run, store, tiny, write_notebook  # noqa: F401

import ncbook.build
from ncbook import claims
from ncbook.chapters import chapter_specs
from ncbook.compare import GLUED, Change, _address, compare, read
from ncbook.compare_page import difference_text, summary, write

SVG = '<svg><metadata><date>{}</date></metadata><path d="M 0 {}"/></svg>'


def glue(name, value):
    return new_output("display_data", data={GLUED: repr(value)}, metadata={"scrapbook": {"name": name}})


def write_executed(folder, widths=None, glued=None, drawn=1, date="today", rows=("| 2 | 0,1 |",), chapter="tiny.ipynb"):
    """An executed chapter as papermill leaves it."""
    cells = [
        new_code_cell("widths: list[int] = [2, 4]  # larghezze", metadata={"tags": ["parameters"]}),
        new_code_cell("glue()", outputs=[glue(name, value) for name, value in ({"seeds": "un seme"} | (glued or {})).items()]),
        new_code_cell(
            "draw()",
            metadata={"mystnb": {"figure": {"name": "tiny-errors", "caption": "Errori ({glue:text}`seeds`)."}}},
            outputs=[new_output("execute_result", data={"image/svg+xml": SVG.format(date, drawn)})],
        ),
        new_code_cell("draw()", id="second", outputs=[new_output("execute_result", data={"image/svg+xml": SVG.format(date, 9)})]),
        new_code_cell("", outputs=[new_output("execute_result", data={"text/html": f'<details class="provenance">{date}</details>'})]),
        new_code_cell("", outputs=[new_output("execute_result", data={"text/markdown": "\n".join([":name: tiny-table", "| W |", *rows])})]),
    ]
    parameters = {} if widths is None else {"widths": widths}
    notebook = nbformat.v4.new_notebook(cells=cells)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = {"input_path": f"somewhere/{chapter}", "parameters": parameters}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "lang": "it", "papermill": made})
    folder.mkdir()
    nbformat.write(notebook, folder / "tiny.ipynb")
    return folder


def changes(found):
    """Name -> (before, after) of all that differs, figures by name alone."""
    rows = [*found.parameters, *found.verdicts, *found.numbers, *found.tables]
    return {change.name: change[1:] for change in rows} | {change.name: None for change in found.figures}


@pytest.fixture
def held(tmp_path, tiny):  # noqa: F811
    """The comparison of two executions, written with these arguments."""

    def held(before, after):
        return compare(*(read(write_executed(tmp_path / name, **one)) for name, one in {"before": before, "after": after}.items()))

    return held


def test_an_identical_execution_is_said_to_be_so_whenever_it_was_drawn(held):
    found = held({"date": "today"}, {"date": "tomorrow"})
    assert found.identical and not changes(found)
    assert summary(found) == "tiny is identical in both: 1 parameter, 1 value, 1 table, 2 figures, all the same."
    assert summary(found) in write(found).read_text()


def test_a_picture_from_elsewhere_brings_no_script():
    assert _address("image/png", '"/onerror="alert(1)"/x="') == "data:image/png;base64,&quot;/onerror=&quot;alert(1)&quot;/x=&quot;"
    assert _address("image/png", "iVBO\nRw0+/w==") == "data:image/png;base64,iVBORw0+/w=="


def test_exactly_what_differs_is_shown(held):
    before = dict(glued={"error": "0,10", "epochs": 4, "gone": "1", "verdict_R01": "reproduced"}, rows=["| 2 | 0,1 |", "| 4 | 0,2 |"])
    changed = {"error": "0,15", "epochs": 4, "new": "2", "verdict_R01": "not reproduced"}
    after = dict(widths=[6], glued=changed, drawn=2, rows=["| 2 | 0,1 |"])
    found = held(before, after)
    assert changes(found) == {
        "widths": ([2, 4], [6]),
        "R01": ("reproduced", "not reproduced"),
        "error": ("0,10", "0,15"),
        "gone": ("1", None),
        "new": (None, "2"),
        "tiny-table": (":name: tiny-table\n| W |\n| 2 | 0,1 |\n| 4 | 0,2 |", ":name: tiny-table\n| W |\n| 2 | 0,1 |"),
        "tiny-errors": None,
    }
    text = summary(found)
    assert text.startswith("tiny: 1 of 1 parameter, 3 of 5 values, 1 of 1 table, 1 of 2 figures differ; 1 verdict too.")
    assert re.search(r"parameter +widths +\[2, 4\] +\[6\]\n", text) and re.search(r"value +error +0,10 +0,15 +\+0.05 \(\+50 %\)", text)
    page = write(found).read_text()
    assert page.count("<img ") == 2 and "Errori (un seme)." in page and "1 figure is the same in both." in page
    assert "4 | 0,2" in page and "2 | 0,1" not in page and page.startswith('<!doctype html><html lang="en">')
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page


def test_only_the_figure_that_changed_is_shown(held):
    found = held({}, {"drawn": 5})
    assert [change.name for change in found.figures] == ["tiny-errors"] and found.same_figures == 1


@pytest.mark.parametrize(
    ("before", "after", "language", "text"),
    [
        ("0,10", "0,15", "it", "+0,05 (+50 %)"),
        ("1.500", "1.200", "it", "−300 (−20 %)"),
        ("1,500", "1,200", "en", "−300 (−20 %)"),
        ("−0,2 [−0,3; −0,1]", "0,2", "it", "+0,4 (+200 %)"),
        ("40 %", "50 %", "it", "+10 (+25 %)"),
        ("0,5", "1.234.567", "it", "+1.230.000 (+247.000.000 %)"),
        ("0.01", "473", "en", "+473 (+4,730,000 %)"),
        (1.0, 1.5, "en", "+0.5 (+50 %)"),
        (0, 2, "en", "+2"),
        ("n.d.", "0,2", "it", ""),
        ("12 (2.004)", "16 (3.440)", "it", ""),
        (None, 2, "en", ""),
        (True, 2, "en", ""),
    ],
)
def test_changes_of_numbers_are_told_in_both_ways(before, after, language, text):
    assert difference_text(Change("x", before, after), language) == text


def test_claims_are_judged_by_the_runs_of_either_page(held, monkeypatch):
    seen = []
    monkeypatch.setattr(claims, "evaluate", lambda claims, given: seen.append(given) or [])
    held({}, {"widths": [6]})
    assert seen == [{"tiny": {"widths": [2, 4]}}, {"tiny": {"widths": [6]}}]


def test_a_claim_reads_the_runs_of_given_parameters():
    given = {"widths": [2, 64], "seeds": [7]}
    specs = claims.Reads("exp1", {"width": [64], "model": ["cnn1d"]}).specs(given)
    assert [(spec.model.width, spec.seed, spec.optimizer.name) for spec in specs] == [(64, 7, "sgd"), (64, 7, "adam")]


def damaged(folder, text):
    folder.mkdir()
    (folder / "tiny.ipynb").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "{} is not there: give an executed notebook, or the folder that `ncbook run --out` wrote."),
        (lambda folder: folder.mkdir() or folder, "{} should hold one executed chapter and holds none: name the notebook itself."),
        (lambda folder: damaged(folder, "# no JSON"), "{}/tiny.ipynb is not a notebook (NotJSONError): give one that `ncbook run` wrote."),
        (lambda folder: damaged(folder, "[1]"), "{}/tiny.ipynb is not a notebook (AttributeError): give one that `ncbook run` wrote."),
        (lambda folder: write_executed(folder, chapter="other.ipynb"), "{}/tiny.ipynb is not one of the book's chapters: those are exp1, "),
    ],
)
def test_what_is_no_executed_chapter_is_refused_in_one_sentence(tiny, tmp_path, make, message):  # noqa: F811
    path = make(tmp_path / "out")
    _, err = ncbook_run("compare", path, code=2)
    assert err.startswith("Error: " + message.format(tmp_path / "out")) and len(err.splitlines()) == 1


def test_a_source_another_chapter_and_itself_are_refused(tiny, tmp_path):  # noqa: F811
    _, err = ncbook_run("compare", tiny.notebook, code=2)
    assert err == f"Error: {tiny.notebook} was never executed: `ncbook run tiny --out FOLDER` does it, then give that folder.\n"
    one, other = write_executed(tmp_path / "one"), write_executed(tmp_path / "other", chapter="verdetti.ipynb")
    _, err = ncbook_run("compare", one, other, code=2)
    assert err == f"Error: {one}/tiny.ipynb is tiny and {other}/tiny.ipynb is verdicts: a chapter can be compared with itself only.\n"
    assert "would be compared with itself" in ncbook_run("compare", one, one, code=2)[1]


def test_run_names_the_command_which_compares_with_the_published_chapter(tiny, store, tmp_path, monkeypatch):  # noqa: F811
    total = new_code_cell("from myst_nb import glue\nglue('total', sum(widths), display=False)")
    write_notebook(tiny.notebook, new_markdown_cell("# Tiny"), total)
    for name, path in {"ROOT": tmp_path, "EXECUTED": tmp_path / "executed"}.items():
        monkeypatch.setattr(ncbook.build, name, path)
    keep_runs(store, chapter_specs(tiny, {"widths": [2, 4, 6]}))
    store.publish([spec.key for spec in chapter_specs(tiny, {})])
    for options, total in (([], None), (["-p", "widths", "[2, 6]"], 8)):
        out, _ = ncbook_run("run", "tiny", *options, "--out", tmp_path / "again")
        command = re.search(r"`ncbook (compare .*)`", out)[1].split()
        said, _ = ncbook_run(*command)
        page = tmp_path / "again" / "tiny-compare.html"
        assert said.endswith(f"The comparison is {page}.\n") and page.is_file()
        if total:
            assert "tiny: 1 of 1 parameter, 1 of 1 value, 0 of 0 tables, 0 of 0 figures differ; no verdict does." in said
            assert re.search(r"value +total +6 +8 +\+2 \(\+33.3 %\)", said)
        else:
            assert said.splitlines()[-2] == "tiny is identical in both: 1 parameter, 1 value, all the same."
