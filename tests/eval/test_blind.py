from __future__ import annotations

import numpy as np
from costar.eval.blind import MOST, blind_p, blind_scores, chosen_rows, predictor, text_features
from costar.eval.roc import Trial, auc, make_trial

WORDS = ["harbour", "lantern", "copper", "meadow", "violin", "granite", "thunder", "saffron", "orchard", "compass"]


def texts_of(n: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, 20)) for _ in range(n)]


def trial_of(is_member: np.ndarray) -> Trial:
    return make_trial(is_member.tolist(), [""] * len(is_member), [f"c{i:04d}" for i in range(len(is_member))])


def blind(texts: list[str], is_member: np.ndarray, key: int = 0) -> tuple[float, float]:
    trial = trial_of(is_member)
    matrix = predictor(text_features(texts, [len(text) // 3 for text in texts]), trial.units, (key,))
    return float(auc(blind_scores(matrix, trial.is_member)[None], trial)[0]), blind_p(matrix, trial, (key,))


def test_a_word_that_members_have_is_found_without_a_model() -> None:
    is_member = np.arange(80) < 30
    texts = [f"{text} in 1999" if member else f"{text} in 2024" for text, member in zip(texts_of(80, 1), is_member)]
    area, p = blind(texts, is_member)
    assert area > 0.95
    assert p <= 0.002


def test_longer_members_are_found_without_a_model() -> None:
    is_member = np.arange(80) < 30
    texts = [text if member else text[: len(text) // 2] for text, member in zip(texts_of(80, 1), is_member)]
    assert blind(texts, is_member)[1] <= 0.002


def test_among_labels_by_lot_p_values_are_uniform() -> None:
    """Although what it predicts of a fifth leans away from the labels of the others: every permutation is fitted anew."""
    generator = np.random.default_rng(2)
    texts = texts_of(50, 3)
    found = [blind(texts, generator.permutation(50) < 20, number)[1] for number in range(60)]
    assert np.mean(np.array(found) <= 0.05) <= 0.15
    assert 0.35 <= np.mean(found) <= 0.65


def test_no_record_is_predicted_from_its_own_cluster() -> None:
    features = text_features(texts_of(30, 4), [20] * 30)
    units = np.arange(30) // 3
    matrix = predictor(features, units, ("x",))
    assert not matrix[units[:, None] == units[None, :]].any()


def test_of_many_records_the_rarer_side_stays_and_the_other_is_thinned() -> None:
    n = 3 * MOST
    for members, kept in ((100, 100), (2 * MOST, MOST // 2), (n - 100, MOST - 100)):
        trial = make_trial([i < members for i in range(n)], [""] * n, [str(i) for i in range(n)])
        rows = chosen_rows(trial, ("x",))
        assert len(set(rows.tolist())) == MOST
        assert trial.is_member[rows].sum() == kept
