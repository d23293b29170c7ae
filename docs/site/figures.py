"""The figures of docs/decision.md, drawn by the code that decides; `python docs/site/figures.py` writes docs/img/*.svg

Three candidates are simulated on a frozen set of 5,000 samples with δ = 2 points, of which 12 % change: one is as good
as the baseline, one 4 points better, one 6 points worse. Colours are readable on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from harness.statistics.sequential import Design, Draws, running_log_e, sequential_test

FOLDER = Path(__file__).resolve().parents[1] / "img"

_N, _MARGIN, _FLIPS, _ALPHA = 5000, 0.02, 0.12, 0.05
_CANDIDATES = (("4 points better", 0.04, "#2f9e6e"), ("as good", 0.0, "#4c7bd9"), ("6 points worse", -0.06, "#d9534c"))
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 320, 60, 40, 20, 130
_UNTIL = 1500  # samples on the horizontal axis

Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]


def wealth() -> str:
    """The most that the bettor who is right has had, against the samples asked, until its threshold is reached."""
    place = _scale(-1.0, 2.2)
    parts = _frame(place, [(v, f"{10**v:g}") for v in (-1, 0, 1, 2)], "wealth")
    parts.append(_rule(place(0, -math.log10(_ALPHA))[1], "1/α = 20"))
    for index, (name, difference, colour) in enumerate(_CANDIDATES):
        side = 1 if difference > -_MARGIN else -1
        path = running_log_e(_draws(difference), _design(), side=side)[:_UNTIL] / math.log(10)
        reached = path >= -math.log10(_ALPHA)
        end = int(np.argmax(reached)) + 1 if reached.any() else len(path)
        parts += _line(place, [(1 + i, path[i]) for i in (*range(0, end - 1, 5), end - 1)], colour)
        parts.append(_text(_WIDTH - _RIGHT + 8, 150 + 36 * index, name, colour))
        won = "doubts “at most −δ”" if side == 1 else "doubts “above −δ”"
        parts.append(_text(_WIDTH - _RIGHT + 8, 164 + 36 * index, won, colour))
    return _svg("How the wealth of the bettors grows until it reaches 1/α", parts)


def intervals() -> str:
    """The confidence sequences of the same three candidates, which leave −δ on one side where they are decided."""
    place = _scale(-0.16, 0.16)
    parts = _frame(place, [(v, f"{100 * v:+.0f}") for v in (-0.1, -0.05, 0.0, 0.05, 0.1)], "points")
    parts.append(_rule(place(0, -_MARGIN)[1], "−δ = −2"))
    looks = range(50, _UNTIL + 1, 50)
    for name, difference, colour in _CANDIDATES:
        draws = _draws(difference)
        seen = [(n, _interval(draws, n)) for n in looks]
        band = [(n, low) for n, (low, _) in seen] + [(n, high) for n, (_, high) in reversed(seen)]
        shape = " ".join(f"{x:.0f},{y:.0f}" for x, y in (place(n, max(min(v, 0.16), -0.16)) for n, v in band))
        parts.append(f'<polygon points="{shape}" fill="{colour}" fill-opacity="0.22" stroke="{colour}"/>')
        low, high = seen[-1][1]
        parts.append(_text(_WIDTH - _RIGHT + 8, place(0, (low + high) / 2)[1] + 4, name, colour))
    return _svg("Confidence sequences of three candidates, and the margin", parts)


FIGURES: dict[str, Callable[[], str]] = {"wealth.svg": wealth, "intervals.svg": intervals}


def _draws(difference: float) -> Draws:
    """A whole frozen set in which exactly `_FLIPS` of the samples change, with the mean `difference`."""
    won, lost = (round(_N * (_FLIPS + sign * difference) / 2) for sign in (1, -1))
    sums = np.concatenate([np.ones(won), -np.ones(lost), np.zeros(_N - won - lost)])
    ones = np.ones(_N, dtype=np.int64)
    return Draws(np.random.default_rng(7).permutation(sums), ones, ones)


def _design() -> Design:
    return Design(_MARGIN, 1.0, "frozen", _N)


def _interval(draws: Draws, n: int) -> tuple[float, float]:
    """The confidence sequence after n samples."""
    first = Draws(draws.sums[:n], draws.scored[:n], draws.sizes[:n])
    return sequential_test(first, _design(), alpha=_ALPHA, block_alpha=_ALPHA).interval


def _scale(low: float, high: float) -> Place:
    """From (samples, value) to pixels."""

    def place(samples: float, value: float) -> tuple[float, float]:
        across = _LEFT + samples / _UNTIL * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _BOTTOM - _TOP)

    return place


def _frame(place: Place, marks: Sequence[tuple[float, str]], of: str) -> list[str]:
    parts = [_text(_LEFT - 48, _TOP - 4, of)]
    for value, label in marks:
        _, y = place(0, value)
        parts.append(f'<path d="M{_LEFT} {y:.0f}H{_WIDTH - _RIGHT}" stroke="#8888" stroke-width="0.5"/>')
        parts.append(_text(_LEFT - 48, y + 4, label))
    for samples in (0, 500, 1000, 1500):
        x, _ = place(samples, 0)
        parts.append(_text(x - 10, _HEIGHT - 16, f"{samples:,}"))
    return [*parts, _text(_WIDTH - _RIGHT + 30, _HEIGHT - 16, "samples asked")]


def _rule(y: float, label: str) -> str:
    path = f'<path d="M{_LEFT} {y:.0f}H{_WIDTH - _RIGHT}" stroke="#888" stroke-dasharray="5 4"/>'
    return path + _text(_WIDTH - _RIGHT - 55, y - 5, label)


def _line(place: Place, points: Points, colour: str) -> list[str]:
    shape = " ".join(f"{x:.0f},{y:.0f}" for x, y in (place(n, value) for n, value in points))
    x, y = place(*points[-1])
    line = f'<polyline points="{shape}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return [line, f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3.5" fill="{colour}"/>']


def _text(x: float, y: float, words: str, colour: str = "#888") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{words}</text>'


def _svg(title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12"'
    return "\n".join([f'{head} font-family="sans-serif">', f"<title>{title}</title>", *parts, "</svg>", ""])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, draw in FIGURES.items():
        (FOLDER / file).write_text(draw(), encoding="utf-8")
