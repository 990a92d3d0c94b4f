"""What stands below a figure: what its numbers come from, the command that remakes it, and the numbers themselves as a CSV file."""

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd
from IPython.display import HTML

from ncbook.chapters import changed, command, find_chapter
from ncbook.plots import Panel
from ncbook.spec import RunSpec
from ncbook.store import Run

_PHRASES = {
    "it": {
        "network": "rete",
        "networks": "reti",
        "epochs": "{} epoche",
        "points": " su {} punti",
        "seed": "seme {}",
        "seeds": "semi {}",
        "none": "Nessuna rete addestrata",
        "remake": "Per rifare la figura: {}, che addestra prima le reti mancanti, se ce ne sono.",
        "train": "Per addestrarle soltanto, anche a tratti: {}.",
        "data": "Dati della figura (CSV, {} righe)",
        "made": "Addestramento: {}; precisione {}; dati: {}; {}.",
        "common": "Comune a tutte: {}.",
    },
    "en": {
        "network": "network",
        "networks": "networks",
        "epochs": "{} epochs",
        "points": " on {} points",
        "seed": "seed {}",
        "seeds": "seeds {}",
        "none": "No network trained",
        "remake": "To remake the figure: {}, which first trains the networks that are missing, if any.",
        "train": "To train them only, in several sittings if need be: {}.",
        "data": "Data of the figure (CSV, {} rows)",
        "made": "Training: {}; precision {}; data: {}; {}.",
        "common": "Common to all: {}.",
    },
}


def drawn(
    means: pd.DataFrame, panels: Iterable[Panel], points: pd.DataFrame | None = None, *, hue: str | None = None, source: str = "report"
) -> pd.DataFrame:
    """The rows that a figure of these panels shows of `means`, and of `points` those that it draws beside them.

    means: from `analysis.seed_means`. points: from `analysis.report_points`; `hue`: the column that the figure has colours for.
    The column source says "ncbook" for the former, `source` for the latter.
    """
    tables = [("ncbook", means)]
    if points is not None:
        beside = points.rename(columns={"value": "mean"}).dropna(subset="mean")
        for column in {"model", "optimizer", hue} & {*points} & {*means}:
            beside = beside[beside[column].isin(means[column])]
        tables.append((source, beside))
    parts = []
    for panel in panels:
        for origin, table in tables:
            rows = table["metric"].isin(panel.series)
            for column, value in panel.where.items():
                rows &= table[column] == value
            parts.append(table[rows].assign(source=origin))
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return whole[["source", *whole.columns.drop("source")]]


def _count(number: int, language: str) -> str:
    return f"{number:,}".replace(",", "." if language == "it" else ",")


def _span(values: Iterable[Any], show: Callable[[Any], str] = str) -> str:
    """`0, 2, 5`; of more than four values, the first and the last: `0–9`."""
    ordered = [show(value) for value in sorted(set(values))]
    return f"{ordered[0]}–{ordered[-1]}" if len(ordered) > 4 else ", ".join(ordered)


def _settings(spec: RunSpec) -> dict[str, Any]:
    """The spec's fields that are not None, nested ones by their path; a name is called by what it names."""
    flat = pd.json_normalize(spec.to_dict()).iloc[0].to_dict()
    return {path.removesuffix(".name"): json.dumps(value).strip('"') for path, value in flat.items() if not _missing(value)}


def _missing(value: Any) -> bool:
    return value is None or value != value


def _shared_and_varied(runs: Sequence[Run]) -> tuple[str, str]:
    """What the runs' specs have in common; a line for each run, named by its key, of what they have not."""
    table = pd.DataFrame([_settings(run.spec) for run in runs], index=[run.spec.key for run in runs]).fillna("–")
    shared = [column for column in table if table[column].nunique() == 1]
    varied = table.drop(columns=shared)
    rows = varied.to_string() if len(varied.columns) else varied.index[0]
    return ", ".join(f"{column}={table[column].iloc[0]}" for column in shared), rows


@dataclass(frozen=True)
class Provenance:
    """Of a page: its chapter, its runs, the notebook's variables (`globals()`), among them the parameters, and its language, it or en."""

    chapter: str
    runs: Sequence[Run]
    variables: Mapping[str, Any]
    language: str

    def line(self, name: str, table: pd.DataFrame, runs: Sequence[Run] | None = None) -> HTML:
        """One line to stand below the figure called `name`: scale, seeds, hardware, date; it opens to specs, commands and data.

        table: what the figure shows, given to the reader with seven significant digits as `name`.csv; it lies in the page itself, so
        that the link works from the disk. runs: those of this figure, by default the page's; `[]` for a figure that shows none.
        """
        runs = self.runs if runs is None else runs
        words, chapter = _PHRASES[self.language], find_chapter(self.chapter)
        given = changed(chapter, self.variables)
        run, sweep = (f"<code>{html.escape(command(verb, chapter, given), quote=False)}</code>" for verb in ("run", "sweep"))
        csv = table.to_csv(index=False, float_format="%.7g")
        link = words["data"].format(_count(len(table), self.language))
        parts = [
            f"<p>{words['remake'].format(run)} {words['train'].format(sweep) if runs else ''}</p>",
            f'<p><a download="{name}.csv" href="data:text/csv;charset=utf-8,{quote(csv, safe=",:/()[]")}">{link}</a></p>',
            *self._made(runs),
        ]
        return HTML(f'<details class="provenance"><summary>{html.escape(self.summary(runs))}</summary>{"".join(parts)}</details>')

    def summary(self, runs: Sequence[Run]) -> str:
        """`44 reti, 400 epoche su 4.000 punti · seme 0 · AMD EPYC · 2026-11-21`."""
        words = _PHRASES[self.language]
        if not runs:
            return words["none"]
        ends = _span((int(run.epochs[-1]) for run in runs), lambda epochs: _count(epochs, self.language))
        counts = {int(found.replace(",", "")) for run in runs for found in re.findall(r"([\d,]+) training points", run.provenance["scale"])}
        networks = f"{_count(len(runs), self.language)} {words['network' if len(runs) == 1 else 'networks']}"
        points = words["points"].format(" / ".join(_count(count, self.language) for count in sorted(counts)))
        seeds = {run.spec.seed for run in runs}
        days = sorted(run.provenance["started"][:10] for run in runs)
        return " · ".join(
            [
                f"{networks}, {words['epochs'].format(ends)}{points}",
                words["seed" if len(seeds) == 1 else "seeds"].format(_span(seeds)),
                ", ".join(sorted({run.provenance["hardware"] for run in runs})),
                " – ".join(dict.fromkeys((days[0], days[-1]))),
            ]
        )

    def _made(self, runs: Sequence[Run]) -> list[str]:
        """How long training took, in which precision, on data from where and with which versions; the specs."""
        if not runs:
            return []
        words = _PHRASES[self.language]
        minutes = sum(run.provenance["seconds"] for run in runs) / 60
        versions = sorted({f"{name} {version}" for run in runs for name, version in run.provenance["versions"].items()})
        dtypes, sources = (", ".join(sorted({run.provenance[field] for run in runs})) for field in ("dtype", "data"))
        made = words["made"].format(f"{_count(round(minutes), self.language)} min", dtypes, sources, ", ".join(versions))
        shared, varied = (html.escape(text, quote=False) for text in _shared_and_varied(runs))
        common = words["common"].format(f"<code>{shared}</code>") if shared else ""
        return [f"<p>{html.escape(made)} {common}</p>", f'<pre tabindex="0">{varied}</pre>']
