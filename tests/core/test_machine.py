from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.machine import (
    Layout,
    check_invariant,
    load_machine,
    resolved_micro_batch,
    resolved_sharding,
)


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


def test_a_run_has_one_process_or_more(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    for number in (0, -1):
        path.write_text(f"devices = {number}")
        with pytest.raises(CostarError, match="1 or more"):
            load_machine(path)


def test_what_a_layout_leaves_open_follows_from_the_device_and_the_promise() -> None:
    invariant = Layout(determinism="layout-invariant")
    assert [resolved_sharding(Layout(), kind) for kind in ("cpu", "cuda")] == ["none", "full"]
    assert [resolved_sharding(invariant, kind) for kind in ("cpu", "cuda")] == ["none", "none"]
    assert resolved_sharding(Layout(sharding="hybrid"), "cpu") == "hybrid"
    assert [resolved_micro_batch(Layout(), 10, count) for count in (1, 4, 10)] == [10, 3, 1]
    assert [resolved_micro_batch(Layout(micro_batch=4), 10, count) for count in (1, 4)] == [4, 3]
    assert [resolved_micro_batch(invariant, 8, count) for count in (1, 2, 4, 8)] == [2, 2, 2, 1]
    assert resolved_micro_batch(invariant, 3, 1) == 1


def test_a_layout_invariant_run_divides_its_batch_into_equal_subtrees() -> None:
    for batch, processes, micro_batch in ((8, 1, 2), (8, 4, 1), (24, 1, 8), (12, 4, 3)):
        check_invariant(batch, processes, micro_batch)
    for batch, processes, micro_batch in ((8, 3, 1), (12, 2, 2), (8, 1, 3), (2, 4, 1)):
        with pytest.raises(CostarError, match="power of two"):
            check_invariant(batch, processes, micro_batch)


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
