"""Charts as SVG, drawn from numbers: no library, no script, no inline style, so that they pass the strictest CSP.

A chart has to be fluid at any width without a script. So whatever is drawn as a path lies in an inner `<svg>` that is
stretched to the width (with strokes that do not stretch), and whatever must not be stretched, circles and text, lies in
the outer one, at percentages of the width. Heights are pixels in both.

Colours are classes of the style sheet: ``warning``, ``critical``, ``timeout``. None stands without a word or a letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from xml.sax.saxutils import escape

__all__ = ["ChartBucket", "Limit", "Tick", "sparkline", "trend"]

_TOP, _BOTTOM = 12, 196  # pixels: where the axis of times begins and ends
_BARS_TOP, _BARS_BOTTOM = 210, 250  # and the bars of counts
_TICKS = 266  # the baseline of the names below
HEIGHT = 272
_WIDTH = 1000  # of the inner drawing, which is stretched to what there is
_APART = 11  # pixels between two lines of labels
_LOWEST_MS, _HIGHEST_MS = 10, 10_000


@dataclass(frozen=True, slots=True)
class ChartBucket:
    """One step of time: the median and the 95th percentile of its times and the worst of them, in milliseconds (None
    where there was none), how many enforcements there were, and the alert level of the worst, in lower case."""

    p50: float | None = None
    p95: float | None = None
    worst: float | None = None
    count: int = 0
    level: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A line across the chart: over so many milliseconds there is an alert of this name."""

    name: str
    ms: int


@dataclass(frozen=True, slots=True)
class Tick:
    """A name under the axis, its middle at ``at`` (a share of the width, 0 to 1), and ``more`` where there is room."""

    at: float
    name: str
    more: str = ""


def trend(
    buckets: Sequence[ChartBucket], limits: Sequence[Limit], ticks: Sequence[Tick], dots_over_ms: float, title: str
) -> str:
    """Median and band up to the 95th percentile on a logarithmic axis, limits, a dot for the worst time of a bucket
    that was over `dots_over_ms`, and bars of counts. Two `<svg>`: the drawing, and the labels beside it.

    >>> drawn = trend([ChartBucket(50, 90, 2500, 3, "critical")], [Limit("critical", 2000)], [], 2000, "Times")
    >>> drawn.count("<svg"), "<circle" in drawn, "critical" in drawn
    (3, True, True)
    """
    axis = _Axis.of(buckets)
    drawing = [
        f'<svg class="plot" width="100%" height="{HEIGHT}" role="img" aria-label="{_attribute(title)}">',
        f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 {_WIDTH} {HEIGHT}" preserveAspectRatio="none">',
        *(_across("grid", axis.y(ms)) for ms in axis.decades),
        *_bars(buckets),
        *_band_and_median(buckets, axis),
        *(_across(f"limit {limit.name}", axis.y(limit.ms)) for limit in limits),
        "</svg>",
        *_dots(buckets, axis, dots_over_ms),
        *map(_tick, ticks),
        f'<line class="cross" x1="0" x2="0" y1="{_TOP}" y2="{_BARS_BOTTOM}"/>',
        "</svg>",
        f'<svg class="gutter" width="70" height="{HEIGHT}" aria-hidden="true">',
        *_labels(axis, limits),
        "</svg>",
    ]
    return "\n".join(drawing)


