"""Arms: what an arm table means, which tables contradict themselves, and that nothing but a message comes of any."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from costar.core.design import ArmDesign, Suite, earlier_exposure
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.insertion.placement import check_suite

from tests.small import SUITE

HEAD, TAIL = SUITE[: SUITE.index("[arm.standard]")], SUITE[SUITE.index("[train]") : SUITE.index("[release]")]
LONG = f"rotate-1/{'9' * 5000}"
STANDARD = "[arm.standard]\nperturbations = []\n"


def load(tmp_path: Path, arms: str) -> Suite:
    path = tmp_path / "case.toml"
    path.write_text(HEAD + arms + TAIL, encoding="utf-8")
    return load_suite(path)


def arm(tmp_path: Path, keys: str) -> ArmDesign:
    return load(tmp_path, f"{STANDARD}[arm.x]\n{keys}\n").arms["x"]


def refusal(tmp_path: Path, arms: str) -> CostarError:
    with pytest.raises(CostarError) as error:
        load(tmp_path, arms)
    assert error.value.exit_code == 2
    assert error.value.mend
    return error.value


def test_an_arm_without_keys_inserts_everything_over_the_whole_run_against_standard(tmp_path: Path) -> None:
    x = arm(tmp_path, "")
    assert x.inserted == ("passages", "quizzes", "passwords")
    assert (x.control, x.filler, x.turn, x.draws) == ("standard", "none", 0, 1)
    for factors in x.factors.values():
        assert [(f.phase, f.position, f.spacing, f.rendering) for f in factors] == [((0, 1), "balanced", "uniform", "")]


def test_factors_are_every_combination_for_what_the_arm_inserts(tmp_path: Path) -> None:
    keys = 'perturbations = ["passages"]\nfactors = { phase = [[0, 0.5], [0.5, 1]], position = ["start", "end"] }'
    x = arm(tmp_path, keys)
    halves = [(Fraction(0), Fraction(1, 2)), (Fraction(1, 2), Fraction(1))]
    assert [(f.phase, f.position) for f in x.factors["passages"]] == list(product(halves, ["start", "end"]))
    assert len(x.factors["quizzes"]) == 1
    assert x.phases("passages") == halves


def test_factors_by_perturbation_leave_the_others_alone(tmp_path: Path) -> None:
    x = arm(
        tmp_path,
        'factors = { passages = { position = ["start", "end"] }, quizzes = { rendering = ["cloze", "plain"] } }',
    )
    assert [f.position for f in x.factors["passages"]] == ["start", "end"]
    assert [(f.position, f.rendering) for f in x.factors["quizzes"]] == [("balanced", "cloze"), ("balanced", "plain")]
    assert len(x.factors["passwords"]) == 1


@pytest.mark.parametrize(
    ("assignment", "turn"),
    [("suite", "0"), ("swap", "1/2"), ("rotate-0/3", "0"), ("rotate-1/3", "1/3"), ("rotate-2/4", "1/2")],
)
def test_an_assignment_is_turned_by_an_exact_share(tmp_path: Path, assignment: str, turn: str) -> None:
    assert arm(tmp_path, f'assignment = "{assignment}"').turn == Fraction(turn)


@pytest.mark.parametrize(
    "assignment",
    [
        "swop",
        "",
        "rotate",
        "rotate-1",
        "rotate-3/3",
        "rotate-4/3",
        "rotate-0/0",
        "rotate--1/3",
        "rotate-1/2/3",
        " swap",
        f"rotate-1/{'9' * 5000}",
    ],
)
def test_an_unknown_assignment_is_named(tmp_path: Path, assignment: str) -> None:
    error = refusal(tmp_path, f'{STANDARD}[arm.x]\nassignment = "{assignment}"\n')
    assert "[arm.x] assignment" in error.place
    assert "rotate-k/n" in error.expected


@pytest.mark.parametrize(
    ("keys", "place", "message"),
    [
        (
            "phase = [0, 0.5]\nfactors = { phase = [[0, 0.5], [0.5, 1]] }",
            "[arm.x]",
            "phase both fixed and under factors",
        ),
        ("phase = { passages = [0, 0.5] }\nfactors = { phase = [[0, 0.5], [0.5, 1]] }", "[arm.x]", "phase both fixed"),
        ('position = "start"\nfactors = { position = ["start", "end"] }', "[arm.x]", "position both fixed"),
        ('position = "balanced"\nfactors = { position = ["start", "end"] }', "[arm.x]", "position both fixed"),
        ('spacing = "even"\nfactors = { spacing = ["even", "burst"] }', "[arm.x]", "spacing both fixed"),
        (
            'renderings = { quizzes = "letters" }\nfactors = { rendering = ["cloze", "letters"] }',
            "[arm.x]",
            "rendering both",
        ),
        ("factors = { phase = [[0, 0.5]] }", "[arm.x] factors.phase", "two or more values that differ"),
        ("factors = { phase = [[0, 0.5], [0.0, 0.50]] }", "[arm.x] factors.phase", "two or more values that differ"),
        ('factors = { position = ["end", "end"] }', "[arm.x] factors.position", "two or more values that differ"),
        ('factors = { place = ["end"] }', "[arm.x] factors", "did you mean 'phase'"),
        ('factors = { passages = { place = ["end"] } }', "[arm.x] factors.passages", "did you mean 'phase'"),
        ('factors = { passage = { position = ["end", "start"] } }', "[arm.x] factors", "did you mean 'passages'"),
        ('factors = { position = ["ende", "start"] }', "[arm.x] factors.position", "'balanced', 'start'"),
        ("factors = { phase = [[0, 2], [0, 1]] }", "[arm.x] factors.phase", "0 ≤ a < b ≤ 1"),
        ("phase = { pasages = [0, 0.5] }", "[arm.x] phase", "did you mean 'passages'"),
        ('renderings = { quizes = "letters" }', "[arm.x] renderings", "did you mean 'quizzes'"),
        ('position = { x = "end" }', "[arm.x] position", "one of passages"),
        ('perturbations = ["nothing-*"]', "[arm.x] perturbations", "one of passages"),
        ('filler = "base"\ncontrol = "none"', "[arm.x] filler", "without a control"),
        ('filler = "kith"', "[arm.x] filler", "'none', 'base' or 'kin'"),
        ('control = "x"', "[arm.x] control", "no circle of controls"),
        ('control = "absent"', "[arm.x] control", "[arm.absent]"),
        ("draws = 2", "[arm.x]", "draws (2 against 1)"),
        ("steps = 90", "[arm.x]", "steps (90 against 96)"),
        ('models = ["nano", "nano"]', "[arm.x] models", "each model once"),
        ('models = ["tiny"]', "[arm.x]", "models (tiny not in the control)"),
    ],
)
def test_an_arm_that_contradicts_itself_is_named_with_key_and_mend(
    tmp_path: Path, keys: str, place: str, message: str
) -> None:
    error = refusal(tmp_path, f"{STANDARD}[arm.x]\n{keys}\n")
    assert place in error.place
    assert message in str(error)


def test_a_filler_needs_a_control_in_the_standard_arm_too(tmp_path: Path) -> None:
    error = refusal(tmp_path, '[arm.standard]\nfiller = "base"\n')
    assert "[arm.standard] filler" in error.place


@pytest.mark.parametrize("first", ["a", "b", "c"])
def test_a_circle_of_controls_is_shown_from_any_arm_of_it(tmp_path: Path, first: str) -> None:
    circle = {"a": "b", "b": "c", "c": "a"}
    names = [first, *(name for name in circle if name != first)]
    error = refusal(tmp_path, STANDARD + "".join(f'[arm.{name}]\ncontrol = "{circle[name]}"\n' for name in names))
    second, third = circle[first], circle[circle[first]]
    assert error.found == f"{first} → {second} → {third} → {first}"


def test_an_arm_that_leads_into_a_circle_is_refused_too(tmp_path: Path) -> None:
    arms = '[arm.way]\ncontrol = "a"\n[arm.a]\ncontrol = "b"\n[arm.b]\ncontrol = "a"\n'
    assert "way → a → b → a" in refusal(tmp_path, STANDARD + arms).found


VALUES: dict[str, list[str]] = {
    "perturbations": ['["passages"]', '["*"]', "[]", '["pass*", "quizzes"]', '["["]', '["x"]', '"passages"', "[1]"],
    "phase": [
        *("[0, 0.5]", "[0.25, 1.0]", "{ passages = [0, 0.5] }", "{ x = [0, 1] }", "[1, 0]", "[0]", "0.5", "{}", "[]"),
        *("[0, 1e-31]", "[0.1, 0.30000000000000000000000001]", "[-0.0, 1]", "{ passages = 1 }", "[true, false]"),
    ],
    "renderings": ['{ quizzes = "letters" }', '{ x = "y" }', "{}", '"letters"', "{ quizzes = 1 }"],
    "position": ['"start"', '{ passages = "end" }', '"ende"', "{}", "1", '{ x = "end" }'],
    "spacing": ['"even"', '{ passages = "burst" }', '"odd"', "[]"],
    "factors": [
        *("{}", "{ phase = [[0, 0.5], [0.5, 1]] }", '{ position = ["start", "end"], spacing = ["even", "burst"] }'),
        *('{ rendering = ["cloze", "letters"] }', "{ phase = [] }", "{ phase = [[0, 1]] }", "{ x = 1 }", "[1]", "1"),
    ],
    "assignment": ['"swap"', '"rotate-1/3"', '"rotate-3/3"', '"x"', "1", '"suite"'],
    "filler": ['"none"', '"base"', '"kin"', '"x"', "1"],
    "control": ['"none"', '"standard"', '"a"', '"b"', '"c"', '"absent"', '""', "1"],
    "models": ['["nano"]', '["tiny"]', "[]", '["nano", "nano"]', '["x"]', '"nano"'],
    "draws": ["1", "2", "0", "-1", "1.0", "true", "99999999999999999999"],
    "steps": ["96", "1", "0", "99999999999999999999", "1.5", "nan"],
    "lr": ["1e-3", "0", "inf", "nan", "-1", '"1"', "1e400", "1e-400"],
    "warmup": ["0", "200", "-1"],
    "checkpoints": ["{ every = 24 }", "{ also = [0, 96] }", "{ also = [97] }", "{}", "{ every = 0 }", "1"],
    "x": ["1", "1979-05-27T07:32:00Z", "[{}, {a = 1}]"],
}


def random_arms(stream: random.Random) -> str:
    text = STANDARD if stream.random() < 0.9 else ""
    for name in stream.sample(["a", "b", "c"], stream.randrange(1, 4)):
        text += f"[arm.{name}]\n"
        for key in stream.sample(sorted(VALUES), stream.choice([0, 1, 1, 2, 3])):
            text += f"{key} = {stream.choice(VALUES[key][: stream.choice([3, 20])])}\n"
    return text


def test_any_arm_tables_load_or_are_refused_with_the_key_and_loaded_ones_hold(tmp_path: Path) -> None:
    stream = random.Random(1)
    outcomes: Counter[str] = Counter()
    for _ in range(1500):
        arms = random_arms(stream)
        try:
            suite = load(tmp_path, arms)
            outcomes["loaded"] += 1
        except CostarError as error:
            outcomes["refused"] += 1
            refused = error
            suite = None
        except Exception as other:
            raise AssertionError(f"{type(other).__name__} for\n{arms}") from other
        if suite is None:
            assert refused.exit_code == 2
            assert str(tmp_path / "case.toml") in refused.place
            assert "[arm" in refused.place or "[train]" in refused.place, refused
            assert len(str(refused)) < 1500
            continue
        for design in suite.arms.values():
            assert list(design.factors) == list(suite.perturbations)
            assert set(design.inserted) <= set(suite.perturbations)
            assert all(0 <= f.phase[0] < f.phase[1] <= 1 for factors in design.factors.values() for f in factors)
            assert 0 <= design.turn < 1
            assert design.filler == "none" or design.control in suite.arms
            if design.control:
                control = suite.arms[design.control]
                assert design.train.slots == control.train.slots
                assert set(design.models) <= set(control.models)
                assert design.draws <= control.draws
        try:
            check_suite(suite)
        except CostarError as error:
            outcomes["do not fit"] += error.exit_code == 2
    assert outcomes["loaded"] > 300, outcomes
    assert outcomes["refused"] > 300, outcomes


PIECES = [
    "[suite]\nseed = 1\n",
    "[corpus]\n",
    "arm = 1\n",
    "[arm]\nx = 1\n",
    "[perturbation]\np = 1\n",
    "[perturbation.p]\nkind = 1\n",
    "[[arm.x]]\n",
    "[arm.x.factors.phase]\ny = 1\n",
    "[model.m]\nlayers = 0\n",
    "suite = []\n",
    "[eval]\nprobes = [1]\n",
    "[release]\narms = ['x']\n",
    "[train.checkpoints]\nevery = {}\n",
    'x = """\n',
    "\x00",
    "[perturbation.p.levels]\n0 = 1\n",
    "[perturbation.p.records]\nfrom = 1\nwhere = { a = [1] }\n",
]


