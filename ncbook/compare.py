"""A chapter executed again, held against another execution of it: which parameters, verdicts, numbers, tables and figures differ."""

import ast
import base64
import dataclasses
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

from ncbook.chapters import CHAPTERS, Chapter, parameters

GLUED = "application/papermill.record/text/plain"
IMAGES = ("image/svg+xml", "image/png")
_UNSTABLE = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
"""What two drawings of the same data may differ in: the date and the program that drew them."""


class CompareError(ValueError):
    """Something that cannot be compared; the message names the file, the reason and the way out."""


class Figure(NamedTuple):
    """A figure as an address that a page can show, and its caption."""

    address: str
    caption: str


class Change(NamedTuple):
    """What something was and what it is now; None: it was not, or is no longer, there."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Page:
    """What an executed chapter says."""

    chapter: Chapter
    path: Path
    language: str
    parameters: dict[str, Any]
    verdicts: dict[str, str] = field(default_factory=dict)
    """By the id of the claim."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Everything else that is glued, numbers and texts, by its name."""
    tables: dict[str, str] = field(default_factory=dict)
    """Tables and boxes as plain text, by the name of the table or the id of the cell."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """By the name of the figure, or the id of its cell."""


@dataclass(frozen=True)
class Comparison:
    """How `after` differs from `before`."""

    before: Page
    after: Page
    parameters: list[Change]
    verdicts: list[Change]
    numbers: list[Change]
    tables: list[Change]
    figures: list[Change]
    same_figures: int

    @property
    def identical(self) -> bool:
        return not (self.parameters or self.verdicts or self.numbers or self.tables or self.figures)


def _notebook(path: Path) -> Path:
    """The notebook itself, or the only one in a folder."""
    if not path.exists():
        raise CompareError(f"{path} is not there: give an executed notebook, or the folder that `ncbook run --out` wrote.")
    if path.is_file():
        return path
    known = {chapter.notebook.name for chapter in CHAPTERS.values()}
    found = sorted(file for file in path.glob("*.ipynb") if file.name in known)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise CompareError(f"{path} should hold one executed chapter and holds {names}: name the notebook itself.")
    return found[0]


def read(path: Path) -> Page:
    """An executed chapter; a folder stands for the only chapter in it. Raises `CompareError` if it is none."""
    path = _notebook(path)
    try:
        notebook = nbformat.read(path, as_version=4)
        made = notebook.metadata.get("papermill", {})
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    except Exception as error:  # nbformat passes on whatever JSON, its schema or a missing field raise
        raise CompareError(f"{path} is not a notebook ({type(error).__name__}): give one that `ncbook run` wrote.") from error
    name = Path(made.get("input_path") or path).name
    chapter = next((chapter for chapter in CHAPTERS.values() if chapter.notebook.name == name), None)
    if chapter is None:
        raise CompareError(f"{path} is not one of the book's chapters: those are {', '.join(CHAPTERS)}.")
    if not made or not any(cell.outputs for cell in code):
        raise CompareError(f"{path} was never executed: `ncbook run {chapter.name} --out FOLDER` does it, then give that folder.")
    declared = parameters(dataclasses.replace(chapter, notebook=path))
    values = {name: parameter.default for name, parameter in declared.items()} | dict(made.get("parameters", {}))
    page = Page(chapter, path, notebook.metadata.get("lang", "en"), values)
    for cell in code:
        if "remove-output" not in cell.metadata.get("tags", []):
            for output in cell.outputs:
                _take(page, cell, output)
    return page


def _take(page: Page, cell: nbformat.NotebookNode, output: nbformat.NotebookNode) -> None:
    """Puts one output where it belongs in the page; lines of provenance follow from the parameters and are left out."""
    data = output.get("data", {})
    named = cell.metadata.get("mystnb", {}).get("figure", {})
    if GLUED in data:
        name, value = output.metadata["scrapbook"]["name"], _literal(data[GLUED])
        if name.startswith("verdict_"):
            page.verdicts[name.removeprefix("verdict_")] = value
        else:
            page.numbers[name] = value
    elif kind := next((kind for kind in IMAGES if kind in data), None):
        page.figures[named.get("name", cell.id)] = Figure(_address(kind, data[kind]), named.get("caption", ""))
    elif text := data.get("text/markdown") or _plain(data.get("text/html", "")):
        table = re.search(r"^:name: (\S+)$", text, re.MULTILINE)
        page.tables[table[1] if table else cell.id] = text


def _literal(text: str) -> Any:
    """A glued value from its repr; what is no literal stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _plain(text: str) -> str:
    """HTML as lines of text."""
    if 'class="provenance"' in text:
        return ""
    lines = re.sub(r"</(p|tr|li)>", "\n", text)
    return "\n".join(filter(None, (" ".join(html.unescape(re.sub(r"<[^>]*>", " ", line)).split()) for line in lines.splitlines())))


def _address(kind: str, content: str) -> str:
    """A picture as a data URL, without what changes from one drawing of the same data to the next."""
    if kind == "image/svg+xml":
        content = base64.b64encode(_UNSTABLE.sub("", content).encode()).decode()
    return html.escape(f"data:{kind};base64,{''.join(content.split())}")  # a notebook from elsewhere may hold anything


def compare(before: Page, after: Page) -> Comparison:
    """What differs between two executions of one chapter. Raises `CompareError` if they are of different ones."""
    if before.chapter.name != after.chapter.name:
        raise CompareError(
            f"{after.path} is {after.chapter.name} and {before.path} is {before.chapter.name}: a chapter can be compared with itself only."
        )
    figures = _changes(before.figures, after.figures)
    judged = [_judged(page) if before.parameters != after.parameters else {} for page in (before, after)]
    return Comparison(
        before,
        after,
        parameters=_changes(before.parameters, after.parameters),
        verdicts=_changes(*(page.verdicts | verdicts for page, verdicts in zip((before, after), judged))),
        numbers=_changes(before.numbers, after.numbers),
        tables=_changes(before.tables, after.tables),
        figures=figures,
        same_figures=len({*before.figures, *after.figures}) - len(figures),
    )


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    names = dict.fromkeys([*before, *after])
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _judged(page: Page) -> dict[str, str]:
    """The verdicts on the claims that read this chapter's runs, were the page's parameters its defaults; nothing is trained."""
    from ncbook import claims

    read_here = [claim for claim in claims.chosen([]) if page.chapter.name in {reads.chapter for reads in claim.reads}]
    results = claims.evaluate(read_here, given={page.chapter.name: page.parameters})
    return {result.claim.id: result.verdict for result in results}
