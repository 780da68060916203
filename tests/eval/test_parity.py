"""Numbers agree with lm-evaluation-harness 0.4.13: its conventions written out by hand, and (slow) the harness itself."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from costar.core.models import ModelShape
from costar.core.workspace import Workspace
from costar.corpus.tokenizer import Tokenizer, train_bpe
from costar.eval.ledger import by_key, ledger_table
from costar.eval.measure import before_stop
from costar.eval.probes import EOS, Found, Request, Score
from costar.eval.questions import PROMPT, Question, question_of, requests_of_all, scores_of
from costar.eval.reader import OwnReader
from costar.eval.windows import score_in_windows
from costar.train.checkpoint import load_checkpoint
from costar.train.config import read_config
from costar.train.init import init_weights
from costar.train.model import Llama

EOS_TEXT = "<|endoftext|>"
RUN, STEP, LONGEST = "perturbed.nano.d0", 96, 128
TOLERANCE = 1e-3  # nats of a summed log-likelihood
HARNESS = Path(os.environ.get("LM_EVAL_PYTHON", Path(sys.prefix) / "lmeval" / "bin" / "python"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_bpe(topics.values(), 400, EOS_TEXT, path)
    return Tokenizer(path, EOS_TEXT)


@pytest.fixture(scope="module")
def reader(tokenizer: Tokenizer) -> OwnReader:
    model = Llama(ModelShape(layers=2, hidden=32, heads=2, kv_heads=2, ffn=64, vocab_size=400, tied=True))
    init_weights(model, 5, 0)
    return OwnReader(model, vocab_size=400, longest=32, eos=tokenizer.eos_id)


def found_of(reader: OwnReader, requests: list[Request], longest: int) -> Found:
    byte_counts = np.ones(reader.vocab_size, np.int32)
    columns = score_in_windows(reader, requests, byte_counts, longest)
    return Found(ledger=by_key(ledger_table("run", 0, requests, columns)))


def by_hand(reader: OwnReader, before: list[int], ids: list[int]) -> float:
    """The log-probability of ids after others, in one pass without anything else."""
    logps = torch.log_softmax(reader.logits(reader.states(torch.tensor([before + ids[:-1]]))), -1)[0]
    return float(sum(logps[len(before) - 1 + i, token].double() for i, token in enumerate(ids)))


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of a context and of what is scored after it."""
    question = question_of("r", "text", "", context, [continuation, "other"], 0, delimiter="")
    first = next(requests_of_all([question], tokenizer))
    return list(first.before), list(first.ids)


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(tokenizer: Tokenizer) -> None:
    before, ids = encode_pair(tokenizer, "A module is  ", "imported")
    assert before == tokenizer.encode("A module is")
    assert before + ids == tokenizer.encode("A module is  imported")


def test_a_context_keeps_its_own_ids_where_a_token_reaches_across_the_border(tokenizer: Tokenizer) -> None:
    before, ids = encode_pair(tokenizer, "the stat", "ement")
    whole = tokenizer.encode("the statement")
    assert before == tokenizer.encode("the stat") != whole[: len(before)]
    assert ids == whole[len(before) :]


def test_eos_stands_before_a_continuation_without_context_only(tokenizer: Tokenizer, reader: OwnReader) -> None:
    question = question_of("r", "cloze", "", "What is a module?", ["a file", "a number"], 1, mutual=True)
    requests = list(requests_of_all([question], tokenizer))
    found = found_of(reader, requests, 32)
    for number, choice in enumerate((" a file", " a number")):
        with_context, alone = requests[2 * number : 2 * number + 2]
        assert (with_context.context, alone.context) == (PROMPT, EOS)
        tokens = question.tokens(found, number)
        assert not isinstance(tokens, str)
        expected = by_hand(reader, tokenizer.encode("What is a module?"), list(with_context.ids))
        assert tokens.total == pytest.approx(expected, abs=1e-4)
        mutual = found.tokens("r", question.name(number, "alone"))
        assert not isinstance(mutual, str)
        assert mutual.total == pytest.approx(by_hand(reader, [tokenizer.eos_id], tokenizer.encode(choice)), abs=1e-4)


