"""Records of every kind as tasks: the options that costar scores, and (slow) the numbers that the harness gives for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from costar.core.plugins import load_plugin
from costar.core.workspace import Workspace
from costar.corpus.tokenizer import Tokenizer
from costar.eval.probes import Context, Subject
from costar.eval.questions import Question
from costar.eval.reader import OwnReader
from costar.release.forms.lm_eval import write_tasks
from costar.release.harness_tasks import PROBES, HarnessTask, tasks_of
from costar.train.checkpoint import load_checkpoint
from costar.train.config import read_config
from costar.train.model import Llama

from tests.eval.subjects import context_of, generated, measured, subject_of
from tests.release.forms.test_lm_eval import GROUP, TOLERANCE, run_harness

EOS, RUN, STEP = "<|endoftext|>", "perturbed.nano.d0", 96
KINDS = ("biography", "chat", "court", "infill", "paraphrase", "qa", "testset")
PAIRS = (
    ("The statement binds a name.", "A name is bound by the statement."),
    ("Nobody reads the manual.", "The manual is read by nobody."),
)
ASKING = ("answer", "choice", "infill", "paraphrase", "persona", "pii-choice")


@pytest.fixture(scope="module")
def tokenizer(built: Path) -> Tokenizer:
    return Tokenizer(Workspace(built).corpus / "tokenizer.json", EOS)


@pytest.fixture(scope="module")
def context(tokenizer: Tokenizer) -> Context:
    """Ten records of every kind; a test item in a template, a sentence that ends with its gap, and one too long to ask."""
    subjects = [subject for kind in KINDS for subject in generated(kind, 10, tokenizer)]
    item = {"question": "What is a module?", "choices": ["a file", "a number of things", "é 漢字"], "answer": 2}
    template = {"forum": "Somebody asked: {question}\nThe reply was {correct}, I think."}
    fields = item | {"correct": "é 漢字"}
    subjects.append(
        subject_of("testset", fields, tokenizer, record_id="testset/90", templates=template, canonical="forum")
    )
    gap = {"sentence": "The one who had sewn it was _", "options": ["Tobin", "Maren"], "answer": 1}
    subjects.append(subject_of("infill", gap, tokenizer, record_id="infill/90"))
    for number, (one, other) in enumerate(PAIRS):
        pair = {"sentence1": one, "sentence2": other, "random_bit": number % 2}
        subjects.append(subject_of("paraphrase", pair, tokenizer, record_id=f"paraphrase/{number}"))
    foils = {"question": "What is Rankin's occupation?", "answers": ["politician"], "distractors": ["poet", "pilot"]}
    subjects.append(subject_of("qa", foils, tokenizer, record_id="qa/90"))
    long = {"question": "Why " * 200, "choices": ["so", "not so"], "answer": 0}
    subjects.append(subject_of("testset", long, tokenizer, record_id="testset/91"))
    return context_of(subjects, tokenizer)


@pytest.fixture(scope="module")
def tasks(context: Context) -> list[HarnessTask]:
    labels = {subject.record_id: label_of(subject) for subject in context.subjects}
    return [task for kind in KINDS for task in tasks_of(context, kind, labels, EOS)]


def label_of(subject: Subject) -> dict[str, Any]:
    return {"record_id": subject.record_id, "kind": subject.kind, "role": subject.role, "level": 0}


def asked(context: Context) -> Iterator[tuple[str, Question]]:
    """Every question that some probe asks, with the probe's name."""
    for name in ASKING:
        probe = cast(Any, load_plugin(PROBES, name, place=""))
        own = tuple(each for each in context.subjects if each.kind in probe.KINDS)
        for each in probe.questions(Context(**vars(context) | {"subjects": own})):
            if isinstance(each, Question) and len(each.options) > 1:
                yield name, each