def test_any_pieces_of_toml_are_one_message(tmp_path: Path) -> None:
    stream = random.Random(2)
    path = tmp_path / "case.toml"
    for number in range(600):
        lines = SUITE.splitlines(keepends=True)
        for _ in range(stream.choice([1, 1, 2, 4])):
            if stream.random() < 0.5:
                lines.insert(stream.randrange(len(lines)), stream.choice(PIECES))
            else:
                del lines[stream.randrange(len(lines))]
        path.write_text("".join(lines) if number else "", encoding="utf-8")
        try:
            load_suite(path)
        except CostarError as error:
            found = error
        except Exception as other:
            raise AssertionError(f"{type(other).__name__} for\n{''.join(lines)}") from other
        else:
            continue
        assert found.exit_code == 2
        assert str(path) in found.place
        assert len(str(found)) < 1500


@pytest.mark.parametrize(
    "treated",
    [
        'perturbations = ["passages"]\nphase = [0.5, 1.0]',
        'perturbations = ["quizzes"]',
        'perturbations = ["passages"]\nassignment = "swap"',
        'perturbations = ["passages"]\nposition = "end"',
    ],
)
def test_fillers_control_only_an_arm_that_inserts_the_same_copies(tmp_path: Path, treated: str) -> None:
    filled = '[arm.filled]\nperturbations = ["passages"]\nfiller = "base"\n'
    load(tmp_path, f'{STANDARD}{filled}[arm.x]\nperturbations = ["passages"]\ncontrol = "filled"\n')
    error = refusal(tmp_path, f'{STANDARD}{filled}[arm.x]\n{treated}\ncontrol = "filled"\n')
    assert "fillers of 'filled' for other copies" in error.found


