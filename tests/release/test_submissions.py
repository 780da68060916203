from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.release.grading import grade
from costar.release.submissions import read_submission

from tests.release.submitting import write_scores, write_words


@pytest.fixture
def release(built: Path) -> Path:
    return built / "release"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"release_id": None}, "release_id"),
        ({"format": 2}, "format 2|format\n  found     2"),
        ({"task": "membrship"}, "did you mean 'membership'"),
        ({"tier": "magic"}, "one of plain, reference, oracle, draws"),
        ({"teir": "plain"}, "did you mean 'tier'"),
        ({"run": 3}, "a text"),
        ({"format": True}, "a whole number"),
        ({"prefix": 8}, "a key of extraction in a submission for membership"),
        ({"perturbations": [1]}, "names of perturbations"),
        ({"perturbations": "passages"}, "a list of names"),
    ],
)
def test_what_a_submission_says_of_itself_is_checked_key_by_key(
    release: Path, tmp_path: Path, words: dict[str, object], message: str
) -> None:
    with pytest.raises(CostarError, match=message):
        read_submission(write_words(tmp_path / "ours", release, **{"task": "membership"} | words))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [None, "{", "[]", "\x00", "[" * 100_000])
def test_a_folder_without_words_is_no_submission(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "submission.json").write_text(text)
    with pytest.raises(CostarError, match=r"submission\.json"):
        read_submission(tmp_path)


def test_links_out_of_a_submission_are_not_followed(release: Path, tmp_path: Path) -> None:
    folder = write_words(tmp_path / "ours", release, task="membership")
    read_submission(folder)
    (folder / "model").symlink_to(release / "models")
    with pytest.raises(CostarError, match="a link"):
        read_submission(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"release_id": "0" * 64}, "as release.json has it"),
        ({"run": "standard.nano.d0"}, "the treated run of a pair: perturbed"),
        ({"perturbations": ["pasages"]}, "did you mean 'passages'"),
        ({"perturbations": ["passages"]}, "42 records that the submission is not about"),
    ],
)
def test_a_submission_to_another_release_pair_or_perturbation_is_refused(
    release: Path, tmp_path: Path, words: dict[str, object], message: str
) -> None:
    with pytest.raises(CostarError, match=message):
        grade(write_scores(tmp_path / "ours", release, **words), release)
