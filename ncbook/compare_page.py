"""A comparison as a page that needs nothing else, light and dark, on a phone too; and in short for the terminal."""

import difflib
import html
import re
import textwrap
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ncbook.compare import Change, Comparison, Figure, Page

_SHOWN = 12
"""How many changed numbers the terminal lists; the page has all."""
_NUMBER = re.compile(r"([-+−]?[\d.,]*\d)( ?%)?( \[[^\]]*\])?")
"""A number as chapters write it, alone or with its unit and its interval."""
_ROLE = re.compile(r"\{[\w:-]+\}`([^`]*)`")

_STYLE = """
:root { color-scheme: light dark; --quiet: light-dark(#57606a, #a0a8b0); --line: light-dark(#d0d7de, #3d444d); }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere;
  background: light-dark(#fff, #14181e); color: light-dark(#1f2328, #e6edf3); }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; }
small, figcaption, .absent { color: var(--quiet); }
table { width: 100%; border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem 0.4rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
tbody th { font-weight: 600; width: 22%; } td { width: 28%; white-space: pre-line; } td:nth-child(4) { width: 22%; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin: 0 0 2rem; }
figure { margin: 0; } img { display: block; width: 100%; height: auto; background: #fff; }
@media (max-width: 700px) {
  .pair { grid-template-columns: 1fr; } thead { display: none; }
  tbody, tr, th, td { display: block; width: auto !important; } th, td { border: 0; padding: 0.1rem 0; }
  td:empty { display: none !important; }
  tr { padding: 0.6rem 0; border-bottom: 1px solid var(--line); } td::before { content: attr(data-name) ": "; color: var(--quiet); }
}
"""


def _value(content: Any, language: str) -> float | None:
    """The number that something glued is, or begins with; None if it is none."""
    if isinstance(content, (int, float)) and not isinstance(content, bool):
        return float(content)
    if not isinstance(content, str) or not (found := _NUMBER.fullmatch(content)):
        return None
    groups, decimal = (".", ",") if language == "it" else (",", ".")
    try:
        return float(found[1].replace(groups, "").replace(decimal, ".").replace("−", "-"))
    except ValueError:
        return None


def _difference(change: Change, language: str) -> tuple[float, float] | None:
    """By how much a number changed, and by which share of what it was (infinite for 0); None where there are not two numbers."""
    before, after = _value(change.before, language), _value(change.after, language)
    if before is None or after is None:
        return None
    absolute = after - before
    return absolute, absolute / abs(before) if before else float("inf") * absolute if absolute else 0.0


def difference_text(change: Change, language: str) -> str:
    """`+0.012 (+7.8 %)`, with the signs of the language; empty where there are not two numbers."""
    if (found := _difference(change, language)) is None:
        return ""
    absolute, share = found
    text = _three_digits(absolute) + (f" ({_three_digits(100 * share)} %)" if abs(share) != float("inf") else "")
    return text.translate(str.maketrans(",.-", ".,−" if language == "it" else ",.−"))


def _three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):+,.9g}"


def _shown(content: Any) -> str:
    return "–" if content is None else str(content)


def _wrapped(content: Any) -> str:
    return textwrap.fill(_shown(content), 32)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def sentence(found: Comparison) -> str:
    """How many things of each kind differ, or that none does; a value is a number or a text that the page takes from the runs."""
    page = found.after
    things: list[tuple[str, Collection, list[Change]]] = [
        ("parameter", page.parameters, found.parameters),
        ("value", page.numbers, found.numbers),
        ("table", page.tables, found.tables),
        ("figure", page.figures, found.figures),
    ]
    if found.identical:
        counts = ", ".join(_count(len(present), noun) for noun, present, _ in things if present)
        return f"{page.chapter.name} is identical in both: {counts}, all the same."
    parts = [
        f"{len(changes)} of {_count(len({*present, *(change.name for change in changes)}), noun)}" for noun, present, changes in things
    ]
    verdicts = f"{_count(len(found.verdicts), 'verdict')} too" if found.verdicts else "no verdict does"
    return f"{page.chapter.name}: {', '.join(parts)} differ; {verdicts}."