def test_keys_that_could_have_no_effect_are_refused(tmp_path: Path) -> None:
    for keys in (
        'perturbations = []\nassignment = "swap"',
        'perturbations = []\nfiller = "base"',
        "perturbations = []\nphase = [0, 0.5]",
        'perturbations = ["passages"]\nrenderings = { quizzes = "letters" }',
        "factors = { position = [] }",
        'assignment = "rotate-1/1000"',
    ):
        refusal(tmp_path, f"{STANDARD}[arm.x]\n{keys}\n")


def test_a_spacing_for_all_is_one_for_the_whole_roster(tmp_path: Path) -> None:
    """So that dropping a perturbation from an arm moves no copy of another."""
    x = arm(tmp_path, 'perturbations = ["quizzes"]\nspacing = "burst"')
    assert {factors[0].spacing for factors in x.factors.values()} == {"burst"}


PARENTS = f"""{STANDARD}[arm.perturbed]
[arm.tuned-standard]
parent = "standard"
control = "none"
perturbations = []
"""


def test_a_pair_may_start_from_one_parent_or_from_a_pair_of_parents(tmp_path: Path) -> None:
    arms = load(tmp_path, f'{PARENTS}[arm.x]\nparent = "perturbed"\ncontrol = "tuned-standard"\n').arms
    assert (arms["x"].parent, arms["x"].control) == ("perturbed", "tuned-standard")
    load(tmp_path, f'{PARENTS}[arm.x]\nparent = "standard"\ncontrol = "tuned-standard"\n')
    load(tmp_path, f'{STANDARD}init = "a"\n[arm.x]\ninit = "a"\n')


