"""Chapters without a terminal: a form of their parameters, what they cost, a run that can be stopped, and what it changed."""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import ipywidgets
import traitlets
import yaml

from ncbook.chapters import CHAPTERS, Chapter, ChapterError, Parameter, changed, chapter_specs, check, command, default_out, parameters
from ncbook.compare_page import page_path
from ncbook.executor import plan

_COMMAND = """
import _thread, os, signal, threading, time

def stop_when_told():
    os.read(0, 1)
    while signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        time.sleep(0.1)
    _thread.interrupt_main()

signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=stop_when_told, daemon=True).start()
from ncbook.cli import main
main(prog_name="ncbook")
"""
"""The command line, which takes the end of its input for Ctrl-C: so it stops when told to, on any system, and when the kernel ends."""

_PROGRESS = re.compile(r"(?:(\w+):)?\s*(\d+)%\s*\|.*\|\s*(.*)")


class JobError(RuntimeError):
    """A command that failed or was stopped; the message is its last word."""


def sentence(error: Exception) -> str:
    """What to show of an error: those that ncbook itself defines, and those of the file system, say what they mean."""
    own = isinstance(error, OSError) or type(error).__module__.startswith("ncbook.")
    return str(error) if own else f"{type(error).__name__}: {error}"


def text(content: str, language: str = "en") -> str:
    """Plain text as the value of a widget."""
    return f'<span lang="{language}" style="line-height: 1.4">{html.escape(content)}</span>'


class Job(ipywidgets.VBox):
    """ncbook commands, one after the other, each in a process of its own: their progress, a button to stop them, their last word.

    A process of its own leaves the kernel free to answer, and what it has trained is kept however it ends. A thread listens to it; widgets
    may be changed from any thread.
    """

    busy = traitlets.Bool(False)

    def __init__(self) -> None:
        self.bar = ipywidgets.FloatProgress(max=100, layout={"width": "20rem"})
        self.stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="What has been trained is kept")
        self.words = ipywidgets.HTML()
        self._process: subprocess.Popen | None = None
        self._stopped = False
        self.stop.on_click(lambda _: self._stop())
        self.progress = ipywidgets.HBox([self.bar, self.stop], layout={"display": "none"})
        super().__init__([self.progress, self.words])

    def start(self, commands: Mapping[str, list[str]], then: Callable[[], None]) -> Thread:
        """Begins the commands and returns the thread that waits for them; it calls `then` once all have succeeded.

        commands: what one does, in words -> its arguments.
        """
        self.busy, self._stopped = True, False
        self.progress.layout.display = "flex" if commands else "none"
        thread = Thread(target=self._work, args=(commands, then), daemon=True)
        thread.start()
        return thread

    def say(self, words: str) -> None:
        self.words.value = text(words)

    def _work(self, commands: Mapping[str, list[str]], then: Callable[[], None]) -> None:
        try:
            for words, arguments in commands.items():
                self.bar.value = 0
                self.say(f"{words} …")
                self._execute(arguments)
            self.progress.layout.display = "none"
            then()
        except Exception as error:  # in a thread, nobody else would tell
            self.say(sentence(error))
        finally:
            self.progress.layout.display, self.busy = "none", False

    def _execute(self, arguments: list[str]) -> None:
        """One command to its end. Raises `JobError` if that is not a success."""
        program = [sys.executable, "-u", "-X", "utf8", "-c", _COMMAND, *arguments]
        said = ""
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as self._process:
            if self._stopped:
                self._stop()
            while chunk := self._process.stdout.read1():  # type: ignore[union-attr]
                said = (said + chunk.decode(errors="replace"))[-20_000:]
                self._show(said)
        if self._stopped:
            raise JobError("Stopped. What was trained is kept: the next run goes on from there.")
        if self._process.returncode:
            lines = [line for line in said.splitlines() if line.strip()] or ["It ended without a word."]
            faults = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
            raise JobError(faults[-1] if faults else lines[-1])

    def _show(self, said: str) -> None:
        """How far the progress bar has come, if the last line is one: that of the training, which has no name, or that of the cells."""
        if (found := _PROGRESS.fullmatch(said.rstrip().splitlines()[-1] if said.strip() else "")) and not self._stopped:
            name, percent, rest = found.groups()
            self.bar.value = float(percent)
            self.say(f"{name or 'Training'}: {percent} %, {rest}")

    def _stop(self) -> None:
        self._stopped = True
        self.say("Stopping …")
        if self._process is not None:
            with suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]


WIDE = {"style": {"description_width": "8.5rem"}, "layout": {"width": "46rem", "max_width": "100%"}}
"""Of the lists to choose from."""
_FIELDS = {"bool": ipywidgets.Checkbox, "int": ipywidgets.IntText, "float": ipywidgets.FloatText, "str": ipywidgets.Text}