def test_of_equal_options_the_first_is_taken(tokenizer: Tokenizer, reader: OwnReader) -> None:
    for answer in (0, 1):
        question = question_of("r", "cloze", "", "What is it?", ["the same", "the same"], answer, mutual=True)
        found = found_of(reader, list(requests_of_all([question], tokenizer)), 32)
        scores = {s.metric: s.value for s in scores_of(question, found) if isinstance(s, Score)}
        names = ("accuracy", "accuracy_norm", "accuracy_mi")
        assert [scores[name] for name in names] == [1.0 - answer] * 3
        assert scores["margin"] == 0


# ------------------------------------------------------------------------------------------------ the harness itself


@pytest.fixture(scope="module")
def trained(built: Path) -> tuple[OwnReader, Tokenizer, Path]:
    workspace = Workspace(built)
    config = read_config(workspace, RUN)
    model = Llama(config.shape)
    load_checkpoint(workspace.checkpoint(RUN, STEP), model, None)
    tokenizer = Tokenizer(workspace.corpus / "tokenizer.json", config.eos)
    reader = OwnReader(model, vocab_size=tokenizer.vocab_size, longest=LONGEST, eos=tokenizer.eos_id)
    return reader, tokenizer, workspace.run(RUN) / "hf" / f"step-{STEP:06d}"


def ask_harness(asked: dict[str, Any], model: Path, folder: Path) -> dict[str, Any]:
    """What the harness answers, or a skip where it is not installed."""
    if not HARNESS.is_file():
        pytest.skip(f"no lm-evaluation-harness in {HARNESS.parent.parent} (tests/install-clients)")
    questions, answers = folder / "asked.json", folder / "answers.json"
    questions.write_text(json.dumps(asked), encoding="utf-8")
    script = Path(__file__).with_name("harness.py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "TQDM_DISABLE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(HARNESS), str(script), str(questions), str(model), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def rolling_texts() -> list[str]:
    """Texts that fit and that need three windows and more, with characters of several bytes and spaces at the end."""
    prose = " ".join(topics[name] for name in sorted(topics)[:6])
    nasty = ["x", " ", "a  ", "\n\nNew line", "naïve 漢字 🙂 Straße", "🙂" * 60, "Ünïcödé " * 90, "tab\tand  spaces   "]
    return [*nasty, prose[:200], prose[200:900], prose[900:2400], prose[2000:6000] + "   ", prose[:1200] + "\n"]


def texts_at_the_border(tokenizer: Tokenizer) -> list[str]:
    """Texts of exactly one and two windows, one token less and one more."""
    ids = tokenizer.encode(topics["assignment"])
    texts = [tokenizer.decode(ids[:n]) for n in (127, 128, 129, 255, 256, 257)]
    assert [len(tokenizer.encode(text)) for text in texts] == [127, 128, 129, 255, 256, 257]
    return texts


def read_items(path: Path, count: int) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="\n")
        return [json.loads(line) for _, line in zip(range(count), lines)]


def assert_rolling_agrees(trained: tuple[OwnReader, Tokenizer, Path], texts: list[str], theirs: list[float]) -> None:
    reader, tokenizer, _ = trained
    requests = [Request(str(n), "text", tuple(tokenizer.encode(t))) for n, t in enumerate(texts)]
    found = found_of(reader, requests, LONGEST)
    for number, (text, expected) in enumerate(zip(texts, theirs, strict=True)):
        tokens = found.tokens(str(number), "text")
        assert not isinstance(tokens, str)
        assert len(tokens.logp) == len(requests[number].ids)
        assert tokens.total == pytest.approx(expected, abs=TOLERANCE, rel=0), text[:40]


