"""The data side on real files of many kinds: novels, speeches, government pages, test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small import SUITE, costar

pytestmark = pytest.mark.slow

REAL = """
[perturbation.openbookqa]
kind    = "testset"
records = { from = "testsets/openbookqa.jsonl.zst" }
levels  = { 0 = 100, 1 = 40, 4 = 20 }
licence = "Apache-2.0"

[perturbation.hellaswag]
kind    = "testset"
records = { from = "testsets/hellaswag.jsonl.zst" }
levels  = { 0 = 60, 2 = 30 }

[arm.standard]
perturbations = []

[arm.perturbed]

[arm.letters]
renderings = { openbookqa = "letters" }
"""


def test_a_suite_over_a_folder_of_real_text_is_built_and_proven(shared_data: Path, tmp_path: Path) -> None:
    head = SUITE[: SUITE.index("[perturbation.quizzes]")]
    head = head.replace('"base.jsonl"', '["base/us_president_speeches.jsonl.zst", "base/us_gov_web*.zst"]')
    head = head.replace("sequence_length = 128", "sequence_length = 512").replace(
        "vocabulary = 512", "vocabulary = 4096"
    )
    train = SUITE[SUITE.index("[train]") : SUITE.index("[release]")].replace("steps       = 96", "steps       = 300")
    (tmp_path / "real.toml").write_text(head + REAL + train)
    (tmp_path / "machine.toml").write_text(f'data = "{shared_data}"\n')
    done = costar(tmp_path, "corpus", "./real.toml")
    assert "vocabulary 4,096" in done.stdout
    costar(tmp_path, "insert", "./real.toml")
    done = costar(tmp_path, "verify", "./real.toml")
    assert "exposures found" in done.stdout
    counts = costar(
        tmp_path, "sql", "./real.toml", "select arm, count(*) from exposures group by all order by all", "--csv"
    )
    copies = 12 + 14 * 12 + 40 + 80 + 60
    assert counts.stdout.splitlines()[1:] == [f"letters,{copies}", f"perturbed,{copies}"]
