from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from costar.core.design import phase_slots
from costar.core.errors import CostarError
from costar.core.suite import find_suite, load_suite

from tests.small import SUITE

DEMO = find_suite("demo").read_text(encoding="utf-8")


def load(tmp_path: Path, text: str) -> CostarError | None:
    path = tmp_path / "case.toml"
    path.write_text(text, encoding="utf-8")
    try:
        load_suite(path)
    except CostarError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("old", "new", "place", "expected"),
    [
        ("seed   = 20", "sed    = 20", "[suite]", "did you mean 'seed'?"),
        ("vocabulary = 1024", "vocab = 1024", "[corpus] tokenizer", "did you mean 'vocabulary'?"),
        ("every = 183", "evry = 183", "[train] checkpoints", "did you mean 'every'?"),
        ("steps       = 732", 'steps       = "732"', "[train] steps", '"732"'),
        ("steps       = 732", "steps       = 0", "[train] steps", "greater than or equal to 1"),
        ("[0.5, 1.0]", "[0.5, 1.5]", "[arm.late] phase", "0 ≤ a < b ≤ 1"),
        ("[0.5, 1.0]", "[0.5, 0.5]", "[arm.late] phase", "0 ≤ a < b ≤ 1"),
        ("[0.5, 1.0]", "[-0.5, 1.0]", "[arm.late] phase", "0 ≤ a < b ≤ 1"),
        (
            '["passages"]\nphase         = [0.0',
            '["pasages"]\nphase         = [0.0',
            "[arm.early] perturbations",
            "'passages'?",
        ),
        ("1 = 48", "-1 = 48", "[perturbation.passages] levels", "0 or more"),
        ("1 = 48", "1 = -48", "[perturbation.passages] levels", "1 or more"),
        ("tokens = 64", "tokens = 254", "[perturbation.passages] records.tokens", "at most 253"),
        ('models = ["tiny"]', 'models = ["tinny"]', "[suite] models", "did you mean 'tiny'?"),
        ("[arm.perturbed]", "[arm.perturbed]\nlr = 1e-3", "[arm.perturbed]", "lr (0.001 against 0.004)"),
        ("[arm.perturbed]", '[arm.perturbed]\ncontrol = "standart"', "[arm.perturbed] control", "'standard'?"),
        ("[arm.perturbed]", "[arm.Perturbed]", "[arm.Perturbed]", "lower-case"),
        ('arms    = ["perturbed"]', 'arms    = ["standard"]', "[release] arms", "perturbed, early, late"),
        ('arms    = ["perturbed"]', 'arms = ["late", "late"]', "[release] arms", "each once"),
        ("held_out        = 0.05", "held_out        = 1.5", "[corpus] held_out", "less than 1"),
        ("{ 0 = 100, 1 = 12, 4 = 10, 16 = 10 }", "{ 0 = 100, 1 = 12, 01 = 10 }", "levels", "each level once"),
        ("[0.5, 1.0]", "[0.0, 1e-99999999]", "[arm.late] phase", "0 ≤ a < b ≤ 1"),
        ("draws  = 1", "draws = 1000000000", "[suite] draws", "less than or equal to 1000"),
        ("lr          = 4e-3", "lr          = inf", "[train] lr", "finite"),
        ("lr          = 4e-3", "lr          = nan", "[train] lr", "finite"),
        ("[0.5, 1.0]", "[nan, 1.0]", "[arm.late] phase", "0 ≤ a < b ≤ 1"),
        ("seed   = 20", "seed   = 99999999999999999999", "[suite] seed", "less than"),
        ("batch       = 8", "batch       = 100000000000", "[train]", "below 2³¹"),
        ("warmup      = 40", "warmup      = 4000", "[train]", "warmup at most steps"),
        ('= "constant"', '= "wsd"', "[train] schedule", "decay = 73"),
        ("warmup      = 40", "warmup      = 40\ndecay = 9", "[train] decay", 'decay 9 with schedule = "constant"'),
        ('= "constant"', '= "wsd"\ndecay = 700', "[train] decay", "warmup 40 and decay 700 in 732 steps"),
        ('= "constant"', '= "cosine"\nlr_end = 1', "[train] lr_end", "a rate that comes down"),
        ("[arm.perturbed]", '[arm.x]\ncontrol = "none"\ndecay = 9\n[arm.perturbed]', "[arm.x] decay", "decay 9"),
        ("[arm.perturbed]", '[arm.x]\ncontrol = "none"\nsteps = 9\n[arm.perturbed]', "[arm.x]", "steps 9"),
        ("prefixes = [8, 16, 32]", "prefixes = []", "[eval] prefixes", "at least 1"),
        ("[arm.perturbed]", '[arm.perturbed]\ncontrol = "perturbed"', "[arm.perturbed] control", "another arm"),
        ('models = ["tiny"]', 'models = ["tiny", "tiny"]', "models", "each model once"),
        (
            "[arm.perturbed]",
            '[arm.perturbed]\nspacing = "evn"',
            "[arm.perturbed] spacing",
            "'uniform', 'even' or 'burst'",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_and_its_mend(
    tmp_path: Path, old: str, new: str, place: str, expected: str
) -> None:
    assert old in DEMO
    error = load(tmp_path, DEMO.replace(old, new, 1))
    assert error is not None
    assert error.exit_code == 2
    assert place in error.place
    assert expected in str(error)
    assert error.mend


def test_an_arm_with_another_schedule_leaves_the_decay_of_the_suite_behind(tmp_path: Path) -> None:
    arms = '[arm.flat]\ncontrol = "none"\nschedule = "constant"\n[arm.long]\ncontrol = "none"\nsteps = 1464\n[arm.perturbed]'
    path = tmp_path / "case.toml"
    path.write_text(DEMO.replace('"constant"', '"wsd"\ndecay = 70').replace("[arm.perturbed]", arms), encoding="utf-8")
    suite = load_suite(path)
    assert {name: arm.train.decay for name, arm in suite.arms.items() if name in ("flat", "long")} == {
        "flat": 0,
        "long": 70,
    }


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    error = load(tmp_path, "[suite]\nseed = = 3\n")
    assert error is not None
    assert "line 2" in str(error)


def test_missing_file_and_unknown_name_are_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(CostarError, match="no such file"):
        load_suite(tmp_path / "absent.toml")
    with pytest.raises(CostarError, match="did you mean 'demo'"):
        find_suite("demoo")


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_bytes(b"[suite]\n# \xff\n")
    with pytest.raises(CostarError, match="not UTF-8"):
        load_suite(path)


def test_phases_are_exact_rationals_of_the_decimals_as_written(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_text(DEMO.replace("[0.5, 1.0]", "[0.1, 0.3]"), encoding="utf-8")
    phase = load_suite(path).arms["late"].factors["passages"][0].phase
    assert phase == (Fraction(1, 10), Fraction(3, 10))
    assert phase_slots(phase, 30) == (3, 9)  # 0.1 · 30 and 0.3 · 30 in floats are not 3 and 9


def test_short_phase_covers_what_the_arm_inserts_and_leaves_others_at_home(tmp_path: Path) -> None:
    suite = load_suite(find_suite("demo"))
    late = suite.arms["late"]
    assert late.factors["passages"][0].phase == (Fraction(1, 2), Fraction(1))
    assert late.factors["quizzes"][0].phase == (Fraction(0), Fraction(1))


def test_demo_fits_one_screen_and_its_load_is_within_the_rules() -> None:
    from costar.core.plan import slot_load
    from costar.insertion.placement import check_suite

    assert len(DEMO.splitlines()) <= 80
    suite = load_suite(find_suite("demo"))
    assert check_suite(suite) == []
    assert all(slot_load(suite, arm) <= 1 / 3 for arm in suite.arms.values())


def test_globs_select_perturbations(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_text(
        SUITE.replace('perturbations = ["passages"]\nphase         = [0.0', 'perturbations = ["pass*"]\nphase = [0.0')
    )
    assert load_suite(path).arms["early"].inserted == ("passages", "passwords")
