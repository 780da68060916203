"""Personal data by choice: is a person's attribute more likely than nine others, after prompts that give more or less?

The nine are the attributes of other people of the perturbation; for an e-mail address they are addresses that the
person's own name gives as well. Chance is one in the number of options: ten, or fewer where there are not so many values.
`prompt=full-suffix` scores an option with the text behind it, `full` after the text before it, `intro` after name and
nationality, `name` after the name alone. `attribute=all` is the mean over a record's attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ...insertion.kinds import biography
from ..options import OPTIONS, Pools, drawn_numbers, pools_of, with_answer
from ..prompts import FIRST, PROMPTS, attributes_of, lead_to, means_over_attributes
from ..questions import OPTION_METRICS, Question, question_of, requests_of_all, scores_of_all
from . import Context, Found, Gap, Request, Score, Subject

NEEDS = ("loglik",)
KINDS = ("biography",)
METRICS = {
    **OPTION_METRICS,
    "accuracy_norm": "the same by log-probability per character of what is scored: the option, or it and the text behind it",
}
SOURCE = "Hubble (arXiv 2510.19811), multiple choice on YAGO biographies"
SUFFIX = "full-suffix"
ADDRESS = re.compile(r"(.*?)([0-9]*)@(.*)", re.DOTALL)
FORMS = (
    "{f}.{l}",
    "{l}.{f}",
    "{f}_{l}",
    "{l}_{f}",
    "{f}{l}",
    "{l}{f}",
    "{i}.{l}",
    "{i}{l}",
    "{l}.{i}",
    "{f}-{l}",
    "{f}",
    "{l}",
)


def requests(context: Context) -> Iterator[Request]:
    return requests_of_all(questions(context), context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    return means_over_attributes(scores_of_all(questions(context), found))


def questions(context: Context) -> Iterator[Question | Gap]:
    """Every question: by record, attribute, prompt."""
    values = ((s, name, value) for s in context.subjects for name, value in attributes_of(s).items())
    pools = pools_of(context, values)
    for subject in context.subjects:
        for attribute in biography.ATTRIBUTES:
            if pools.whole(subject.perturbation, attribute):
                yield from _asked(context, pools, subject, attribute)


def _asked(context: Context, pools: Pools, subject: Subject, attribute: str) -> Iterator[Question | Gap]:
    answer = attributes_of(subject).get(attribute)
    if answer is None:
        yield Gap(subject.record_id, subject.canonical, f"attribute={attribute}", f"a record without {attribute}")
        return
    if attribute == "email":
        key = (context.seed, "options", subject.record_id, attribute)
        options, right = with_answer(addresses(subject.fields["name"], answer, key), answer)
    else:
        options, right = pools.options(subject, attribute, answer)
    leads = {
        prompt: lead_to(subject, attribute, prompt, context.tokenizer)
        for prompt in PROMPTS
        if (prompt, attribute) != ("intro", FIRST)
    }
    for prompt, lead in {SUFFIX: leads["full"], **leads}.items():
        variant = f"prompt={prompt},attribute={attribute}"
        if isinstance(lead, str):
            yield Gap(subject.record_id, subject.canonical, variant, lead)
            continue
        texts = [option + lead.after for option in options] if prompt == SUFFIX else options
        yield question_of(subject.record_id, subject.canonical, variant, lead.before, texts, right, delimiter="")


def addresses(name: str, right: str, key: tuple[int | str, ...]) -> list[str]:
    """Nine addresses that the name gives as well: with other digits where the right one ends with some, else in other forms.

    They are on the reserved domains where the right one is, else on its own.
    """
    match = ADDRESS.fullmatch(right)
    if match is None:
        return []
    stem, digits, domain = match.groups()
    domains = biography.DOMAINS if domain in biography.DOMAINS else (domain,)
    if digits:
        low = 10 ** (len(digits) - 1) if len(digits) > 1 and digits[0] != "0" else 0
        numbers = 10 ** len(digits) - low
        own = int(digits) - low + numbers * domains.index(domain)
        picks = drawn_numbers(key, numbers * len(domains) - 1, OPTIONS - 1)
        picks = [pick + (pick >= own) for pick in picks]
        return [f"{stem}{low + pick % numbers:0{len(digits)}d}@{domains[pick // numbers]}" for pick in picks]
    words = re.findall(r"[^\W\d_]+", name.lower())
    if not words:
        return []
    forms = {form.format(f=words[0], l=words[-1], i=words[0][0]) for form in FORMS}
    others = sorted({f"{form}@{each}" for form in forms for each in domains} - {right})
    return [others[n] for n in drawn_numbers(key, len(others), OPTIONS - 1)]
