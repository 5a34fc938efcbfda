"""Plots as SVG text, for a page that needs nothing from outside.

What may live here: scales, axes and shapes. Colours are CSS classes of the page; each shape that stands for a number
has it as its title, which browsers show when it is pointed at and readers for the blind say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from typing import Final

from .sketch import Quantiles

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 16.0, 12.0, 26.0
_STEPS: Final = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
    172_800, 604_800, 1_209_600, 2_592_000, 7_776_000, 31_536_000,
)  # fmt: skip
_MINUTE, _DAY = 60, 86_400
_CLOCK: Final = 600  # seconds from which the time of day says more than the time since the start
_BARS: Final = 26

Text = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers along time.

    Attributes:
        name: for the legend.
        css: the class that colours it.
        values: one for each stretch.
    """

    name: str
    css: str
    values: Sequence[float]


class Frame:
    """A plot's area and its two scales."""

    def __init__(self, width: float, height: float, label: str, summary: str) -> None:
        self.width, self.height = width, height
        self.right, self.bottom = width - _RIGHT, height - _BOTTOM
        self._head = (
            f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}. {escape(summary)}">'
        )
        self._parts: list[str] = []

    def add(self, *parts: str) -> None:
        """Draw on top of what is there."""
        self._parts += parts

    def x(self, share: float) -> float:
        """Where a share of the width lies."""
        return _LEFT + share * (self.right - _LEFT)

    def y(self, share: float) -> float:
        """Where a share of the height lies, from below."""
        return self.bottom - share * (self.bottom - _TOP)

    def y_axis(self, most: float, text: Text) -> float:
        """Lines and numbers for a scale from 0; the number at the top of it."""
        step = nice(most / 4) if most > 0 else 1.0
        count = max(1, math.ceil(most / step - 1e-9))
        for number in range(count + 1):
            at = self.y(number / count)
            self.add(
                f'<line class="grid" x1="{_LEFT:g}" x2="{self.right:g}" y1="{at:.1f}" y2="{at:.1f}"/>',
                f'<text class="tick end" x="{_LEFT - 8:g}" y="{at + 4:.1f}">{escape(text(number * step))}</text>',
            )
        return step * count

    def x_tick(self, share: float, text: str, *, anchor: str = "mid") -> None:
        """A number below the plot."""
        self.add(f'<text class="tick {anchor}" x="{self.x(share):.1f}" y="{self.height - 8:g}">{escape(text)}</text>')

    def done(self) -> str:
        """All of it."""
        return f"{self._head}{''.join(self._parts)}</svg>"


def over_time(
    label: str, summary: str, starts: Sequence[float], series: Sequence[Series], text: Text, *, bars: bool
) -> str:
    """Numbers along time, one series on top of the other, as bars or as areas.

    Args:
        label: what is shown.
        summary: what can be seen, in a sentence.
        starts: where each stretch begins, in seconds since 1970, and where the last one ends.
        series: the lowest first.
        text: how a number is written.
        bars: draw bars instead of areas.
    """
    frame = Frame(1040, 250, label, summary)
    first, last = starts[0], starts[-1]
    span = last - first
    stacked = [sum(one.values[place] for one in series) for place in range(len(starts) - 1)]
    top = frame.y_axis(max(stacked), text)
    for share, told in _time_ticks(first, span):
        frame.x_tick(share, told)
    edges = [frame.x((start - first) / span) for start in starts]
    below = [0.0] * len(stacked)
    for one in series:
        above = [under + value for under, value in zip(below, one.values, strict=True)]
        if bars:
            frame.add(*_bars(frame, edges, below, above, top, one.css))
        else:
            frame.add(_area(frame, edges, below, above, top, one.css))
        below = above
    for place, (left, right) in enumerate(pairwise(edges)):  # one whole column to point at
        told = "\n".join(f"{one.name}: {text(one.values[place])}" for one in series if one.values[place])
        moment = datetime.fromtimestamp(starts[place], UTC).strftime("%d %b %Y %H:%M:%S UTC")
        frame.add(
            f'<rect class="hit" x="{left:.2f}" y="{_TOP:g}" width="{right - left:.2f}" '
            f'height="{frame.bottom - _TOP:g}"><title>{escape(f"{moment}{chr(10)}{told}")}</title></rect>'
        )
    return frame.done()