def sparkline(values: Sequence[float | None], title: str) -> str:
    """A small line of `values`, with gaps where there is none.

    >>> sparkline([1, 3, None, 2], "Daily average").count("<path")
    1
    """
    width, height, edge = 104, 24, 3
    there = [value for value in values if value is not None]
    least, most = (min(there), max(there)) if there else (0.0, 0.0)
    step = (width - 2 * edge) / max(len(values) - 1, 1)

    def point(index: int, value: float) -> tuple[float, float]:
        up = (value - least) / (most - least) if most > least else 0.5
        return edge + index * step, height - edge - up * (height - 2 * edge)

    path = "".join(_line([point(index, value) for index, value in run], 1.5) for run in _runs(values))
    drawn = f'<path d="{path}"/>' if path else ""
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{_attribute(title)}">{drawn}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """The logarithmic axis of times: whole decades, at least from 10 ms to 10 s."""

    low: int
    high: int

    @classmethod
    def of(cls, buckets: Sequence[ChartBucket]) -> _Axis:
        shown = [ms for b in buckets for ms in (b.p50, b.p95, b.worst) if ms is not None and ms >= 1]
        least, most = min([*shown, _LOWEST_MS]), max([*shown, _HIGHEST_MS])
        return cls(floor(log10(least)), ceil(log10(most)))

    @property
    def decades(self) -> list[int]:
        return [10**power for power in range(self.low, self.high + 1)]

    def y(self, ms: float) -> float:
        up = (log10(max(ms, 10**self.low)) - self.low) / (self.high - self.low)
        return _BOTTOM - min(up, 1) * (_BOTTOM - _TOP)


def _x(index: float, of: int) -> float:
    return (index + 0.5) / of * _WIDTH


def _across(kind: str, y: float) -> str:
    return f'<line class="{kind}" x1="0" x2="{_WIDTH}" y1="{_number(y)}" y2="{_number(y)}"/>'


def _bars(buckets: Sequence[ChartBucket]) -> Iterator[str]:
    most = max((bucket.count for bucket in buckets), default=0)
    wide = _WIDTH / max(len(buckets), 1) * 0.7
    for index, bucket in enumerate(buckets):
        if bucket.count:
            high = max(1.0, bucket.count / most * (_BARS_BOTTOM - _BARS_TOP))
            left = _x(index, len(buckets)) - wide / 2
            yield (
                f'<rect class="count" x="{_number(left)}" y="{_number(_BARS_BOTTOM - high)}" '
                f'width="{_number(wide)}" height="{_number(high)}"/>'
            )


def _band_and_median(buckets: Sequence[ChartBucket], axis: _Axis) -> Iterator[str]:
    half = _WIDTH / max(len(buckets), 1) * 0.35

    def points(run: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
        return [(_x(index, len(buckets)), axis.y(ms)) for index, ms in run]

    median50 = [bucket.p50 if bucket.p95 is not None else None for bucket in buckets]
    upper95 = [bucket.p95 if bucket.p50 is not None else None for bucket in buckets]
    for medians, uppers in zip(_runs(median50), _runs(upper95), strict=True):
        median, upper = points(medians), points(uppers)
        if len(median) > 1:
            around = " ".join(f"{_number(x)},{_number(y)}" for x, y in [*upper, *reversed(median)])
            yield f'<polygon class="band" points="{around}"/>'
        yield f'<path class="upper" d="{_line(upper, half)}"/>'
        yield f'<path class="median" d="{_line(median, half)}"/>'


def _dots(buckets: Sequence[ChartBucket], axis: _Axis, over_ms: float) -> Iterator[str]:
    for index, bucket in enumerate(buckets):
        if bucket.worst is not None and bucket.worst > over_ms:
            at = f'cx="{_percent((index + 0.5) / len(buckets))}" cy="{_number(axis.y(bucket.worst))}"'
            yield f'<circle class="{bucket.level}" {at} r="3"/>'


def _tick(tick: Tick) -> str:
    more = f'<tspan class="more"> {escape(tick.more)}</tspan>' if tick.more else ""
    return f'<text class="tick" x="{_percent(tick.at)}" y="{_TICKS}">{escape(tick.name)}{more}</text>'


def _labels(axis: _Axis, limits: Sequence[Limit]) -> Iterator[str]:
    """Names of limits at their lines, pushed apart where they are close; of decades where there is room left."""
    taken: list[float] = []
    for limit in sorted(limits, key=lambda limit: limit.ms):
        y = axis.y(limit.ms)
        if taken:
            y = min(y, taken[-1] - _APART)
        taken.append(y)
        yield f'<text class="{limit.name}" x="6" y="{_number(y + 4)}">{escape(limit.name)}</text>'
    for ms in axis.decades:
        y = axis.y(ms)
        if all(abs(y - other) >= _APART for other in taken):
            name = f"{ms // 1000:,} s" if ms >= 1000 else f"{ms} ms"
            yield f'<text x="6" y="{_number(y + 4)}">{name}</text>'
    yield f'<text x="6" y="{_BARS_BOTTOM}">count</text>'


def _runs(values: Sequence[float | None]) -> Iterator[list[tuple[int, float]]]:
    """What follows on each other without a gap, with the indexes."""
    for there, run in groupby(enumerate(values), key=lambda each: each[1] is not None):
        if there:
            yield [(index, value) for index, value in run if value is not None]


def _line(points: Sequence[tuple[float, float]], half: float) -> str:
    """A path along the points; of one alone a dash, `half` to each side, since a point would not be seen."""
    if len(points) == 1:
        (x, y) = points[0]
        points = [(x - half, y), (x + half, y)]
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _percent(share: float) -> str:
    return f"{share * 100:.2f}%"


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;"})
