from __future__ import annotations

import csv
import re
from pathlib import Path
from xml.etree import ElementTree

from costar.eval.figures import Line, compact, draw_line, file_name, legend, new_figure, save_figure, style


def saved(folder: Path, name: str = "one") -> str:
    figure, (ax,) = new_figure(3, 2)
    line = Line(label="a & b", xs=[0, 1, 2], ys=[1, 2, 3], low=[None, 1.5, 2.5], high=[None, 2.5, 3.5], style=style(0))
    draw_line(ax, line)
    draw_line(ax, Line(label="c", xs=[0, 1], ys=[2, 2], low=[None] * 2, high=[None] * 2, style=style(1)))
    ax.set_xlabel("copies")
    legend(figure, ax)
    return save_figure(figure, folder, name, ("x", "y"), [[1, 2 / 3], ["two, three", None]], "a <title> & more")


def test_a_figure_is_written_three_times_and_its_numbers_once(tmp_path: Path) -> None:
    saved(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "one.pdf", "one.svg"]
    with (tmp_path / "one.csv").open() as file:
        assert list(csv.reader(file)) == [["x", "y"], ["1", "0.666667"], ["two, three", ""]]


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    first = saved(tmp_path / "a")
    assert saved(tmp_path / "b") == first
    for kind in ("svg", "pdf"):
        assert (tmp_path / "a" / f"one.{kind}").read_bytes() == (tmp_path / "b" / f"one.{kind}").read_bytes()


def test_figures_of_one_page_share_no_id(tmp_path: Path) -> None:
    ids = [re.findall(r' id="([^"]+)"', saved(tmp_path, name)) for name in ("one", "two")]
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])


def test_a_compact_figure_is_whole(tmp_path: Path) -> None:
    """Every reference leads to an id, all texts are there, and a standalone file needs nothing of the page."""
    svg = saved(tmp_path)
    root = ElementTree.fromstring(svg)
    ids = {element.get("id") for element in root.iter()} - {None}
    assert set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg)) == ids
    texts = {element.text for element in root.iter() if element.tag.endswith("text")}
    assert {"copies", "a & b", "c"} <= texts
    title = next(element for element in root if element.tag.endswith("title"))
    assert title.text == "a <title> & more"
    alone = (tmp_path / "one.svg").read_text()
    assert "currentColor" not in alone
    assert "var(" not in alone
    ElementTree.fromstring(alone)


def test_compacting_keeps_numbers_to_two_decimals() -> None:
    assert (
        compact('<svg><path d="M 1.23456 -0.00001 L 100 2.5"/></svg>', "p")
        == '<svg><path d="M 1.23 -0 L 100 2.5"/></svg>'
    )


def test_lines_beyond_the_colours_differ_by_their_dash() -> None:
    assert len({style(number) for number in range(18)}) == 18


def test_names_of_files_are_plain() -> None:
    assert file_name("my set", "choice", "format=cloze", "accuracy") == "my-set--choice--format-cloze--accuracy"
    assert file_name("my-path") != file_name("my", "path")
