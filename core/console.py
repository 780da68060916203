"""Everything costar says to people. With a terminal: tables and bars of rich; without: plain lines.

rich is imported only where something is drawn, so that a training process needs nothing beyond torch.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

Update = Callable[[float, str], None]


def say(text: str = "") -> None:
    """One line to the reader."""
    print(text, flush=True)


def complain(text: str) -> None:
    """One message to the error stream."""
    print(text, file=sys.stderr, flush=True)


def stage_line(stage: str, text: str, seconds: float | None = None) -> None:
    """A finished stage: its name, what it did and how long it took."""
    duration = "" if seconds is None else duration_text(seconds)
    say(f"{stage:<10} {text:<76} {duration:>8}".rstrip())


def duration_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds / 3600:.1f} h"


def token_text(count: float) -> str:
    """A count in thousands, millions, billions: '1.5 M'."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numeric: Sequence[int] = ()) -> None:
    """A table: drawn by rich on a terminal, tab-free aligned text otherwise."""
    cells = [[cell_text(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(box=None, header_style="bold", pad_edge=False)
        for i, name in enumerate(columns):
            drawn.add_column(name, justify="right" if i in numeric else "left", overflow="fold")
        for row in cells:
            drawn.add_row(*(_escaped(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        aligned = (cell.rjust(w) if i in numeric else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        say("  ".join(aligned).rstrip())


def answer(columns: Sequence[str], rows: Sequence[Sequence[object]], *, csv: bool) -> None:
    """What a query found, as a table or as comma-separated values."""
    if csv:
        import csv as csv_module

        writer = csv_module.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return
    if not rows:
        say("no rows: nothing of that kind was built or measured yet, or the question leaves none")
    numeric = [i for i in range(len(columns)) if any(isinstance(row[i], int | float) for row in rows)]
    table(columns, rows, numeric=numeric)


def cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextlib.contextmanager
def progress(title: str, every: float = 15.0, *, estimate: bool = True) -> Iterator[Update]:
    """A bar to update with (share done, remark). Without a terminal a plain line every `every` seconds, and every
    fiftieth of the time so far when that is longer, up to ten minutes.

    Without `estimate` the remark itself tells the time left: the share so far may have been done by an earlier call.
    """
    started = time.monotonic()
    if sys.stdout.isatty():
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            *([TimeRemainingColumn()] if estimate else []),
            TextColumn("{task.fields[remark]}"),
        )
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(title, total=1.0, remark="")
            yield lambda share, remark: bar.update(task, completed=share, remark=remark)
        return
    last = started

    def update(share: float, remark: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < max(every, min((now - started) / 50, 600.0)):
            return
        last = now
        left = (
            f"about {duration_text((now - started) * (1 - share) / share)} left" if estimate and 0 < share < 1 else ""
        )
        say(f"{title:<10} {100 * share:3.0f} %  {', '.join(part for part in (remark, left) if part)}")

    yield update
