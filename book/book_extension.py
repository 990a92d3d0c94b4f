"""What the book's pages need and Sphinx lacks: a language per page, verdicts, numbers of `bench.json`; and what they do not need.

A page whose front matter (or notebook metadata) says `lang: it` is marked as Italian for screen readers, and the buttons over its
code are Italian. Where a page says {verdetto}`R01`, or in part two {verdict}`F01`, there stands the verdict on that claim, linked to its
row; {it}`parola` marks a word as Italian. The front page has all verdicts in strips. The page on performance reads
`{{ exp1_results }}` and its like, which are made here from what the benchmarks saved; that on re-execution `{{ aims_table }}`.
"""

import ast
import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.parsers.rst.roles import CustomRole, generic_custom_role
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective, SphinxRole

from ncbook.analysis import estimate
from ncbook.chapters import aims, chapter_specs, command, find_chapter
from ncbook.fn.pages import percent_with_interval, with_interval
from ncbook.fn.statistics import difference, relative_effect
from ncbook.store import Store
from ncbook.verdicts import slug

BENCH = Path(__file__).with_name("bench.json")
PRECISION = Path(__file__).with_name("precision.json")
LEDGER = Path(__file__).with_name("claims.yml")
VERDICTS = {"verdetto": "executed/verdetti", "verdict": "executed/fn_verdicts"}
"""By role: the page that derives the verdicts and has a row for each claim."""
MARKS = {
    "reproduced": "✓",
    "partly reproduced": "◐",
    "not reproduced": "✗",
    "undecided": "?",
    "not testable": "–",
    "not yet at this scale": "…",
}
"""By verdict: what stands for it where there is no room for words."""
CODE_BUTTONS = {"en": ("Show the code", "Hide the code"), "it": ("Mostra il codice", "Nascondi il codice")}
"""By language: what unfolds the code of a cell, and what folds it again."""

FIXED = re.compile(r"(<(?:pre|code|script|style|svg)\b.*?</(?:pre|code|script|style|svg)>|<[^>]*>|\\\(.*?\\\)|\\\[.*?\\\])", re.DOTALL)
"""Of a page's HTML, what is no prose: tags, code, drawings, formulas."""

KEPT_TOGETHER = re.compile(
    r"(?<=\d)\s(?=%|[kMG]i?B\b|m?s\b|h\b|min\b)"
    r"|\s(?=(?:[=≤≥≈×]|&[lg]t;)\s[−+]?\d)"
    r"|(?:(?<=[=≤≥≈×])|(?<=&[lg]t;))\s(?=[−+]?\d)"
    r"|(?<=\d)\s(?=of\s\d)|(?<=\d\sof)\s(?=\d)"
    r"|(?<=[a-z]:)\s(?=\d)"
)
"""The spaces of `20 %`, `3 min`, `W = 64`, `3 of 3`, `seeds: 3`."""


def mark_language(app: Sphinx, doctree: nodes.document) -> None:
    """Put the page's language on its sections; docutils writes the class `language-it` as the attribute `lang="it"`."""
    language = app.env.metadata[app.env.docname].get("lang", "en")
    for section in doctree.children:
        if language != "en" and isinstance(section, nodes.section):
            section["classes"].append(f"language-{language}")
    for cell in doctree.findall(lambda node: isinstance(node, nodes.container) and "prompt_show" in node):
        cell["prompt_show"], cell["prompt_hide"] = CODE_BUTTONS.get(language, CODE_BUTTONS["en"])


@functools.cache
def glued_texts(notebook: Path) -> dict[str, str]:
    """Name -> text of everything glued in an executed notebook."""
    kind = "application/papermill.record/text/plain"
    outputs = [output for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] for output in cell.get("outputs", ())]
    records = [output for output in outputs if kind in output.get("data", {})]
    return {record["metadata"]["scrapbook"]["name"]: ast.literal_eval("".join(record["data"][kind])) for record in records}


