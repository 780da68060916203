"""Figures of the report: each as SVG and PDF with the CSV behind it. Text and axes of the SVG take the page's colours."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.design import Suite
from ..core.workspace import replacing, write_text
from .scores import Measure, Scores
from .stats import LEAST_CLUSTERS, bootstrap_means, cluster_values, percentile_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#010203", "#040506"  # stand-ins that become currentColor and a variable of the page
COLOURS = ("#7b8794", "#d9622b", "#2a9d8f", "#8e5bd0", "#c9a227", "#3f7fd0")


@dataclass(frozen=True)
class Point:
    """The mean of a measure over the records of a level, with its interval by cluster where there are enough."""

    arm: str
    level: int
    step: int
    n: int
    mean: float
    low: float | None
    high: float | None


def point(
    scores: Scores, arm: str, model: str, draws: int, perturbation: str, level: int, step: int, measure: Measure
) -> Point | None:
    """The mean over records and draws of one cell; None where nothing was measured."""
    values: list[list[float]] = []
    clusters: list[str] = []
    subjects = scores.subjects
    for draw in range(draws):
        rows = subjects.members(perturbation)
        rows = rows[subjects.levels[(arm, draw)][rows] == level]
        found = scores.of(f"{arm}.{model}.d{draw}", step, measure).at(rows)
        for row, value in zip(rows.tolist(), found.tolist(), strict=True):
            if np.isfinite(value):
                values.append([value])
                clusters.append(subjects.clusters[subjects.cluster[row]])
    if not values:
        return None
    data = cluster_values(np.array(values), clusters, [""] * len(clusters))
    low = high = None
    if data.size >= LEAST_CLUSTERS:
        ends = percentile_interval(bootstrap_means(data, ("figure", perturbation, level)))
        low, high = (float(end[0]) for end in ends)
    return Point(arm, level, step, len(values), float(data.means[0]), low, high)


def dose_points(suite: Suite, scores: Scores, arms: Sequence[str], perturbation: str, measure: Measure) -> list[Point]:
    """Means by level at the last step, for each arm that has them."""
    model = suite.models[0]
    found = [
        point(scores, arm, model, suite.arms[arm].draws, perturbation, level, suite.arms[arm].train.steps, measure)
        for arm in arms
        for level in sorted(suite.perturbations[perturbation].levels)
    ]
    return [each for each in found if each is not None]


def path_points(suite: Suite, scores: Scores, arms: Sequence[str], perturbation: str, measure: Measure) -> list[Point]:
    """Means of the highest level over the checkpoints."""
    model, top = suite.models[0], max(suite.perturbations[perturbation].levels)
    found = []
    for arm in arms:
        for step in scores.steps(f"{arm}.{model}.d0"):
            found.append(point(scores, arm, model, suite.arms[arm].draws, perturbation, top, step, measure))
    return [each for each in found if each is not None]


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


def colours(suite: Suite) -> dict[str, str]:
    return {arm: COLOURS[number % len(COLOURS)] for number, arm in enumerate(suite.arms)}


def draw_doses(
    ax: Axes, points: Sequence[Point], palette: Mapping[str, str], levels: Sequence[int], label: str
) -> None:
    """Lines over levels, evenly spaced, with bands."""
    place = {level: number for number, level in enumerate(levels)}
    for arm in dict.fromkeys(p.arm for p in points):
        own = [p for p in points if p.arm == arm]
        _line(ax, [place[p.level] for p in own], own, palette[arm], arm)
    ax.set_xticks(range(len(levels)), [str(level) for level in levels])
    ax.set_xlabel("copies")
    ax.set_ylabel(label)


def draw_path(
    ax: Axes, points: Sequence[Point], palette: Mapping[str, str], suite: Suite, perturbation: str, label: str
) -> None:
    """Lines over training steps; the phases of timing arms are shaded along the bottom."""
    arms = list(dict.fromkeys(p.arm for p in points))
    for arm in arms:
        own = [p for p in points if p.arm == arm]
        _line(ax, [p.step for p in own], own, palette[arm], arm)
    for arm in arms:
        design = suite.arms[arm]
        lo, hi = design.span(perturbation)
        if perturbation in design.inserted and (lo, hi) != (0, design.train.slots):
            ax.axvspan(lo / design.train.batch, hi / design.train.batch, color=palette[arm], alpha=0.10, linewidth=0)
    ax.set_xlim(0, None)
    ax.set_xlabel("training step")
    ax.set_ylabel(label)


def _line(ax: Axes, xs: Sequence[float], points: Sequence[Point], colour: str, name: str) -> None:
    ax.plot(xs, [p.mean for p in points], color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
    banded = [(x, p.low, p.high) for x, p in zip(xs, points) if p.low is not None and p.high is not None]
    if banded:
        places, low, high = (list(column) for column in zip(*banded))
        ax.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)


def legend(ax: Axes) -> None:
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)


def save_figure(figure: Figure, folder: Path, name: str, points: Sequence[Point], title: str) -> str:
    """Write SVG, PDF and CSV; the SVG as text to set into the page."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "costar", "svg.fonttype": "none", "font.family": "sans-serif"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        svg = themed(buffer.getvalue(), title)
        write_text(folder / f"{name}.svg", svg.replace("currentColor", "#222222").replace("var(--grid)", "#dddddd"))
        _blacken(figure)
        with replacing(folder / f"{name}.pdf") as temporary:
            figure.savefig(temporary, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    rows = [[f"{v:.6g}" if isinstance(v, float) else v for v in vars(p).values()] for p in points]
    write_text(folder / f"{name}.csv", csv_text(list(Point.__dataclass_fields__), rows))
    return svg


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def themed(svg: str, title: str) -> str:
    """An SVG element for a page: its ink is the page's, its ids are its own, and it has a title for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    points = re.search(r'<svg[^>]*? width="([0-9.]+)pt"', svg)
    widest = (
        f' style="max-width:{1.4 * float(points[1]):.0f}px"' if points else ""
    )  # one panel is not blown up to a page
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf"\1{widest}", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    prefix = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)([^")]+)', rf"\1{prefix}-\2", svg)
    safe = title.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(<svg[^>]*>)", rf"\1<title>{safe}</title>", svg, count=1)


def _blacken(figure: Figure) -> None:
    """Paper is white: the PDF gets plain dark ink."""
    for artist in figure.findobj():
        for getter, setter in (("get_color", "set_color"), ("get_edgecolor", "set_edgecolor")):
            value = getattr(artist, getter, lambda: None)()
            if isinstance(value, str) and value in (INK, GRID):
                getattr(artist, setter)("#222222" if value == INK else "#dddddd")
