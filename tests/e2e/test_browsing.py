"""What the tests of pages rely on: every kind of complaint is heard, and every kind of barrier is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browsing import Visit, barriers, keyboard_barriers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
HEAD = "<!doctype html><html lang=en><head><title>A page</title><link rel=icon href='data:,'>"


def page(folder: Path, body: str, head: str = "") -> Path:
    path = folder / "page.html"
    path.write_text(f"{HEAD}{head}</head><body><main><h1>A page</h1>{body}</main></body></html>", "utf-8")
    return path


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.log('a word')</script>", "console, log: a word"),
        ("<script>setTimeout(() => { throw new Error('a fault') })</script>", "exception: a fault"),
        ("<script>alert('look')</script>", "dialog: look"),
        ("<img alt='' src='http://example.com/x.png'>", "request to http://example.com/x.png"),
        ("<img alt='' src='file:///etc/hostname'>", "request to file:///etc/hostname"),
    ],
)
def test_what_a_page_complains_of_is_heard(visit: Visit, tmp_path: Path, body: str, said: str) -> None:
    visit.open(page(tmp_path, body))
    assert said in visit.complaints()
    visit.heard.clear()


def test_a_violation_of_the_policy_is_heard(visit: Visit, tmp_path: Path) -> None:
    policy = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:\">"
    visit.open(page(tmp_path, "<script>1</script>", policy))
    assert "Content Security Policy" in " ".join(visit.complaints())
    visit.heard.clear()


def test_a_good_page_has_nothing_to_say(visit: Visit, tmp_path: Path) -> None:
    style = "<style>:focus-visible { outline: 2px solid #00c }</style>"
    shown = visit.open(page(tmp_path, "<button>One</button> <a href='#x'>Two</a> <p id=x>Text</p>", style))
    assert visit.complaints() == barriers(shown) == keyboard_barriers(shown) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<img src='data:,'>", "axe, critical: image-alt"),
        ("<p style='color: #888'>Large and grey</p>", "faint: 3.54"),
        ("<p style='color: #888; font-size: 3rem'>Larger</p>", "faint: 3.54"),
        ("<p id=a>One</p><p id=a>Two</p>", "id given twice: a"),
        ("<p style='width: 2000px'>Wide</p>", "px wide on a screen of 1280"),
    ],
)
def test_barriers_are_found(visit: Visit, tmp_path: Path, body: str, fault: str) -> None:
    found = barriers(visit.open(page(tmp_path, body)))
    assert [one for one in found if fault in one], found


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<button tabindex=-1>Out</button>", "is not reached"),
        ("<button style='outline: none'>Dark</button>", "shows no focus"),
        ("<button style='outline: 2px solid #eee'>Pale</button>", "shows no focus"),
        ("<button>Under</button><div style='position: fixed; inset: 0; background: red'></div>", "cannot be seen"),
        ("<div style='cursor: pointer'>Click me</div>", "is for the mouse only"),
    ],
)
def test_barriers_to_the_keyboard_are_found(visit: Visit, tmp_path: Path, body: str, fault: str) -> None:
    style = "<style>:focus-visible { outline: 2px solid #00c }</style>"
    (found,) = keyboard_barriers(visit.open(page(tmp_path, body, style)))
    assert fault in found