class _Field(ipywidgets.HBox):
    """A parameter to fill in, a list as its values with commas between, and its help."""

    def __init__(self, parameter: Parameter, value: Any, language: str) -> None:
        self.parameter, kind = parameter, _FIELDS.get(parameter.type, ipywidgets.Text)
        self.entry = kind(
            value=self._written(value),
            description=parameter.name,
            tooltip=f"{parameter.help} ({parameter.type})",
            style=WIDE["style"],
            layout={"width": "30rem"},
            **({} if kind is ipywidgets.Checkbox else {"continuous_update": False}),
        )
        super().__init__([self.entry, ipywidgets.HTML(text(parameter.help, language))], layout={"flex_flow": "row wrap"})

    def _written(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return yaml.safe_dump(value, default_flow_style=True, width=10**9).strip()[1:-1]

    @property
    def value(self) -> Any:
        """What stands in the field. Raises `ChapterError` if it is no list where one belongs."""
        written = self.entry.value
        if not self.parameter.type.startswith("list["):
            return written
        try:
            return yaml.safe_load(f"[{written.strip().removeprefix('[').removesuffix(']')}]")
        except yaml.YAMLError:
            raise ChapterError(f"{self.parameter.name}: {written!r} is no list: write its values with commas between them.") from None


class Form(ipywidgets.VBox):
    """A chapter's parameters as fields, and what a run with them finds and trains, or why there can be none."""

    given = traitlets.Dict(allow_none=True, default_value=None)
    """The parameters that are not at their defaults; None while a value is refused."""

    def __init__(self, chapter: Chapter, first: Mapping[str, Any] | None = None) -> None:
        """first: what stands in the fields at first, where that is not the default."""
        import nbformat

        language = nbformat.read(chapter.notebook, as_version=4).metadata.get("lang", "en")
        self.chapter = chapter
        values = {name: parameter.default for name, parameter in parameters(chapter).items()} | dict(first or {})
        self.fields = {name: _Field(parameter, values[name], language) for name, parameter in parameters(chapter).items()}
        self.cost = ipywidgets.HTML()
        for field in self.fields.values():
            field.entry.observe(lambda _: self.estimate(), "value")
        super().__init__([*self.fields.values(), self.cost])
        self.estimate()

    def estimate(self) -> None:
        """Reads the fields, and says the cost or the fault."""
        try:
            given = changed(self.chapter, check(self.chapter, {name: field.value for name, field in self.fields.items()}))
            cost = plan(chapter_specs(self.chapter, given))
        except Exception as error:  # whatever is entered, the form must answer
            self.given, self.cost.value = None, f"<strong>{text(sentence(error))}</strong>"
        else:
            self.given, self.cost.value = given, text(str(cost))


class FormLab(ipywidgets.VBox):
    """What labs share: the form of a chapter in its `place`, a `job` whose end may change what the form says, and buttons."""

    form: Form
    buttons: Sequence[tuple[ipywidgets.Button, Callable[[], bool]]]
    """Each with whether it can be pressed while no job runs."""

    def __init__(self) -> None:
        self.job, self.place = Job(), ipywidgets.VBox()
        self.job.observe(lambda _: self._changed(), "busy")
        super().__init__()

    def offer(self, chapter: Chapter, first: Mapping[str, Any] | None = None) -> None:
        """Puts a new form in its place; arguments as those of `Form`."""
        self.form = Form(chapter, first)
        self.form.observe(lambda _: self.ready(), "given")
        self.place.children = [self.form]
        self.ready()

    def ready(self) -> None:
        """Enables the buttons that can be pressed now."""
        for button, possible in self.buttons:
            button.disabled = self.job.busy or not possible()

    def _changed(self) -> None:
        if not self.job.busy:
            self.form.estimate()
        self.ready()


class ChapterLab(FormLab):
    """Any chapter with any parameters: its cost, a run, and what differs from the published chapter."""

    def __init__(self) -> None:
        super().__init__()
        titles = [(f"{chapter.name}: {chapter.title}", chapter) for chapter in CHAPTERS.values()]
        self.chapter = ipywidgets.Dropdown(options=titles, value=CHAPTERS["exp1"], description="Chapter", **WIDE)
        self.run = ipywidgets.Button(description="Run", icon="play", button_style="primary")
        self.buttons = [(self.run, lambda: self.form.given is not None)]
        self.result = ipywidgets.VBox()
        self.chapter.observe(lambda _: self.offer(self.chapter.value), "value")
        self.run.on_click(lambda _: self.start())
        self.children = [self.chapter, self.place, self.run, self.job, self.result]
        self.offer(self.chapter.value)

    def start(self) -> Thread:
        """Runs the chapter as the form says and compares it; returns the thread that waits for that."""
        chapter, given = self.form.chapter, dict(self.form.given or {})
        folder = default_out(chapter, given)
        commands = {
            f"Running {chapter.name}": ["run", chapter.name, "-y", json.dumps(given), "--out", str(folder)],
            "Comparing it with the published chapter": ["compare", str(folder)],
        }
        self.result.children = []
        return self.job.start(commands, then=lambda: self._compared(chapter, given, folder / chapter.notebook.name))

    def _compared(self, chapter: Chapter, given: Mapping[str, Any], executed: Path) -> None:
        """Shows the comparison, and where everything is."""
        page = page_path(executed)
        self.job.say(f"{chapter.name} is executed. On the command line: {command('run', chapter, given)}")
        links = ipywidgets.Output()
        links.append_display_data(_links({"Executed chapter": executed, "Comparison with the published chapter": page}))
        content = html.escape(page.read_text(encoding="utf-8"))
        frame = ipywidgets.HTML(
            f'<iframe srcdoc="{content}" title="What differs from the published chapter" sandbox '
            'style="width: 100%; height: 36rem; border: 1px solid #888"></iframe>'
        )
        self.result.children = [links, frame]


def _links(files: Mapping[str, Path]) -> Any:
    """Addresses that lead there from a notebook of the current folder."""
    from IPython.display import HTML

    return HTML(" · ".join(f'<a href="{html.escape(os.path.relpath(path))}" target="_blank">{name}</a>' for name, path in files.items()))
