"""Scoring records: costar against lm-evaluation-harness, same model, records, precision, rows and threads, in one run.

    OMP_NUM_THREADS=1 python bench/scoring.py [--data ../shared/data] [--models tiny 15m] [--suites likelihood hubble …]
        [--records 96] [--vocabulary 16384] [--rounds 3] [--peer python]

Suites: `likelihood`, the log-likelihood of passages of 200 to 400 tokens; `hubble`, that and whether greedy decoding gives
100 tokens back after 25, 50, 75 and 100, as Hubble measures passages; and multiple choice, each item as `cloze` and as
`letters`: `hellaswag`, `piqa`, `mmlu` and `arc_easy` of the data folder, or without one `quizzes`, which are generated. The
tokenizer is trained on the passages' source, the weights are drawn. Each side reads the records, measures them with the
model already loaded, in float32 (lm-evaluation-harness in batches of 16), and has one result a record in the end: costar
with ledger, scores and their hashes on disk, the other, of the interpreter `--peer`, with samples in memory and without
standard errors. Sides take turns, each in a process of its own; the ratios of the rounds and their medians, in wall-clock
and in CPU seconds, and how far the log-likelihoods of the two are apart are printed as JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EOS = "<|endoftext|>"
LONGEST = 1_024
ROWS = 16
PREFIXES = (25, 50, 75, 100)
SUFFIX = 100
SHORT, LONG = 200, 400
REAL = ("hellaswag", "piqa", "mmlu", "arc_easy")
PASSAGES = ("likelihood", "hubble")
TRAINED_ON = 20_000  # characters of so many paragraphs train the tokenizer
WARM = 2  # records measured before the clock starts
CLOCKS = ("wall", "cpu")
Rows = list[dict[str, Any]]
Values = dict[str, float]


@contextmanager
def clocked(found: dict[str, float]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    found |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def ours(folder: Path, suite: str, rows: Rows) -> tuple[dict[str, float], Values]:
    """Seconds of costar for encoding, scoring and writing, and the log-likelihoods found."""
    import numpy as np
    import safetensors.torch
    from costar.core.models import ModelShape
    from costar.corpus.tokenizer import Tokenizer
    from costar.eval.reader import OwnReader
    from costar.train.memory import keep_freed_memory
    from costar.train.model import Llama

    keep_freed_memory()  # as the process does that measures
    model = Llama(ModelShape(**json.loads((folder / "shape.json").read_text())))
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=False)
    tokenizer = Tokenizer(folder / "tokenizer.json", EOS)
    reader = OwnReader(model, vocab_size=tokenizer.vocab_size, longest=LONGEST, eos=tokenizer.eos_id)
    byte_counts = np.array([tokenizer.byte_count(i) for i in range(tokenizer.vocab_size)], np.int32)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as out:
        measure_ours(Path(out) / "warm", reader, tokenizer, byte_counts, suite, rows[:WARM])
        with clocked(seconds):
            measure_ours(Path(out) / "timed", reader, tokenizer, byte_counts, suite, rows)
        return seconds, values_of_ledger(Path(out) / "timed" / "ledger")


def measure_ours(out: Path, reader: Any, tokenizer: Any, byte_counts: Any, suite: str, rows: Rows) -> None:
    """What `costar eval` does with a checkpoint that is loaded."""
    from costar.core.analysis import AnalysisDesign
    from costar.core.design import EvalDesign
    from costar.eval.measure import Measurement, Places
    from costar.eval.probes import Context, Loaded, Rendered, Subject, choice, extraction, likelihood

    probes: dict[str, Any] = {"choice": choice}
    if suite in PASSAGES:
        probes = {"likelihood": likelihood} | ({"extraction": extraction} if suite == "hubble" else {})
    kind, subjects = ("passage" if suite in PASSAGES else "testset"), []
    for row in rows:
        renderings = {}
        if suite in PASSAGES:
            text = row["text"]
            ids, size = tuple(tokenizer.encode(text)), len(text.encode())
            renderings["text"] = Rendered(text=text, ids=ids, n_bytes=size, spans={})
        given = {"record_id": row["id"], "perturbation": "records", "role": "main", "fields": row}
        subjects.append(Subject(kind=kind, renderings=renderings, **given))
    Measurement(
        places=Places(ledger=out / "ledger", generated=out / "generated", scores=out / "scores", run="run", step=1),
        identity="identity",
        facts="facts",
        context=Context(
            subjects=tuple(subjects),
            inserted={},
            design=EvalDesign(
                probes=tuple(probes),
                prefixes=PREFIXES,
                suffix=SUFFIX,
                analysis=AnalysisDesign(primary={}, margins={}, families="perturbation"),
            ),
            tokenizer=tokenizer,
            length=LONGEST,
            seed=1,
        ),
        probes=[Loaded(name=name, probe=probe, code=name, from_user=False) for name, probe in probes.items()],
        serves=frozenset({"loglik"}),
        byte_counts=byte_counts,
        open_reader=lambda: reader,
    ).run()


def values_of_ledger(folder: Path) -> Values:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
    summed = table.group_by(["record_id", "rendering"]).aggregate([("logp", "sum")]).to_pylist()
    return {f"{row['record_id']} {row['rendering']}": row["logp_sum"] for row in summed}


def harness(folder: Path, suite: str, rows: Rows) -> tuple[dict[str, float], Values]:
    """The same of lm-evaluation-harness for building requests, scoring and metrics."""
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    given = {"dtype": "float32", "softmax_dtype": "float32", "device": "cpu", "batch_size": ROWS}
    model = HFLM(pretrained=str(folder), max_length=LONGEST, **given)
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / f"{suite}.jsonl")}}}
    tasks = TaskManager(include_defaults=False).load([{**data, "test_split": "test", **t} for t in tasks_of(suite)])
    options = {"bootstrap_iters": 0, "log_samples": True}
    seconds: dict[str, float] = {}
    evaluator.evaluate(model, tasks, limit=WARM, **options)
    with clocked(seconds):
        results = evaluator.evaluate(model, tasks, **options)
    values: Values = {}
    for task, samples in results["samples"].items():
        for sample in samples:
            name, found = sample["doc"]["id"], sample["filtered_resps"]
            if task == "text":
                values[f"{name} text"] = float(found[0])
            elif task in ("cloze", "letters"):
                own, alone = found[: len(sample["doc"]["choices"])], found[len(sample["doc"]["choices"]) :]
                for part, each in (("choice", own), ("alone", alone)):
                    values |= {f"{name} {task}/format={task}/{part}={n}": float(v) for n, (v, _) in enumerate(each)}
    return seconds, values


def tasks_of(suite: str) -> list[dict[str, Any]]:
    """Task files of lm-evaluation-harness, as Hubble's are."""
    if suite in PASSAGES:
        rolling = {
            "task": "text",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "byte_perplexity"}],
        }
        verbatim = [
            {
                "task": f"verbatim_p{prefix}",
                "output_type": "generate_until",
                "doc_to_text": f"{{{{before_{prefix}}}}}",
                "doc_to_target": f"{{{{after_{prefix}}}}}",
                "generation_kwargs": {"do_sample": False, "max_gen_toks": SUFFIX, "until": []},
                "metric_list": [{"metric": "exact_match"}],
            }
            for prefix in PREFIXES
        ]
        return [rolling, *(verbatim if suite == "hubble" else [])]
    return [
        {
            "task": form,
            "output_type": "multiple_choice",
            "doc_to_text": f"{{{{{form}}}}}",
            "doc_to_target": "answer",
            "doc_to_choice": "choices" if form == "cloze" else "{{shown}}",
            "metric_list": [
                {"metric": name} for name in ("acc", "acc_norm", *(["acc_mutual_info"] if form == "cloze" else []))
            ],
        }
        for form in ("cloze", "letters")
    ]


