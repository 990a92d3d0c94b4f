"""Shared by all tests: nothing touches the user's own store, every library computes with one thread, one browser opens all pages."""

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what the tests expect of durations and devices is the CPU's

import pytest  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

PATIENCE = 120_000
"""Milliseconds after which what a page should show counts as missing, on a machine however busy."""
expect.set_options(timeout=PATIENCE)

AXE = Path(__file__).with_name("axe") / "axe.min.js"
THEME_BARRIER = re.compile("label-content-name-mismatch: .*(search-button-field|theme-switch-button)")
"""Two buttons of the theme show more than their names say: the key that opens the search, and the icon of the present mode. Neither
is what one would call them, so the names are right as they are."""


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """Each test has an empty store of its own."""
    folder = tmp_path / "own-runs"
    monkeypatch.setenv("NCBOOK_RUNS", str(folder))
    return folder


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built book."""
    from ncbook.build import build_book

    return build_book().parent


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a web server over a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def served(html: Path) -> Iterator[str]:
    """The address of a web server over the book."""
    with serve(html) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from ncbook.pdf import BROWSER_ARGUMENTS, chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def open_page(browser: Browser) -> Callable[..., tuple[Page, list[str]]]:
    """Opens an address in a new window; gives the page, and the list in which its faults gather.

    Faults are errors of scripts, failed requests, and requests to anything but the host (or the disk) that the address names.
    """

    def opened(address: str, width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
        own = ("data:", "blob:", "/".join(address.split("/")[:3]) + "/")
        faults: list[str] = []
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
        page.on("response", lambda response: response.status >= 400 and faults.append(f"{response.status}: {response.url}"))
        page.on("request", lambda request: request.url.startswith(own) or faults.append(f"not of this book: {request.url}"))
        page.goto(address, wait_until="load")
        return page, faults

    return opened


@pytest.fixture(scope="session")
def barriers() -> Callable[..., list[str]]:
    """Names what axe finds serious or critical on a page by the given rules (none: by all); `THEME_BARRIER` and MathJax's own apart."""

    def found(page: Page, rules: Sequence[str] = ()) -> list[str]:
        page.evaluate(AXE.read_text(encoding="utf-8"))
        options = {"runOnly": rules} if rules else {}
        violations = page.evaluate("options => axe.run({exclude: ['mjx-container']}, options)", options)["violations"]
        grave = [violation for violation in violations if violation["impact"] in ("serious", "critical")]
        named = [f"{violation['id']}: {node['html']}" for violation in grave for node in violation["nodes"]]
        return [barrier for barrier in named if not THEME_BARRIER.match(barrier)]

    return found
