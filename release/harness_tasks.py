"""Records as tasks of lm-evaluation-harness: the texts, prompts and options that costar's own probes ask, as rows and settings.

Names of columns stand where the harness takes a template, so that no text is ever read as one. `measured` says which
score of costar a task gives again: the probe, the variant and the metrics by the harness' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.hashing import keyed_hash
from ..core.plugins import load_plugin, plugin_names
from ..corpus.tokenizer import Tokenizer
from ..eval.ledger import refusals
from ..eval.options import drawn_numbers
from ..eval.probes import Context, Rendered, Subject
from ..eval.probes.likelihood import scored_renderings
from ..eval.questions import Question, requests_of_all
from ..insertion.renderings import base_name

PROBES = "costar.eval.probes"
CANDIDATES = 100  # a secret and 99 others
DELIMITER = " "
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HarnessTask:
    """One task: `name` ends that of its files, `settings` are its YAML, `rows` its documents."""

    name: str
    perturbation: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    measured: Mapping[str, Any]
    left_out: int = 0


def tasks_of(context: Context, perturbation: str, labels: Mapping[str, Row], eos: str) -> list[HarnessTask]:
    """Every task of a perturbation's records; `labels` has the columns that each record's documents begin with."""
    subjects = tuple(
        each for each in context.subjects if each.perturbation == perturbation and each.record_id in labels
    )
    context = replace(context, subjects=subjects)
    found = [*_likelihoods(context), *_continuations(context, eos), *_choices(context), *_secrets(context, eos)]
    return [
        replace(task, perturbation=perturbation, rows=[labels[row["record_id"]] | row for row in task.rows])
        for task in found
        if task.rows
    ]


def _texts(context: Context) -> Iterator[tuple[str, list[tuple[Subject, str, Rendered]]]]:
    """The scored texts by the name of their rendering; the canonical one has none."""
    found: dict[str, list[tuple[Subject, str, Rendered]]] = {}
    for subject in context.subjects:
        for name in scored_renderings(context, subject):
            key = "" if name == subject.canonical else base_name(name)
            found.setdefault(key, []).append((subject, name, subject.renderings[name]))
    yield from sorted(found.items())


def _likelihoods(context: Context) -> Iterator[HarnessTask]:
    settings = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": name} for name in ("byte_perplexity", "bits_per_byte", "word_perplexity")],
    }
    for name, texts in _texts(context):
        rows = [
            {"record_id": s.record_id, "rendering": rendering, "text": r.text, "n_tokens": len(r.ids)}
            for s, rendering, r in texts
        ]
        measured = {"probe": "likelihood", "variant": "", "metrics": {"byte_perplexity": "ll_byte"}}
        yield HarnessTask(
            name=_joined("likelihood", name), perturbation="", settings=settings, rows=rows, measured=measured
        )


def _continuations(context: Context, eos: str) -> Iterator[HarnessTask]:
    """Each prefix of the suite, after EOS, and the suffix that a greedy continuation is held against."""
    suffix = context.design.suffix
    for name, texts in _texts(context):
        for prefix in context.design.prefixes:
            whole = [text for text in texts if prefix + suffix <= len(text[2].ids) <= context.length]
            rows = []
            for subject, rendering, rendered in whole:
                parts = _cut(rendered.ids, prefix, suffix, context.tokenizer)
                if parts:
                    row = {"record_id": subject.record_id, "rendering": rendering}
                    rows.append(row | {"prompt": eos + parts[0], "continuation": parts[1]})
            settings = {
                "output_type": "generate_until",
                "doc_to_text": "prompt",
                "doc_to_target": "continuation",
                "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": suffix},
                "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            }
            measured = {"probe": "extraction", "variant": f"prefix={prefix}", "metrics": {"exact_match": "extracted"}}
            yield HarnessTask(
                name=_joined(f"continuation_{prefix}", name),
                perturbation="",
                settings=settings,
                rows=rows,
                measured=measured,
                left_out=len(whole) - len(rows),
            )


def _cut(ids: Sequence[int], prefix: int, suffix: int, tokenizer: Tokenizer) -> tuple[str, str] | None:
    """The texts of the first ids and of those behind them; None where a text alone has other ids, as inside a character."""
    before, both = (tokenizer.decode(list(ids[:end])) for end in (prefix, prefix + suffix))
    after = tokenizer.decode(list(ids[prefix : prefix + suffix]))
    same = before + after == both and tokenizer.encode(before) == list(ids[:prefix])
    return (before, after) if same else None


def _choices(context: Context) -> Iterator[HarnessTask]:
    """The questions of every probe that asks for choices, by probe and variant."""
    for name in plugin_names(PROBES):
        probe = load_plugin(PROBES, name, place="probes")
        if not hasattr(probe, "questions"):
            continue
        own = tuple(each for each in context.subjects if not probe.KINDS or each.kind in probe.KINDS)
        asked = [each for each in probe.questions(replace(context, subjects=own)) if isinstance(each, Question)]
        refused = _too_long(asked, context)
        forms: dict[tuple[str, bool], list[Question]] = {}
        for question in asked:
            if len(question.options) > 1:
                forms.setdefault((question.variant, _has_inputs(question)), []).append(question)
        for (variant, inputs), questions in sorted(forms.items()):
            kept = [question for question in questions if id(question) not in refused]
            task = _choice(kept, inputs=inputs)
            measured = {"probe": name, "variant": variant, "metrics": task.measured}
            title = _joined(name, variant, "inputs" if inputs and (variant, False) in forms else "")
            yield replace(task, name=title, measured=measured, left_out=len(questions) - len(kept))


def _has_inputs(question: Question) -> bool:
    """Whether the options of a question are contexts, all of one and the same text."""
    return len({before for before, _ in question.options}) > 1


def _too_long(questions: Sequence[Question], context: Context) -> set[int]:
    """Questions of which an option is longer than the model reads: the harness would cut its beginning off."""
    requests = requests_of_all(questions, context.tokenizer)
    refused = refusals(requests, context.length, context.tokenizer.vocab_size)
    found = set()
    for each in questions:
        if any((each.record_id, each.name(n), each.place(n)) in refused for n in range(len(each.options))):
            found.add(id(each))
    return found


def _choice(questions: Sequence[Question], *, inputs: bool) -> HarnessTask:
    """Questions of one form as a task. Where the options are contexts, the harness is given the number of the right one as
    text."""
    metrics = {"acc": "accuracy"}
    parted = all(after[:1] == DELIMITER for q in questions for _, after in q.options) and not inputs
    rows = []
    for question in questions:
        contexts, texts = zip(*question.options, strict=True)
        row: Row = {"record_id": question.record_id, "rendering": question.rendering, "gold": question.answer}
        if inputs:
            assert len(set(texts)) == 1, f"{question.record_id}: options differ in one thing"
            rows.append(row | {"choices": list(contexts), "continuation": texts[0]})
        else:
            assert len(set(contexts)) == 1, f"{question.record_id}: options differ in one thing"
            rows.append(row | {"question": contexts[0], "choices": [text[parted:] for text in texts]})
    sizes = all(tuple(map(len, row["choices"])) == q.sizes for row, q in zip(rows, questions, strict=True))
    metrics |= {"acc_norm": "accuracy_norm"} if sizes else {}
    metrics |= {"acc_mutual_info": "accuracy_mi"} if all(question.mutual for question in questions) else {}
    settings = {
        "output_type": "multiple_choice",
        "doc_to_text": "gold" if inputs else "question",
        "doc_to_choice": "choices",
        "doc_to_target": "continuation" if inputs else "gold",
        "target_delimiter": DELIMITER if parted else "",
        "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
    }
    return HarnessTask(name="", perturbation="", settings=settings, rows=rows, measured=metrics)


def _secrets(context: Context, eos: str) -> Iterator[HarnessTask]:
    """Each secret among other candidates, all after its carrier: the rank is read off the log-likelihoods."""
    subjects = [each for each in context.subjects if each.kind == "password"]
    inserted = {each.fields["secret"] for each in subjects if each.record_id in context.fates}
    rows = []
    for subject in subjects:
        secret, alphabet = subject.fields["secret"], subject.fields["alphabet"]
        before = str(subject.fields["carrier"]).split("{secret}")[0]
        choices = [secret, *other_candidates(secret, alphabet, inserted, subject.record_id)]
        order = sorted(range(len(choices)), key=lambda n: keyed_hash("candidates", subject.record_id, choices[n]))
        row = {"record_id": subject.record_id, "rendering": subject.canonical, "gold": order.index(0)}
        rows.append(row | {"question": eos + before, "choices": [choices[n] for n in order]})
    settings = {
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    measured = {"probe": "secret-rank", "variant": "", "metrics": {"acc": "rank is 1"}}
    yield HarnessTask(name="secret", perturbation="", settings=settings, rows=rows, measured=measured)


def other_candidates(secret: str, alphabet: str, inserted: Iterable[str], record_id: str) -> list[str]:
    """Candidates that are neither the secret nor another inserted one: all of a small space, a keyed sample of a large one."""
    taken, base, depth = {secret, *inserted}, len(alphabet), len(secret)
    wanted = CANDIDATES - 1 + len(taken)
    numbers = drawn_numbers(("candidates", record_id), base**depth, wanted)
    texts = ["".join(alphabet[n // base**place % base] for place in range(depth - 1, -1, -1)) for n in numbers]
    return [text for text in texts if text not in taken][: CANDIDATES - 1]


def _joined(*parts: str) -> str:
    """A name of letters, digits and underscores."""
    return "_".join(re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts if part)