def verdict_link(claim: str, verdict: str, role: str, env: BuildEnvironment, *parts: nodes.Node, title: str = "") -> nodes.reference:
    """A link to the row of a claim, in the colour of its verdict."""
    address = f"{env.app.builder.get_relative_uri(env.docname, VERDICTS[role])}#verdict-{claim}"
    titled = {"reftitle": title} if title else {}
    return nodes.reference("", "", *parts, refuri=address, internal=True, classes=["verdict", slug(verdict)], **titled)


class Verdict(SphinxRole):
    """The verdict on the claim whose id is the role's text, as a link to the claim's row."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        page = VERDICTS[self.name]
        texts = glued_texts(Path(self.env.srcdir, f"{page}.ipynb"))
        if f"verdict_{self.text}" not in texts:
            message = self.inliner.reporter.error(f"There is no verdict on {self.text!r} in {page}.ipynb.", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        label = f"{self.text}: {texts[f'word_{self.text}']}"
        return [verdict_link(self.text, texts[f"verdict_{self.text}"], self.name, self.env, nodes.inline(label, label))], []


class VerdictStrip(SphinxDirective):
    """All verdicts of a document at a glance, in English: how many of each kind, then a small marked cell for each claim.

    Its argument is the role of the document. Words for screen readers and the claim itself, under the pointer, go with each cell.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (role,) = self.arguments
        texts = glued_texts(Path(self.env.srcdir, f"{VERDICTS[role]}.ipynb"))
        verdicts = {name.removeprefix("verdict_"): text for name, text in texts.items() if name.startswith("verdict_")}
        claims = {claim["id"]: claim["statement"]["en"] for claim in yaml.safe_load(LEDGER.read_text(encoding="utf-8"))}
        counts = Counter(verdicts.values())
        legend = nodes.paragraph(classes=["verdict-counts"])
        for verdict in filter(counts.get, MARKS):
            text = f"{MARKS[verdict]} {counts[verdict]} {verdict}"
            legend += [nodes.inline(text, text, classes=["verdict", slug(verdict)]), nodes.Text(" ")]
        cells = nodes.bullet_list(classes=["verdict-cells"])
        for claim, verdict in verdicts.items():
            words = nodes.inline("", f": {verdict}", classes=["visually-hidden"])
            parts = (nodes.Text(f"{claim}\N{NO-BREAK SPACE}{MARKS[verdict]}"), words)
            cells += nodes.list_item("", nodes.paragraph("", "", verdict_link(claim, verdict, role, self.env, *parts, title=claims[claim])))
        return [legend, cells]


def bench_text(results: list[dict[str, Any]]) -> str:
    """What the page on performance shows of a sweep's results, as Markdown: the first whole, of those of other processors the summaries."""
    first, *others = results
    columns = {
        "plain loop": "plain_seconds",
        "autocast": "plain_bf16_seconds",
        "stacks": "stacked_seconds",
        "products": "products_seconds",
    }
    columns = {title: name for title, name in columns.items() if name in first["rounds"][0]}
    rows = [
        f"| {number} | {' | '.join(f'{measured[name]:.1f}' for name in columns.values())} | {measured['ratio']:.2f} |"
        for number, measured in enumerate(first["rounds"], 1)
    ]
    table = "\n".join([f"| # | {' | '.join(columns)} | ratio |", "|--:" * (len(columns) + 2) + "|", *rows])
    networks, seeds = first["networks"], first["seeds"]
    setting = (
        f"{networks} networks, {networks // seeds} for each of {seeds} seeds; plain loop with {first['plain_threads']} threads, "
        f"stacks in {first['dtype']}"
    )
    paragraphs = [_bench_summary(first), f"Seconds for one epoch of all networks ({setting}):", table]
    return "\n\n".join([*paragraphs, *(f"On another processor, and perhaps with older code: {_bench_summary(other)}" for other in others)])


def _bench_summary(bench: dict[str, Any]) -> str:
    memory = bench["peak_memory_mb"]
    made = f"{bench['hardware']}, {bench['cores']} cores, Python {bench['python']}, PyTorch {bench['torch']}, {bench['date']}, commit {bench['commit']}"
    spread = f"median of {len(bench['rounds'])} rounds, {bench['ratio_min']:.2f} to {bench['ratio_max']:.2f}"
    text = f"**{bench['ratio_median']:.2f} times as fast** ({spread}; {made})"
    if "limit_median" in bench:
        text += f"; with the stacks' matrix products alone it would be {bench['limit_median']:.2f}"
    if "ratio_bf16_median" in bench:
        text += f"; against the plain loop under autocast {bench['ratio_bf16_median']:.2f} times"
    return f"{text}. Peak memory: {memory['one_by_one']} MB for the plain loop, {memory['stacked']} MB for all processes of the stacks."


