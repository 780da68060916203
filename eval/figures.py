"""Figures of the report: each as SVG and PDF with the CSV behind it. Text and axes of the SVG take the page's colours."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.hashing import keyed_hash
from ..core.workspace import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#010203", "#040506"  # stand-ins that become currentColor and a variable of the page
PAPER_INK, PAPER_GRID = "#222222", "#dddddd"  # what they are on paper
CONTROL = "#7b8794"
COLOURS = ("#d9622b", "#2a9d8f", "#8e5bd0", "#c9a227", "#3f7fd0", "#c2477f")
DASHES = ("-", "--", ":")
FONT = "system-ui, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure as the page shows it: its `name` is that of its files, `note` says what its marks are."""

    name: str
    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a figure: places and values, with bounds where there are any, and how it is drawn."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]
    style: tuple[str, str]


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Axes in the report's style, without touching matplotlib's global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    for ax in axes:
        ax.patch.set_alpha(0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(INK)
        ax.tick_params(colors=INK, labelsize=9)
        ax.grid(True, axis="y", color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)
        for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
            text.set_color(INK)
            text.set_fontsize(10)
    return figure, axes


def style(number: int) -> tuple[str, str]:
    """Colour and dash of the n-th line; the dash changes where the colours begin again."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def draw_line(ax: Axes, line: Line, *, bars: bool = False) -> None:
    """A line with its band, or with bars, over the places that have bounds."""
    colour, dash = line.style
    ax.plot(line.xs, line.ys, color=colour, linestyle=dash, marker="o", markersize=3.5, linewidth=1.8, label=line.label)
    bounded = [
        (x, low, high)
        for x, low, high in zip(line.xs, line.low, line.high, strict=True)
        if low is not None and high is not None
    ]
    if not bounded:
        return
    places, low, high = (list(column) for column in zip(*bounded, strict=True))
    if bars or len(bounded) == 1:
        ax.vlines(places, low, high, color=colour, linewidth=1.6)
    else:
        ax.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)


def level_ticks(ax: Axes, levels: Sequence[int]) -> None:
    """Levels stand at even distances, from the lowest on."""
    ax.set_xticks(range(len(levels)), [f"{level:,}" for level in levels])
    ax.set_xlim(-0.25, len(levels) - 0.75)
    ax.set_xlabel("copies")


def legend(figure: Figure, ax: Axes, columns: int = 2) -> None:
    """Below the axes, where it covers nothing; none for a single line."""
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) < 2:
        return
    if max(map(len, labels)) > 22:
        columns = 1
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.2,
    )


def save_figure(
    figure: Figure, folder: Path, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str
) -> str:
    """Write SVG, PDF and CSV; the SVG as text to set into the page."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "costar", "svg.fonttype": "none", "font.family": "DejaVu Sans"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # everything stays where it is now
        svg = themed(buffer.getvalue(), title, name)
        paper = svg.replace("currentColor", PAPER_INK).replace("var(--grid)", PAPER_GRID)
        write_text(folder / f"{name}.svg", paper.replace("<svg ", f'<svg font-family="{FONT}" ', 1))
        _blacken(figure)
        with replacing(folder / f"{name}.pdf") as temporary:
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    write_text(folder / f"{name}.csv", csv_text(columns, rows))
    return svg


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV, numbers with six digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return out.getvalue()


def file_name(*parts: str) -> str:
    """Parts as one name of a file: letters, digits and hyphens, two between parts, so that other parts have another name."""
    names = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)
    return "--".join(name for name in names if name)


def themed(svg: str, title: str, name: str) -> str:
    """An SVG element for a page: its ink is the page's, its ids are its own, and it has a title for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    points = re.search(r'<svg[^>]*? width="([0-9.]+)pt"', svg)
    widest = (
        f' style="max-width:{1.4 * float(points[1]):.0f}px"' if points else ""
    )  # one panel is not blown up to a page
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf"\1{widest}", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = compact(svg, f"{keyed_hash('figure', name):x}"[:5])
    safe = title.replace("&", "&amp;").replace("<", "&lt;")
    svg = svg.replace("<svg ", '<svg role="img" fill="currentColor" ', 1)
    return re.sub(r"(<svg[^>]*>)", rf"\1<title>{safe}</title>", svg, count=1)


def compact(svg: str, prefix: str) -> str:
    """The same drawing in a third of the bytes: no metadata, no comments, two decimals, short ids that begin with `prefix`
    and only those that something refers to; no styles that are the default, or the ink of a text, which is that of the whole.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?|stroke-linejoin: \w+;? ?|stroke-linecap: (?:square|butt);? ?", "", svg)
    svg = re.sub(r"font: (\w+ )?([0-9.]+px) [^;\"]*", r"font-size: \2", svg)
    svg = re.sub(r"(<text style=\"[^\"]*?);? ?fill: currentColor", r"\1", svg)
    svg = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), svg)
    svg = re.sub(r"style=\"[^\"]*\"", lambda found: re.sub(r"([:;]) ", r"\1", found[0]), svg)
    names = {
        old: f"{prefix}{at}" for at, old in enumerate(dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)))
    }
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{names[found[1]]}"' if found[1] in names else "", svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', lambda found: found[1] + names[found[2]], svg)
    svg = re.sub(r">\s+<", "><", svg)
    svg = re.sub(r'<defs><style type="text/css">.*?</style></defs>|<path [^>]*style="fill:none;opacity:0"/>', "", svg)
    svg = _unwrapped(svg)
    return re.sub(r"\s*\n\s*", " ", svg)


def _unwrapped(svg: str) -> str:
    """Without groups that say nothing, and with one group where several in a row say the same."""
    kept: list[bool] = []
    parts = []
    for part in re.split(r"(<g(?: [^>]*)?/?>|</g>)", svg):
        if part == "<g>":
            kept.append(False)
        elif part == "</g>":
            if kept.pop():
                parts.append(part)
        elif part != "<g/>":
            if part.startswith("<g "):
                kept.append(True)
            parts.append(part)
    return re.sub(r'(?<=/>)</g><g clip-path="([^"]+)">(?=<use)', r"", "".join(parts))


def _blacken(figure: Figure) -> None:
    """Paper is white: the PDF gets plain dark ink."""
    for artist in figure.findobj():
        for getter, setter in (("get_color", "set_color"), ("get_edgecolor", "set_edgecolor")):
            value = getattr(artist, getter, lambda: None)()
            if isinstance(value, str) and value in (INK, GRID):
                getattr(artist, setter)(PAPER_INK if value == INK else PAPER_GRID)
