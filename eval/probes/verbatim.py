"""Verbatim: what the model writes after the first tokens of a passage, against what comes there.

The continuation is greedy and runs free to the length of the rest of the passage, at most 500 tokens and what the context
has room for, so it shows what `extraction` cannot: a text that goes on after a wrong word. `exact_match` needs no text in
principle: it is 1 exactly when every token of the rest is the most likely one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..overlap import bleu, edit_similarity, rouge_l, words
from . import Context, Found, Gap, Prompt, Score, Subject
from .likelihood import scored_renderings

NEEDS = ("generate",)
KINDS = ("passage",)
METRICS = {
    "exact_match": "1 when the continuation is the rest of the passage, token for token",
    "match_fraction": "share of the rest's tokens that stand in their place in the continuation",
    "rouge_l": "F1 of the longest common subsequence of words",
    "edit_similarity": "1 − Levenshtein distance in characters / the longer text",
    "approximate": "1 when BLEU over tokens is above 0.75",
}
SOURCE = (
    "Hubble (arXiv 2510.19811), verbatim tasks; Lin 2004 (ROUGE-L); Biderman et al., arXiv 2304.11158 (match fraction); "
    "Ippolito et al., arXiv 2210.17546 (approximate: BLEU > 0.75)"
)
MOST = 500
STRIDE = 64  # continuations are asked for in multiples of it and cut, so that many can be made at once
APPROXIMATE = 0.75


def parts(context: Context, subject: Subject) -> Iterator[tuple[str, int, tuple[int, ...], tuple[int, ...]]]:
    """(rendering, prefix, prompt, rest) for every prefix; the rest is empty where the passage is no longer."""
    for name in scored_renderings(context, subject):
        ids = subject.renderings[name].ids
        for prefix in context.design.prefixes:
            yield name, prefix, ids[:prefix], ids[prefix : prefix + min(MOST, _room(context, prefix))]


def _room(context: Context, prefix: int) -> int:
    return max(0, context.length - 1 - prefix)


def prompts(context: Context) -> Iterator[Prompt]:
    for subject in context.subjects:
        for name, prefix, prompt, rest in parts(context, subject):
            if rest:
                new_tokens = min(-(-len(rest) // STRIDE) * STRIDE, _room(context, prefix))
                yield Prompt(subject.record_id, name, f"prefix={prefix}", prompt, new_tokens)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    decode = context.tokenizer.decode
    for subject in context.subjects:
        for name, prefix, _, rest in parts(context, subject):
            place = (subject.record_id, name, f"prefix={prefix}")
            if not rest:
                room = f"a prefix of {prefix} and a context of {context.length} leave nothing to continue"
                yield Gap(*place, f"{len(subject.renderings[name].ids)} tokens: {room}")
                continue
            made = found.continuation(*place)
            if isinstance(made, str):
                yield Gap(*place, made)
                continue
            answer = made.ids[: len(rest)]
            for metric, value in token_metrics(answer, rest).items():
                yield Score(*place, metric, value)
            given, wanted = decode(list(answer)), decode(list(rest))
            yield Score(*place, "edit_similarity", edit_similarity(given, wanted))
            if words(wanted):
                yield Score(*place, "rouge_l", rouge_l(words(given), words(wanted)))
            else:
                yield Gap(*place, "rouge_l needs words of the letters a to z or digits; the rest has none")


def token_metrics(answer: Sequence[int], rest: Sequence[int]) -> dict[str, float]:
    """The metrics that compare tokens."""
    return {
        "exact_match": float(tuple(answer) == tuple(rest)),
        "match_fraction": sum(a == b for a, b in zip(answer, rest, strict=False)) / len(rest),
        "approximate": float(bleu(answer, rest) > APPROXIMATE),
    }
