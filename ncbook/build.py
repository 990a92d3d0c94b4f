"""The HTML of the book: executes the chapters that are out of date, then lets Jupyter Book render the pages."""

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from ncbook.chapters import CHAPTERS, ROOT, Chapter, chapter_specs, execute, one_thread
from ncbook.store import Store
from ncbook.sweep import cores

EXECUTED = ROOT / "executed"
HTML = ROOT / "_build" / "html"


class BuildError(RuntimeError):
    """A book that cannot be built; the message says why and what to do."""


def _digest(files: Iterable[Path]) -> str:
    """Of the files' names and contents, caches apart."""
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file() and "__pycache__" not in file.parts):
        digest.update(f"{file.relative_to(ROOT)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _published(chapter: Chapter) -> list[Path]:
    """The files of the runs that the chapter's defaults need. Raises `BuildError` unless all are published."""
    store = Store()
    files = [store.published / f"{spec.key}.npz" for spec in chapter_specs(chapter, {})]
    if missing := sum(not file.is_file() for file in files):
        raise BuildError(
            f"{missing} of the {len(files)} runs that {chapter.name} needs are not published, and a build trains nothing: "
            f"`ncbook sweep {chapter.name}` trains them, then `ncbook runs publish {chapter.name}` puts them into the book."
        )
    return files


def published_page(chapter: Chapter) -> Path:
    """The chapter as the book shows it, executed anew unless what it is made from is as it was then.

    Raises `BuildError` if runs are not published, `ExecutionError` if the chapter fails.
    """
    _execute_stale([chapter])
    return EXECUTED / chapter.notebook.name


def _execute_stale(chapters: Iterable[Chapter]) -> None:
    """Executes those chapters whose page is not made from what there is now, as many at once as there are cores."""
    facts = [ROOT / "requirements.txt", ROOT / "book" / "claims.yml", *(ROOT / "book" / "reference").rglob("*")]
    stale = {}
    for chapter in chapters:
        digest = _digest([chapter.notebook, *(ROOT / "ncbook").rglob("*.py"), *facts, *_published(chapter)])
        page, made_from = EXECUTED / chapter.notebook.name, EXECUTED / f"{chapter.notebook.stem}.digest"
        if not (page.is_file() and made_from.is_file() and made_from.read_text() == digest):
            stale[chapter.name] = (chapter, made_from, digest)

    def update(chapter: Chapter, made_from: Path, digest: str) -> None:
        execute(chapter, {}, EXECUTED, train=False)
        made_from.write_text(digest)

    with one_thread(), ThreadPoolExecutor(cores()) as pool:
        executions = {pool.submit(update, *what): name for name, what in stale.items()}
        try:
            for number, execution in enumerate(as_completed(executions), 1):
                execution.result()
                print(f"{executions[execution]} executed ({number} of {len(stale)})", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def build_book() -> Path:
    """Brings the book up to date and returns its first page.

    Pages are rendered all or none: a change in one can break a reference, or stale a number, in another.
    Raises `BuildError` if runs are not published or Jupyter Book finds fault, `ExecutionError` if a chapter fails.
    """
    _execute_stale(CHAPTERS.values())
    pages = [ROOT / "requirements.txt", *ROOT.glob("_*.yml"), *EXECUTED.glob("*.ipynb"), *(ROOT / "book").rglob("*")]
    digest = _digest(pages)
    made_from = HTML / ".digest"
    if not (made_from.is_file() and made_from.read_text() == digest):
        made_from.unlink(missing_ok=True)
        jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
        if subprocess.run([*jupyter_book, "build", "--all", "-W", "-n", "--keep-going", "."], cwd=ROOT).returncode:
            raise BuildError("Jupyter Book found fault with the pages: mend what it reports above, then build again.")
        made_from.write_text(digest)
    return HTML / "index.html"