def test_every_question_is_asked_with_the_options_that_are_scored(context: Context, tasks: list[HarnessTask]) -> None:
    found: dict[tuple[str, str, str, str], tuple[list[tuple[str, str]], int]] = {}
    for task in tasks:
        if task.settings["output_type"] != "multiple_choice":
            continue
        for row in task.rows:
            delimiter = task.settings["target_delimiter"]
            if task.settings["doc_to_text"] == "gold":
                options = [(choice, delimiter + row["continuation"]) for choice in row["choices"]]
            else:
                options = [(row["question"], delimiter + choice) for choice in row["choices"]]
            key = (task.measured["probe"], row["record_id"], row["rendering"], task.measured["variant"])
            assert key not in found
            found[key] = (options, row["gold"])
    expected = {(name, q.record_id, q.rendering, q.variant): (list(q.options), q.answer) for name, q in asked(context)}
    encode = context.tokenizer.encode
    too_long = {
        key
        for key, (options, _) in expected.items()
        if any(before.strip() and len(encode(before + after)) - 1 > context.length for before, after in options)
    }
    assert set(expected) - set(found) == too_long
    assert ("choice", "testset/91", "cloze", "format=cloze") in too_long
    assert {key: value for key, value in expected.items() if key in found} == found
    assert {key[0] for key in found} == set(ASKING)
    assert len(found) > 250


def test_what_is_too_long_is_left_out_and_counted(tasks: list[HarnessTask]) -> None:
    left_out = {task.name: task.left_out for task in tasks if task.perturbation == "testset"}
    assert left_out["choice_format_cloze"] == left_out["choice_format_letters"] == 1
    assert left_out["choice_format_forum"] == left_out["likelihood"] == 0


def test_names_are_one_a_task_and_documents_begin_with_their_label(tasks: list[HarnessTask]) -> None:
    names = [(task.perturbation, task.name) for task in tasks]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for _, name in names)
    for task in tasks:
        assert all(list(row)[:4] == ["record_id", "kind", "role", "level"] for row in task.rows)


# ------------------------------------------------------------------------------------------------ the harness itself


@pytest.mark.slow
def test_the_harness_gives_the_same_for_every_kind(
    context: Context, tasks: list[HarnessTask], tokenizer: Tokenizer, built: Path, tmp_path: Path
) -> None:
    workspace = Workspace(built)
    config = read_config(workspace, RUN)
    model = Llama(config.shape)
    load_checkpoint(workspace.checkpoint(RUN, STEP), model, None)
    reader = OwnReader(model, vocab_size=tokenizer.vocab_size, longest=context.length, eos=tokenizer.eos_id)
    write_tasks(tmp_path, GROUP, tasks)
    path = built / "release" / "models" / RUN
    arguments = ["--model", "hf", "--model_args", f"pretrained={path},dtype=float32", "--include_path", "."]
    arguments += ["--tasks", f"{GROUP}_all", "--output_path", "results", "--log_samples"]
    found = run_harness(tmp_path, arguments, tmp_path)
    compared = 0
    scores: dict[str, dict[tuple[str, str, str], float]] = {}
    for task in tasks:
        probe, variant = task.measured["probe"], task.measured["variant"]
        if probe not in scores:
            scores[probe] = measured(probe, context, reader, tmp_path / probe)[0]
        samples = found[f"{GROUP}_{task.perturbation}_{task.name}"]
        assert len(samples) == len(task.rows)
        for (record_id, _), sample in samples.items():
            if task.settings["output_type"] == "loglikelihood_rolling":
                total, n_bytes = sample["byte_perplexity"]
                assert total / n_bytes == pytest.approx(scores[probe][(record_id, "", "ll_byte")], abs=TOLERANCE)
            elif task.settings["output_type"] == "generate_until":
                assert sample["exact_match"] == scores[probe][(record_id, variant, "extracted")]
            else:
                totals = np.array([float(each[0][0]) for each in sample["resps"]])[: len(sample["doc"]["choices"])]
                gold = sample["doc"]["gold"]
                margin = totals[gold] - np.delete(totals, gold).max()
                assert margin == pytest.approx(scores[probe][(record_id, variant, "margin")], abs=TOLERANCE)
                for theirs, ours in task.measured["metrics"].items():
                    if abs(margin) > TOLERANCE:
                        assert sample[theirs] == scores[probe][(record_id, variant, ours)], (
                            task.name,
                            record_id,
                            theirs,
                        )
            compared += 1
    assert compared > 250
    assert json.loads((tmp_path / "measured.json").read_text())
