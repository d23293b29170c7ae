"""Our pages in a headless Chromium that Playwright drives, and what every one of them is held to.

The browser is the system's: Playwright downloads none. A test asks for the fixture `visit` (tests/e2e/conftest.py),
opens pages with it, and may take for granted that they were silent: whatever a page complains of fails the test.
Importing this module skips the importing one, with the reason, where Playwright, axe-core or Chromium is absent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request

_sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
_axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

expect = _sync_api.expect
PATIENCE = 60_000  # ms; for a machine that is busy with everything else, never for a page
expect.set_options(timeout=PATIENCE)

SCREENS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 320)]
"""Light and dark, on a desk and on the smallest phone."""

_CHECKS = (Path(__file__).parent / "page_checks.js").read_text("utf-8")
_DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


@contextmanager
def launched() -> Iterator[Browser]:
    """A Chromium that can reach nothing but 127.0.0.1.

    Keep it no longer than for one module: while Playwright's sync API is open in a thread, `asyncio.run` refuses to run
    there, so tests of other modules must find it closed.
    """
    alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", alone]
    with _sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet, timeout=PATIENCE)
        yield browser
        browser.close()


class Visit:
    """Pages opened by one test, each in a context of its own; `heard` is all that they complained of.

    A complaint is anything on the console (violations of the page's policy are), an exception, a dialog, and a request
    to anything but the folder or the server that the page came from.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._scripted: list[Page] = []
        self.heard: list[str] = []

    def open(
        self, address: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, scripts: bool = True,
        password: str = "",
    ) -> Page:  # fmt: skip
        """A page once it has loaded. `password` answers a server that asks for one."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, is_mobile=width < 500,
            color_scheme="dark" if dark else "light", reduced_motion="reduce", java_script_enabled=scripts,
            http_credentials={"username": "any", "password": password} if password else None,
        )  # fmt: skip
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        url = address.as_uri() if isinstance(address, Path) else address
        self._listen(page, url)
        page.goto(url)
        if scripts:
            self._scripted.append(page)
        return page

    def _listen(self, page: Page, url: str) -> None:
        ours = url.partition("#")[0].rpartition("/")[0] + "/"
        if url.startswith("http"):
            ours = "/".join(url.split("/")[:3]) + "/"

        def asked(request: Request) -> None:
            if not request.url.startswith((ours, "data:,")):
                self.heard.append(f"request to {request.url}")

        def dialog(shown: Dialog) -> None:
            self.heard.append(f"dialog: {shown.message}")
            shown.dismiss()

        page.on("request", asked)
        page.on("dialog", dialog)
        page.on("console", lambda said: self.heard.append(f"console, {said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.heard.append(f"exception: {error}"))

    def complaints(self) -> list[str]:
        """What was heard, after every page has drawn what it was about to draw."""
        for page in self._scripted:
            page.evaluate(_DRAWN)
        return self.heard

    def close(self) -> None:
        """Close every page."""
        for context in self._contexts:
            context.close()


def keep(page: Page, name: str, *, height: int | None = None) -> None:
    """Keep a screenshot where $HARNESS_SCREENSHOTS names a folder, for people to look at and for docs/img."""
    if folder := os.environ.get("HARNESS_SCREENSHOTS"):
        clip = height and {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height}
        page.evaluate("scrollTo(0, 0)")  # or what sticks to the top is drawn in the middle
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True, clip=clip)


def unfold(page: Page) -> None:
    """Open everything that can be opened."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def barriers(page: Page, *, contrast: bool = True) -> list[str]:
    """What axe-core and our own checks find: violations of any weight, faint texts, ids given twice, too wide.

    `contrast` is whether axe-core looks at it too, which takes it most of its time; ours is stricter, and always looks.
    """
    options = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": contrast}}}
    found = _axe.Axe().run(page, options=options).response["violations"]
    faults = [f"axe, {one['impact']}: {one['id']} {node['html'][:120]}" for one in found for node in one["nodes"]]
    faults += faint(page)
    faults += [f"id given twice: {name}" for name in page.evaluate("pageChecks.twice()")]
    wide, room = page.evaluate("document.documentElement.scrollWidth"), page.viewport_size["width"]
    return faults + ([f"{wide} px wide on a screen of {room}"] if wide > room else [])


def barriers_on_every_screen(page: Page, name: str) -> dict[str, list[str]]:
    """The barriers by screen, without the screens that have none; a picture of each is kept."""
    found = {}
    for scheme, width in SCREENS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        keep(page, f"{name}-{scheme}-{width}")
        found[f"{scheme}-{width}"] = barriers(page, contrast=width == 1280)  # colours do not depend on the width
    return {screen: faults for screen, faults in found.items() if faults}


def scrolls_sideways(page: Page, *widths: int) -> list[int]:
    """Those of the widths, in px, of which the page would need more."""
    wide = []
    for width in widths:
        page.set_viewport_size({"width": width, "height": 700})
        if page.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(width)
    return wide


def faint(page: Page) -> list[str]:
    """Texts whose contrast with their ground is below 4.5:1, also where axe-core asks for less or cannot tell."""
    page.evaluate(_CHECKS)
    return [f"faint: {text}" for text in page.evaluate("pageChecks.faint()")]


def keyboard_barriers(page: Page) -> list[str]:
    """What stands in the way of somebody who has only a keyboard, found by pressing Tab until it comes round.

    Everything that can be used must be reached, must show that it has the focus (an outline of 2 px with a contrast of
    3:1), and must then be on the screen with nothing before it. What is marked as clickable must be among it.
    """
    page.evaluate(_CHECKS)
    page.evaluate("pageChecks.begin()")
    faults: list[str] = []
    while True:
        page.keyboard.press("Tab")
        found = page.evaluate("pageChecks.stop()")
        if found is None:
            return faults + list(page.evaluate("pageChecks.unreached()"))
        faults += found


def press(page: Page, *keys: str) -> None:
    """Press keys, one after another."""
    for key in keys:
        page.keyboard.press(key)


def focused(page: Page) -> str:
    """The id of what has the focus."""
    return str(page.evaluate("document.activeElement.id"))