def precision_texts(saved: dict[str, Any]) -> dict[str, str]:
    """What the page on performance shows of the runs in two precisions, as Markdown: `precision_setting` and `precision_table`."""
    runs = {dtype: [run for run in saved["runs"] if run["dtype"] == dtype] for dtype in ("float32", "bf16")}
    made = [f"{dtype}: {len(of)} seeds, {', '.join(sorted({run['hardware'] for run in of}))}" for dtype, of in runs.items()]
    rows = []
    for name, title, digits, compare, write in (
        ("since_switch", "epochs from the switch to $T_{NC}$", 1, relative_effect, percent_with_interval),
        ("fn_star", "fn\\*", 3, relative_effect, percent_with_interval),
        ("test_error", "test error at the end", 3, difference, with_interval),
    ):
        values = [[run[name] for run in of] for of in runs.values()]
        means = [with_interval(estimate(of), digits) for of in values]
        rows.append(f"| {' | '.join([title, *means, write(compare(*reversed(values)), sign=True)])} |")
    return {
        "precision_setting": f"{saved['date']}; {'; '.join(made)}",
        "precision_table": "\n".join(["| measure | float32 | bfloat16 | change |", "|:--|--:|--:|--:|", *rows]),
    }


def aims_table() -> str:
    """What is still to be trained, as Markdown: a row for each chapter of `chapters.aims`."""
    published, rows = Store().published, []
    for name, given in aims().items():
        chapter = find_chapter(name)
        specs = chapter_specs(chapter, given)
        there = sum((published / f"{spec.key}.npz").is_file() for spec in specs)
        verb = "sweep" if there < len(specs) else "run"
        rows.append(f"| {chapter.title} | {there} of {len(specs)} | `{command(verb, chapter, given)}` |")
    return "\n".join(["| chapter | networks there | command |", "|:--|--:|:--|", *rows])


def add_texts(app: Sphinx, config: Config) -> None:
    config.myst_substitutions |= {
        f"{sweep}_results": bench_text(results) for sweep, results in json.loads(BENCH.read_text(encoding="utf-8")).items()
    }
    config.myst_substitutions |= precision_texts(json.loads(PRECISION.read_text(encoding="utf-8")))
    config.myst_substitutions["aims_table"] = aims_table()


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Leave out thebe, which Jupyter Book always adds: its scripts name a foreign host and clash with one another."""
    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if "thebe" not in f"{script.filename}{script.attributes.get('body')}"]


def mend_html(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Keep numbers, signs and units on one line; take back names and roles that mislead screen readers; name links in Italian."""
    parts = FIXED.split(context.get("body", ""))
    parts[::2] = [KEPT_TOGETHER.sub("\N{NO-BREAK SPACE}", prose) for prose in parts[::2]]
    body = re.sub(r' role="(?:list|doc-biblioentry)"| aria-label="Toggle hidden content"', "", "".join(parts))
    italian = app.env.metadata.get(page, {}).get("lang") == "it"
    context["body"] = re.sub(r' title="Link to this \w+"', ' title="Link diretto"', body) if italian else body


SEARCH_ON_DISK = "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;"
"""Browsers forbid a page on the disk to read another, from which the search would take its summaries."""


def setup(app: Sphinx) -> dict[str, Any]:
    for role in VERDICTS:
        app.add_role(role, Verdict())
    app.add_directive("verdict-strip", VerdictStrip)
    app.add_role("it", CustomRole("it", generic_custom_role, {"class": ["language-it"]}))
    app.add_js_file(None, body=SEARCH_ON_DISK)
    app.connect("config-inited", add_texts, priority=100)
    app.connect("doctree-read", mark_language)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("html-page-context", mend_html)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