def rising(label: str, summary: str, starts: Sequence[float], values: Sequence[float], text: Text, css: str) -> str:
    """A sum that grows along time: what it is at the end of each stretch."""
    frame = Frame(1040, 250, label, summary)
    first, span = starts[0], starts[-1] - starts[0]
    top = frame.y_axis(values[-1], text)
    for share, told in _time_ticks(first, span):
        frame.x_tick(share, told)
    points = [(frame.x(0.0), frame.y(0.0))]
    points += [
        (frame.x((end - first) / span), frame.y(value / top)) for end, value in zip(starts[1:], values, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    frame.add(
        f'<polygon class="area {css}" points="{line} {points[-1][0]:.1f},{frame.y(0):.1f}"/>',
        f'<polyline class="line {css}" points="{line}"/>',
        f'<circle class="{css}" cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="4"/>',
    )
    for place, (x, _) in enumerate(points[1:]):
        left = points[place][0]
        moment = datetime.fromtimestamp(starts[place + 1], UTC).strftime("%d %b %Y %H:%M:%S UTC")
        frame.add(
            f'<rect class="hit" x="{left:.2f}" y="{_TOP:g}" width="{x - left:.2f}" height="{frame.bottom - _TOP:g}">'
            f"<title>{escape(f'until {moment}: {text(values[place])}')}</title></rect>"
        )
    return frame.done()


def spread(label: str, sketch: Quantiles, text: Text, css: str) -> str:
    """How values are spread, on a logarithmic scale, with the median and what 95 in 100 stay below."""
    found = sketch.histogram(_BARS)
    zeros = found[0][2] if found and found[0][1] == 0 else 0
    bars = found[1:] if zeros else found
    p50, p95 = sketch.p50 or 0.0, sketch.p95 or 0.0
    frame = Frame(500, 220, label, f"Median {text(p50)}, 95 in 100 below {text(p95)}, highest {text(sketch.max or 0)}")
    top = frame.y_axis(1.2 * max(count for _, _, count in found), short)  # with room for what is written on top
    margin = 0.08 if zeros else 0.0
    if zeros:
        frame.add(_column(frame, 0.0, margin * 0.7, zeros / top, f"0: {zeros:,} calls", css))
        frame.x_tick(margin * 0.35, "0")
    if bars:
        low, high = math.log(bars[0][0]), math.log(bars[-1][1])
        if high - low < math.log(1.5):  # all but equal: a column in the middle, not a wall
            low, high = low - 0.5, high + 0.5

        def at(value: float) -> float:
            return margin + (1 - margin) * (math.log(value) - low) / (high - low)

        for start, end, count in bars:
            if count:
                told = f"{text(start)} to {text(end)}: {count:,} calls"
                frame.add(_column(frame, at(start), at(end), count / top, told, css))
        for value in _log_ticks(math.exp(low), math.exp(high)):
            frame.x_tick(at(value), text(value).replace(".0 ", " "))
        marks = [(name, value) for name, value in (("p50", p50), ("p95", p95)) if bars[0][0] <= value <= bars[-1][1]]
        for row, (name, value) in enumerate(marks):
            x = frame.x(at(value))
            end = x > frame.right - 90
            frame.add(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP:g}" y2="{frame.bottom:g}"/>',
                f'<text class="note {"end" if end else ""}" x="{x + (-5 if end else 5):.1f}" '
                f'y="{_TOP + 10 + 15 * row:g}">{name} {escape(text(value))}</text>',
            )
    return frame.done()


def nice(number: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    base = 10.0 ** math.floor(math.log10(number))
    return next(base * step for step in (1, 2, 5, 10) if base * step >= number * (1 - 1e-9))


def short(number: float) -> str:
    """A count in few characters: 950, 12 k, 3.4 M."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _column(frame: Frame, left: float, right: float, share: float, told: str, css: str) -> str:
    x, y = frame.x(left), frame.y(share)
    width = max(1.0, frame.x(right) - x - 1.5)
    return (
        f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(1.0, frame.bottom - y):.1f}" '
        f'rx="1.5"><title>{escape(told)}</title></rect>'
    )


def _bars(
    frame: Frame, edges: Sequence[float], below: Sequence[float], above: Sequence[float], top: float, css: str
) -> list[str]:
    gap = 1.0 if edges[1] - edges[0] > 4 else 0.0  # noqa: PLR2004 - pixels
    return [
        f'<rect class="{css}" x="{left:.2f}" y="{frame.y(high / top):.2f}" width="{right - left - gap:.2f}" '
        f'height="{frame.y(low / top) - frame.y(high / top):.2f}"/>'
        for (left, right), low, high in zip(pairwise(edges), below, above, strict=True)
        if high > low
    ]


def _area(
    frame: Frame, edges: Sequence[float], below: Sequence[float], above: Sequence[float], top: float, css: str
) -> str:
    def steps(values: Sequence[float]) -> list[str]:
        return [
            f"{x:.1f},{frame.y(value / top):.1f}"
            for (left, right), value in zip(pairwise(edges), values, strict=True)
            for x in (left, right)
        ]

    return f'<polygon class="{css}" points="{" ".join([*steps(above), *reversed(steps(below))])}"/>'


def _time_ticks(first: float, span: float) -> list[tuple[float, str]]:
    step = next((step for step in _STEPS if span / step <= 8), _STEPS[-1])  # noqa: PLR2004 - as many have room
    if span < _CLOCK:
        return [(at / span, _offset(at, step)) for at in _multiples(0.0, span, step)]
    return [((at - first) / span, _moment(at, step)) for at in _multiples(first, first + span, step)]


def _multiples(begin: float, end: float, step: float) -> list[float]:
    return [number * step for number in range(math.ceil(begin / step), math.floor(end / step) + 1)]


def _offset(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < _MINUTE else f"{seconds // _MINUTE:.0f}:{seconds % _MINUTE:02.0f} min"


def _moment(moment: float, step: float) -> str:
    told = datetime.fromtimestamp(moment, UTC)
    return told.strftime("%d %b") if step >= _DAY else told.strftime("%H:%M")


def _log_ticks(low: float, high: float) -> list[float]:
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [step * 10.0**power for power in powers for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) <= 7:  # noqa: PLR2004 - as many have room
            break
    return found[:: max(1, -(-len(found) // 7))]