@pytest.mark.parametrize(
    ("arms", "place", "message"),
    [
        ('[arm.x]\nparent = "perturbed"', "[arm.x]", "parent (perturbed against none)"),
        ('[arm.x]\nparent = "perturbed"', "[arm.x]", "parents that are themselves arm and control"),
        (
            '[arm.late]\ncontrol = "none"\n[arm.x]\nparent = "late"\ncontrol = "tuned-standard"',
            "[arm.x]",
            "parent (late",
        ),
        ('[arm.x]\ninit = "a"', "[arm.x]", "init (a against none)"),
        ('[arm.x]\ninit = "a"\nparent = "standard"\ncontrol = "none"', "[arm.x]", "parent and init"),
        ('[arm.x]\nparent = "pertrubed"\ncontrol = "none"', "[arm.x] parent", "did you mean 'perturbed'"),
        ('[arm.x]\nparent = "x"\ncontrol = "none"', "[arm.x] parent", "x → x"),
        (
            '[arm.x]\nparent = "y"\ncontrol = "none"\n[arm.y]\nparent = "x"\ncontrol = "none"',
            "[arm.x] parent",
            "x → y → x",
        ),
        ('[arm.x]\nparent = "standard"\ncontrol = "none"\ndraws = 2', "[arm.x] parent", "'standard' without draw 1"),
        (
            '[arm.x]\nparent = "standard"\ncontrol = "none"\nmodels = ["nano", "1b"]',
            "[arm.x] parent",
            "'standard' without model 1b",
        ),
    ],
)
def test_starts_that_would_differ_or_never_come_are_refused(
    tmp_path: Path, arms: str, place: str, message: str
) -> None:
    error = refusal(tmp_path, f"{PARENTS}{arms}\n")
    assert error.place.endswith(place)
    assert message in str(error)


def test_what_weights_had_read_before_is_known_or_said_to_be_unknown(tmp_path: Path) -> None:
    text = f'{PARENTS}[arm.a]\ninit = "a"\ncontrol = "none"\n[arm.b]\nparent = "a"\ncontrol = "none"\n'
    arms = load(tmp_path, text).arms
    found = [earlier_exposure(name, arms) for name in ("perturbed", "tuned-standard", "a", "b")]
    assert found == ["none", "parent", "unknown", "unknown"]