def summary(found: Comparison) -> str:
    """The comparison for the terminal: what differs, the numbers that changed most first."""
    if found.identical:
        return sentence(found)
    from tabulate import tabulate

    language = found.after.language
    shares = {change.name: _difference(change, language) for change in found.numbers}
    numbers = sorted(found.numbers, key=lambda change: abs(share[1]) if (share := shares[change.name]) else -1, reverse=True)
    kinds = [("parameter", found.parameters), ("verdict", found.verdicts), ("value", numbers[:_SHOWN])]
    rows = [
        [kind, *(_wrapped(cell) for cell in change), difference_text(change, language) if kind == "value" else ""]
        for kind, changes in kinds
        for change in changes
    ]
    table = tabulate(rows, ["what", "name", "before", "after", "change"], disable_numparse=True)
    more = [f"{len(numbers) - _SHOWN} more values are on the page."] if len(numbers) > _SHOWN else []
    return "\n".join([sentence(found), "", table, *more])


def _table(title: str, changes: Iterable[Change], language: str, *, differences: bool = False) -> str:
    """A heading and a row for each change; empty if there is none. language: that of what was and is."""
    names = ["before", "after"] + ["change"] * differences
    rows = ""
    for change in changes:
        texts = [_shown(change.before), _shown(change.after)] + [difference_text(change, language)] * differences
        marks = [f' lang="{language}"'] * 2 + [""]
        cells = (f'<td data-name="{name}"{mark}>{html.escape(text)}</td>' for name, mark, text in zip(names, marks, texts))
        rows += f'<tr><th scope="row">{html.escape(change.name)}</th>{"".join(cells)}</tr>'
    head = "".join(f'<th scope="col">{name}</th>' for name in ["what", *names])
    return f"<h2>{title}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""


def _changed_lines(change: Change) -> Change:
    """Of a table, the lines that differ."""
    before, after = ([line.strip("| ") for line in (text or "").splitlines()] for text in change[1:])
    sides: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            sides[0].extend(before[a:b])
            sides[1].extend(after[c:d])
    return Change(change.name, *("\n".join(side) or None for side in sides))


def _pair(change: Change, found: Comparison) -> str:
    """A figure before and after, side by side."""
    page = found.after if change.after else found.before
    caption = _ROLE.sub(lambda role: str(page.numbers.get(role[1], "…")), page.figures[change.name].caption)

    def half(which: str, figure: Figure | None) -> str:
        if figure is None:
            return f'<figure><figcaption>{which}</figcaption><p class="absent">There is no such figure.</p></figure>'
        return f'<figure><figcaption>{which}</figcaption><img src="{figure.address}" alt="{html.escape(change.name)}, {which}"></figure>'

    halves = half("before", change.before) + half("after", change.after)
    words = f'<p lang="{page.language}"><small>{html.escape(caption)}</small></p>'
    return f'<h3>{html.escape(change.name)}</h3>{words}<div class="pair">{halves}</div>'


def _made(page: Page) -> str:
    return html.escape(f"{page.path.parent.name}/{page.path.name}")


def html_page(found: Comparison) -> str:
    """The comparison as one HTML file with everything in it."""
    after, language = found.after, found.after.language
    sections = [
        _table("Parameters", found.parameters, language),
        _table("Verdicts", found.verdicts, "en"),
        _table("Values", found.numbers, language, differences=True),
        _table("Lines of tables", map(_changed_lines, found.tables), language),
    ]
    if found.figures:
        sections += ["<h2>Figures</h2>", *(_pair(change, found) for change in found.figures)]
    if found.same_figures:
        sections.append(f"<p>{_count(found.same_figures, 'figure')} {'is' if found.same_figures == 1 else 'are'} the same in both.</p>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{after.chapter.name}: what differs</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{html.escape(after.chapter.title)}: what differs</h1><p>{html.escape(sentence(found))}</p>"
        f"<p><small>before: {_made(found.before)}; after: {_made(after)}</small></p>{''.join(sections)}</main></body></html>"
    )


def page_path(executed: Path) -> Path:
    """Where the comparison of an executed notebook is written."""
    return executed.with_name(f"{executed.stem}-compare.html")


def write(found: Comparison) -> Path:
    """Writes the page beside the notebook that was compared, and returns its path."""
    path = page_path(found.after.path)
    path.write_text(html_page(found), encoding="utf-8")
    return path