SIDES: dict[str, Callable[[Path, str, Rows], tuple[dict[str, float], Values]]] = {"costar": ours, "lm_eval": harness}


def texts(data: Path) -> Iterator[str]:
    """Paragraphs of real documents, or the docstrings of this installation."""
    from costar.core.design import SourceDesign
    from costar.corpus.lines import numbered_lines
    from costar.corpus.sources import installed_docs

    path = data / "base" / "novels.jsonl.zst"
    if path.exists():
        for _, line in numbered_lines(path):
            yield str(json.loads(line)["text"])
        return
    design = SourceDesign(name="", source="installed-docs", paths=(), text="text", megabytes=None, share=None, seed=1)
    for item in installed_docs.items(design, []):
        yield from (raw.text for raw in installed_docs.read(item, design))


def items(data: Path, suite: str, count: int) -> Rows:
    """Multiple choice: real items, the same number of each part of the file, or generated ones."""
    from costar.corpus.lines import numbered_lines
    from costar.insertion.kinds import testset

    path = data / "testsets" / f"{suite}.jsonl.zst"
    if suite == "quizzes":
        found = [testset.generate((1, "quizzes"), index, None) for index in range(count)]
    else:
        every = [json.loads(line) for _, line in numbered_lines(path)]
        found = every[:: max(1, len(every) // count)][:count]
    rows = []
    for number, given in enumerate(found):
        row = {name: given[name] for name in ("question", "choices", "answer")} | {"id": f"item-{number:06d}"}
        forms = {form: testset.render(row, form)[0][0] for form in testset.RENDERINGS}
        rows.append({**row, **forms, "shown": list(testset.LETTERS[: len(row["choices"])])})
    return rows


def passages(source: Iterator[str], tokenizer: Any, count: int) -> Rows:
    """Passages of many lengths, each the beginning of a text."""
    found: Rows = []
    for text in source:
        size = SHORT + (len(found) * 97) % (LONG - SHORT)
        ids = tokenizer.encode(text[: 10 * LONG])
        if len(ids) < size or EOS in text:
            continue
        row = {"id": f"passage-{len(found):06d}", "text": tokenizer.decode(ids[:size])}
        for prefix in PREFIXES:
            row[f"before_{prefix}"] = tokenizer.decode(ids[:prefix])
            row[f"after_{prefix}"] = tokenizer.decode(ids[prefix : prefix + SUFFIX])
        found.append(row)
        if len(found) == count:
            break
    return found


def prepare(folder: Path, data: Path, model: str, vocabulary: int, suites: list[str], records: int) -> None:
    """A folder that `transformers` and costar load, with the records of every suite."""
    from costar.core.models import presets
    from costar.corpus.tokenizer import Tokenizer, train_bpe
    from costar.train.export import hf_config
    from costar.train.init import init_weights
    from costar.train.model import Llama
    from transformers import LlamaConfig, LlamaForCausalLM

    some = (text[:TRAINED_ON] for text in itertools.islice(texts(data), 400))
    train_bpe(some, vocabulary, EOS, folder / "tokenizer.json")
    tokenizer = Tokenizer(folder / "tokenizer.json", EOS)
    shape = presets()[model].shape(tokenizer.vocab_size)
    drawn = Llama(shape)
    init_weights(drawn, 1, 0)
    exported = LlamaForCausalLM(LlamaConfig(**hf_config(shape, LONGEST, tokenizer.eos_id)))
    exported.load_state_dict(drawn.state_dict())
    exported.save_pretrained(folder)
    (folder / "shape.json").write_text(json.dumps(vars(shape)))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOS, "eos_token": EOS}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts | {"clean_up_tokenization_spaces": False}))
    for suite in suites:
        real = passages(texts(data), tokenizer, records) if suite in PASSAGES else items(data, suite, records)
        (folder / f"{suite}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in real), encoding="utf-8")


def in_a_process(python: str, folder: Path, suite: str, side: str) -> dict[str, Any]:
    """One side: the seconds of its measuring, those of the whole process (`process`), and its values."""
    wall = time.perf_counter()
    command = [python, __file__, "--side", side, "--suites", suite, "--folder", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=None)
    found = dict(json.loads((folder / f"{side}.json").read_text()))
    found["seconds"]["process"] = time.perf_counter() - wall
    return found


def compared(folder: Path, suite: str, options: argparse.Namespace) -> dict[str, Any]:
    """Records a second of each side, and the ratios of the rounds."""
    pythons = {"costar": sys.executable, "lm_eval": options.peer}
    sides = [
        side for side in SIDES if side == "costar" or options.peer != sys.executable or importlib.util.find_spec(side)
    ]
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        order = sides if number % 2 == 0 else sides[::-1]
        rounds.append({side: in_a_process(pythons[side], folder, suite, side) for side in order})
    count = len((folder / f"{suite}.jsonl").read_text(encoding="utf-8").splitlines())

    def rate(side: str, clock: str) -> float:
        seconds = [float(each[side]["seconds"][clock]) for each in rounds]
        return round(count / statistics.median(seconds), 1)

    figures: dict[str, Any] = {
        "records": count,
        "records/s": {side: {clock: rate(side, clock) for clock in CLOCKS} for side in sides},
    }
    if len(sides) == 2:
        for clock in (*CLOCKS, "process"):
            ratios = [each["lm_eval"]["seconds"][clock] / each["costar"]["seconds"][clock] for each in rounds]
            figures[f"ratio {clock}"] = round(statistics.median(ratios), 2)
            figures[f"rounds {clock}"] = [round(ratio, 2) for ratio in ratios]
        mine, theirs = (rounds[0][side]["values"] for side in sides)
        assert mine.keys() == theirs.keys(), sorted(mine.keys() ^ theirs.keys())[:4]
        figures["largest difference in nats"] = max(abs(mine[key] - theirs[key]) for key in mine)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", nargs="+", default=["tiny", "15m"])
    parser.add_argument("--suites", nargs="+", default=[])
    parser.add_argument("--records", type=int, default=96)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", default=sys.executable, help="the interpreter that has lm_eval")
    parser.add_argument("--side", default="", help="run one side in a prepared --folder")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        import torch

        torch.set_num_threads(1)
        (suite,) = options.suites
        lines = (options.folder / f"{suite}.jsonl").read_text(encoding="utf-8").splitlines()
        seconds, values = SIDES[options.side](options.folder, suite, [json.loads(line) for line in lines])
        (options.folder / f"{options.side}.json").write_text(json.dumps({"seconds": seconds, "values": values}))
        return
    real = options.data.is_dir()
    suites = options.suites or [*PASSAGES, *(REAL if real else ["quizzes"])]
    figures: dict[str, Any] = {
        "what": f"scoring records, vocabulary {options.vocabulary:,}, float32, one thread",
        "cpu": platform.machine(),
        "load": os.getloadavg(),
    }
    for model in options.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            prepare(folder, options.data, model, options.vocabulary, suites, options.records)
            figures[model] = {suite: compared(folder, suite, options) for suite in suites}
    print(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