@pytest.mark.slow
def test_rolling_log_likelihoods_agree(trained: tuple[OwnReader, Tokenizer, Path], tmp_path: Path) -> None:
    texts = rolling_texts() + texts_at_the_border(trained[1])
    assert sum(len(trained[1].encode(text)) > 2 * LONGEST for text in texts) >= 4
    asked = {"loglikelihood_rolling": [[text] for text in texts]}
    assert_rolling_agrees(trained, texts, ask_harness(asked, trained[2], tmp_path)["loglikelihood_rolling"])


@pytest.mark.slow
def test_rolling_log_likelihoods_of_real_texts_agree(
    trained: tuple[OwnReader, Tokenizer, Path], shared_data: Path, tmp_path: Path
) -> None:
    texts = [item["text"] for item in read_items(shared_data / "perturb" / "passages_unpopular.jsonl.zst", 24)]
    texts += [item["text"][:6000] for item in read_items(shared_data / "base" / "medical_qa.jsonl.zst", 8)]
    asked = {"loglikelihood_rolling": [[text] for text in texts]}
    assert_rolling_agrees(trained, texts, ask_harness(asked, trained[2], tmp_path)["loglikelihood_rolling"])


@pytest.mark.slow
def test_the_text_of_eos_is_text_for_costar_and_a_token_for_the_harness_unless_it_splits_special_tokens(
    trained: tuple[OwnReader, Tokenizer, Path], tmp_path: Path
) -> None:
    """The one known difference: records never hold the EOS id, so its text is encoded as characters."""
    texts = [f"{EOS_TEXT}The import statement", f"a {EOS_TEXT} in the middle " * 20]
    copy = tmp_path / "model"
    shutil.copytree(trained[2], copy)
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))
    asked = {"loglikelihood_rolling": [[text] for text in texts]}
    assert_rolling_agrees(trained, texts, ask_harness(asked, copy, tmp_path)["loglikelihood_rolling"])
    with pytest.raises(AssertionError):
        assert_rolling_agrees(trained, texts, ask_harness(asked, trained[2], tmp_path)["loglikelihood_rolling"])


def nasty_items() -> list[dict[str, Any]]:
    return [
        {"question": "What is a module?  ", "choices": ["a file", "a number of things", "é"], "answer": 0},
        {"question": "What is a module?\n", "choices": [" a file", "the", "the "], "answer": 2},
        {"question": "漢字と🙂?", "choices": ["naïve", "Straße 🙂", "x"], "answer": 1},
        {"question": "Equal options:", "choices": ["same", "same"], "answer": 1},
        {"question": "Answer:", "choices": ["A", "B", "C", "D"], "answer": 3},
    ]


