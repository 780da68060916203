from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.machine import load_machine


def test_unknown_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text("limit_hour = 3\n")
    with pytest.raises(CostarError, match="did you mean 'limit_hours'"):
        load_machine(path)


def test_wrong_type_is_refused_and_good_values_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text('workers = "two"\n')
    with pytest.raises(CostarError, match="expected  a number, 0 or more"):
        load_machine(path)
    for line in ("workers = -1", "workers = 2.5", "micro_batch = true"):
        path.write_text(line)
        with pytest.raises(CostarError, match="0 or more"):
            load_machine(path)
    path.write_text('workers = 3\nlimit_hours = 0.5\nbuild = "elsewhere"\n')
    machine = load_machine(path)
    assert (machine.processes, machine.limit_hours, machine.build) == (3, 0.5, "elsewhere")
