"""Whether bfloat16 products move what part two measures: its baseline trained with them, beside the published runs in float32.

The networks are those of depth 5 in the chapter on depth. Trained with bfloat16 they go into FOLDER, where those that are there already
are not trained again, and nowhere else: a run's name does not tell its precision. Read of both: epochs from the switch to T_NC, fn* and the
test error at the last record.

    python -m tests.benchmarks.bench_precision FOLDER [--save book/precision.json]
"""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path

from ncbook.chapters import chapter_specs, find_chapter
from ncbook.fn.experiments import BASELINE, THRESHOLD
from ncbook.fn.onset import onsets
from ncbook.store import Store
from ncbook.sweep import load_runs, table, train_missing


def measured(specs, store) -> list[dict]:
    """A dictionary for each run: what was measured, and how it was made."""
    runs = load_runs(specs, store)
    found = onsets(table(runs), THRESHOLD).set_index("key")
    return [
        {
            "seed": run.spec.seed,
            **{name: round(float(found.loc[run.spec.key, name]), 4) for name in ("since_switch", "fn_star")},
            "test_error": float(run.metrics["test_error"][-1]),
            **{name: run.provenance[name] for name in ("dtype", "hardware", "started", "seconds")},
        }
        for run in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", type=Path, help="write the result into this JSON file")
    options = parser.parse_args()

    specs = chapter_specs(find_chapter("fn_depth"), {"depths": [BASELINE.model.depth]})
    with tempfile.TemporaryDirectory() as empty:
        store = Store(own=options.folder, published=empty)
        train_missing(specs, device="cpu", dtype="bf16", store=store)
        result = {"date": date.today().isoformat(), "runs": measured(specs, Store()) + measured(specs, store)}
    text = json.dumps(result, indent=1)
    print(text)
    if options.save:
        options.save.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
