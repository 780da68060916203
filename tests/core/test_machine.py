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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('backend = "slrum"', "did you mean 'slurm'"),
        ('backend = "slurm"', r"\[slurm\], partition"),
        ('[slurm]\npartitoin = "main"', "did you mean 'partition'"),
        ('slurm = "main"', "expected  a table"),
        ("[slurm]\ncpus_per_task = 0", "1 or more"),
        ("[slurm]\nmem_per_cpu_gb = true", "a number, 0 or more"),
        ('[slurm]\ntime = "soon"', "days-hours"),
        ('[slurm]\nqos = "a b"', "a name that sbatch takes"),
    ],
)
def test_what_a_cluster_could_not_take_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(text)
    with pytest.raises(CostarError, match=message):
        load_machine(path)


def test_a_table_of_slurm_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text('backend = "slurm"\n[slurm]\npartition = "main"\ntime = "1-12:00"\nat_once = 32\n')
    machine = load_machine(path)
    assert (machine.backend, machine.slurm.partition, machine.slurm.at_once) == ("slurm", "main", 32)
    assert load_machine(tmp_path / "none.toml").backend == "local"
