"""Which records a page lists where there are more than it can hold."""

from __future__ import annotations

from costar.eval.record_browser import MOST_TOKENS, PER_CELL, _sample, _within


def cells(sizes: dict[int, int], tokens: int = 10) -> dict[tuple[str, int], list[dict[str, object]]]:
    return {
        ("p", level): [{"record_id": f"{level}-{n}", "n_tokens": tokens} for n in range(count)]
        for level, count in sizes.items()
    }


def test_few_records_are_all_listed_and_of_many_each_cell_has_its_share() -> None:
    few = cells({64: 3, 0: 5})
    assert len(_sample(list(few), few, 10)) == 8
    many = cells({64: 3, 16: 500, 0: 500})
    listed = _sample(list(many), many, 60)
    levels = [row["record_id"].split("-")[0] for row in listed]
    assert {level: levels.count(level) for level in ("64", "16", "0")} == {"64": 3, "16": 20, "0": 20}


def test_every_cell_shows_a_record_by_token_and_long_ones_leave_room_for_others() -> None:
    small = cells({64: 30, 0: 2})
    shown = _within(list(small), small)
    assert len(shown) == PER_CELL + 2
    long = cells(dict.fromkeys(range(200), 5), tokens=400)
    shown = _within(list(long), long)
    assert len({row["record_id"].split("-")[0] for row in shown}) == 200
    assert len(shown) * 400 <= MOST_TOKENS + 200 * 400