def assert_task_agrees(
    trained: tuple[OwnReader, Tokenizer, Path], items: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> None:
    reader, tokenizer, _ = trained
    questions: list[Question] = [
        question_of(str(n), "cloze", "", item["question"], item["choices"], item["answer"], mutual=True)
        for n, item in enumerate(items)
    ]
    found = found_of(reader, [r for question in questions for r in requests_of_all([question], tokenizer)], LONGEST)
    for question, expected in zip(questions, theirs, strict=True):
        numbers = range(len(question.options))
        after = [question.tokens(found, number) for number in numbers]
        alone = [found.tokens(question.record_id, question.name(number, "alone")) for number in numbers]
        for tokens, (total, greedy) in zip([*after, *alone], expected["results"], strict=True):
            assert not isinstance(tokens, str)
            assert tokens.total == pytest.approx(total, abs=TOLERANCE, rel=0)
            assert bool(tokens.top1.all()) == greedy
        scores = {s.metric: s.value for s in scores_of(question, found) if isinstance(s, Score)}
        pairs = (("accuracy", "acc"), ("accuracy_norm", "acc_norm"), ("accuracy_mi", "acc_mutual_info"))
        assert {own: scores[own] for own, _ in pairs} == {own: expected[their] for own, their in pairs}


@pytest.mark.slow
def test_multiple_choice_agrees(trained: tuple[OwnReader, Tokenizer, Path], built: Path, tmp_path: Path) -> None:
    """Also on the quizzes that the model has learned, so that some answers are greedy."""
    import pyarrow.parquet as pq

    records = pq.read_table(built / "insertion" / "records.parquet", partitioning=None).to_pylist()
    fields = [json.loads(row["fields"]) for row in records if row["kind"] == "testset" and row["role"] == "main"]
    items = nasty_items() + [{key: f[key] for key in ("question", "choices", "answer")} for f in fields]
    theirs = ask_harness({"task": items}, trained[2], tmp_path)["task"]
    assert_task_agrees(trained, items, theirs)


@pytest.mark.slow
def test_multiple_choice_of_real_items_agrees(
    trained: tuple[OwnReader, Tokenizer, Path], shared_data: Path, tmp_path: Path
) -> None:
    names = ("arc_easy", "hellaswag", "piqa", "openbookqa")
    read = [item for name in names for item in read_items(shared_data / "testsets" / f"{name}.jsonl.zst", 25)]
    tokenizer = trained[1]
    items = [
        {"question": item["question"], "choices": item["choices"], "answer": item["answer"]}
        for item in read
        if max(len(tokenizer.encode(f"{item['question']} {choice}")) for choice in item["choices"]) <= LONGEST
    ]
    assert len(items) > 30
    assert_task_agrees(trained, items, ask_harness({"task": items}, trained[2], tmp_path)["task"])


@pytest.mark.slow
def test_log_likelihoods_of_pairs_agree(trained: tuple[OwnReader, Tokenizer, Path], tmp_path: Path) -> None:
    pairs = [
        ("A module is  ", "imported"),
        ("", " a file"),
        ("", "a file "),
        ("the stat", "ement of this"),
        ("x\n\n ", " y"),
        ("naïve ", "🙂🙂"),
        ("one", " "),
        ("The import statement", " is a statement" * 20),
    ]
    reader, tokenizer, folder = trained
    theirs = ask_harness({"loglikelihood": [list(pair) for pair in pairs]}, folder, tmp_path)["loglikelihood"]
    for number, (pair, (total, greedy)) in enumerate(zip(pairs, theirs, strict=True)):
        before, ids = encode_pair(tokenizer, *pair)
        request = Request(str(number), "pair", tuple(ids), before=tuple(before))
        tokens = found_of(reader, [request], LONGEST).tokens(str(number), "pair")
        assert not isinstance(tokens, str)
        assert tokens.total == pytest.approx(total, abs=TOLERANCE, rel=0), pair
        assert bool(tokens.top1.all()) == greedy


@pytest.mark.slow
def test_continuations_agree_after_eos(trained: tuple[OwnReader, Tokenizer, Path], tmp_path: Path) -> None:
    """costar continues after EOS, as a copy stands in training; the harness does where its prompt begins with EOS."""
    reader, tokenizer, folder = trained
    prompts = ["The import statement", "A class definition is", "naïve 🙂", "If the", "x = 1\n", "See also "]
    settings = [(["\n\n"], 24), ([".", "("], 16), (["the"], 32), (["\x00"], 40)]
    cases = [(prompt, stops, count) for prompt in prompts for stops, count in settings]
    asked = [[EOS_TEXT + prompt, {"until": stops, "max_gen_toks": count}] for prompt, stops, count in cases]
    theirs = ask_harness({"generate_until": asked}, folder, tmp_path)["generate_until"]
    own = []
    for prompt, stops, count in cases:
        ids = reader.generate([[reader.begin, *tokenizer.encode(prompt)]], count)[0]
        own.append(before_stop(tokenizer.decode(ids), stops))
    assert own == theirs
    assert any(len(text) > 20 for text in own)
