"""Free answers against the right one: exact match, words in common, common beginning."""

from __future__ import annotations

import re
import string
from collections import Counter

ANSWER_METRICS = {
    "exact_match": "1 when the answer, normalized, is the right one",
    "word_recall": "share of the right answer's words that are in the answer",
    "word_f1": "harmonic mean of that share and of the share of the answer's words that are right",
    "prefix_match": "1 when the answer, normalized, begins with the right one",
}
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces (SQuAD, arXiv 1606.05250, evaluation script 1.1)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def answer_metrics(answer: str, right: str) -> dict[str, float]:
    """The metrics of an answer; a right answer without words (only punctuation) is compared as it is written."""
    given, wanted = normalized(answer), normalized(right)
    if not wanted:
        given, wanted = answer.strip(), right.strip()
    common = sum((Counter(given.split()) & Counter(wanted.split())).values())
    recall = common / max(len(wanted.split()), 1)
    precision = common / max(len(given.split()), 1)
    return {
        "exact_match": float(given == wanted),
        "word_recall": recall,
        "word_f1": 2 * precision * recall / (precision + recall) if common else 0.0,
        "prefix_match": float(given.startswith(wanted)),
    }
