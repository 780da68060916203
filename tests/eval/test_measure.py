"""One model measured again and again: what is missing or damaged is made again, and nothing else."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from costar.core.errors import CostarError
from costar.core.models import ModelShape
from costar.core.suite import load_suite
from costar.core.workspace import Workspace, output_lock
from costar.eval import measure
from costar.eval.loading import load_probe
from costar.eval.measure import Measurement, Places, measuring_code
from costar.eval.probes import NEEDED, READABLE, Context, Found, Gap, Loaded, Prompt, Request, Score
from costar.eval.queue import EvalQueue
from costar.eval.reader import OwnReader
from costar.eval.score import Measurer
from costar.train.config import read_config
from costar.train.init import init_weights
from costar.train.model import Llama

PROBES = ("likelihood", "extraction", "choice", "secret-rank", "relearning")


def asks(context: Context) -> Iterable[Prompt]:
    for subject in context.subjects:
        ids = subject.renderings[subject.canonical].ids
        yield Prompt(subject.record_id, subject.canonical, "prompt=half", ids[: len(ids) // 2], 4)


def told(context: Context, found: Found) -> Iterable[Score | Gap]:
    for prompt in asks(context):
        made = found.continuation(*prompt.key)
        place = prompt.key
        yield Gap(*place, made) if isinstance(made, str) else Score(*place, "length", float(len(made.ids)))


GENERATING: Any = SimpleNamespace(
    NEEDS=("generate",), KINDS=("password",), METRICS={"length": "tokens"}, SOURCE="a test", prompts=asks, scores=told
)


@dataclass
class Bench:
    """A small random model and a few records of the small suite, and a folder to measure into."""

    context: Context
    probes: dict[str, Loaded]
    folder: Path
    model: Llama
    suite: Path
    opened: list[int] = field(default_factory=list)

    def measure(self, names: Iterable[str], **changes: Any) -> None:
        def open_reader() -> OwnReader:
            self.opened.append(1)
            size = self.context.tokenizer.vocab_size
            return OwnReader(self.model, vocab_size=size, longest=128, eos=self.context.tokenizer.eos_id)

        places = [self.folder / name for name in ("ledger", "generated", "scores")]
        given = {
            "places": Places(ledger=places[0], generated=places[1], scores=places[2], run="a.nano.d0", step=8),
            "identity": "weights",
            "facts": "facts",
            "context": self.context,
            "probes": [self.probes[name] for name in names],
            "serves": frozenset({*NEEDED, *READABLE}),
            "byte_counts": np.ones(self.context.tokenizer.vocab_size, np.int32),
            "open_reader": open_reader,
        }
        Measurement(**(given | changes)).run()

    def contents(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in sorted(self.folder.rglob("*")) if p.is_file()}

    def rows(self, what: str, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = pq.read_table(
            self.folder / "scores" / f"{what}-000008.{name}.parquet"
        ).to_pylist()
        return found


@pytest.fixture
def bench(built: Path, tmp_path: Path) -> Bench:
    torch.set_num_threads(1)
    suite = load_suite(built / "suite.toml")
    whole = Measurer(suite, Workspace(built)).contexts.of_run("perturbed.nano.d0")
    some = [
        s for kind in ("passage", "testset", "password") for s in whole.subjects if (s.kind, s.role) == (kind, "main")
    ]
    chosen = [s for kind in ("passage", "testset", "password") for s in [x for x in some if x.kind == kind][:4]]
    model = Llama(ModelShape(layers=1, hidden=32, heads=2, kv_heads=2, ffn=48, vocab_size=512, tied=False))
    init_weights(model, 2, 0)
    probes = {name: load_probe(name, suite) for name in PROBES}
    probes["half"] = Loaded(name="half", probe=GENERATING, code="1", from_user=False)
    context = replace(whole, subjects=tuple(chosen))
    return Bench(context=context, probes=probes, folder=tmp_path / "m", model=model, suite=built / "suite.toml")


EVERY = (*PROBES, "half")


def test_what_is_missing_cut_or_damaged_is_made_again_with_the_same_bytes(bench: Bench) -> None:
    """A process killed at any moment leaves such a folder: markers are written last."""
    bench.measure(EVERY)
    whole = bench.contents()
    names = sorted(whole)
    chance = random.Random(1)
    for number in range(25):
        for name in chance.sample(names, 1 + number % 5):
            path = bench.folder / name
            data = whole[name]
            damage = chance.choice(("missing", "cut", "flipped"))
            if damage == "missing":
                path.unlink()
            elif damage == "cut":
                path.write_bytes(data[: len(data) // 2])
            else:
                at = chance.randrange(len(data))
                path.write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
        bench.measure(EVERY)
        assert bench.contents() == whole


def test_what_is_whole_loads_no_model_and_the_order_of_probes_does_not_matter(bench: Bench) -> None:
    bench.measure(EVERY)
    whole = bench.contents()
    opened = len(bench.opened)
    bench.measure(EVERY[::-1])
    bench.probes["likelihood"] = replace(bench.probes["likelihood"], code="edited")
    bench.measure(EVERY)
    assert len(bench.opened) == opened
    changed = {name for name, data in bench.contents().items() if data != whole[name]}
    assert changed == {"scores/stage-8.likelihood.json"}


def test_a_probe_that_is_dropped_leaves_nothing(bench: Bench) -> None:
    bench.measure(["likelihood"])
    alone = bench.contents()
    bench.measure(EVERY)
    assert len(bench.contents()) > len(alone)
    bench.measure(["likelihood"])
    left = bench.contents()
    assert left.pop("generated/stage.json")
    assert left == alone


def test_scores_follow_the_sequences_that_their_probe_reads(bench: Bench) -> None:
    bench.measure(["likelihood", "choice"])
    before = bench.contents()

    def more(context: Context) -> Iterable[Request]:
        for subject in context.subjects:
            yield Request(subject.record_id, f"{subject.canonical}/2", subject.renderings[subject.canonical].ids[:-1])

    extra: Any = SimpleNamespace(
        NEEDS=("loglik",), KINDS=("passage",), METRICS={}, SOURCE="", requests=more, scores=lambda context, found: []
    )
    bench.probes["extra"] = Loaded(name="extra", probe=extra, code="1", from_user=False)
    bench.measure(["likelihood", "choice", "extra"])  # the block of passages has more sequences now
    after = bench.contents()
    changed = {name for name in before if before[name] != after[name]}
    assert "ledger/passages.text.eos.parquet" in changed
    assert "scores/stage-8.likelihood.json" in changed
    assert "scores/stage-8.choice.json" not in changed


@pytest.mark.parametrize("probe", [*PROBES, "membership", "site", "half"])
def test_a_probe_sees_the_records_of_its_kinds_and_the_readers_that_it_declares(bench: Bench, probe: str) -> None:
    loaded = bench.probes.get(probe) or load_probe(probe, load_suite(bench.suite))
    declared = ("sites", "levels", "counts")
    seen: list[Context] = []

    def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
        seen.append(context)
        return []

    shown: Any = SimpleNamespace(**{**vars(loaded.probe), "scores": scores})
    list(replace(loaded, probe=shown).scores(bench.context, Found(ledger={})))
    kinds = loaded.probe.KINDS or ("passage", "testset", "password")
    assert seen[0].subjects == tuple(s for s in bench.context.subjects if s.kind in kinds)
    for name in declared:
        if name in loaded.reads:
            assert len(getattr(seen[0], name)()) > 0
        else:
            with pytest.raises(AssertionError, match=f"reads {name}, which is not in its READS"):
                getattr(seen[0], name)()


def test_a_ledger_of_other_weights_or_of_another_tokenizer_is_not_read(bench: Bench) -> None:
    bench.measure(["likelihood"])
    first = {row["metric"]: row["value"] for row in bench.rows("step", "likelihood")}
    bench.measure(["likelihood"], byte_counts=np.full(bench.context.tokenizer.vocab_size, 2, np.int32))
    second = {row["metric"]: row["value"] for row in bench.rows("step", "likelihood")}
    assert second["nll_token"] == first["nll_token"]
    assert len(bench.opened) == 2
    bench.measure(["likelihood"], identity="others")
    assert len(bench.opened) == 3


def test_ledgers_and_continuations_follow_the_code_that_makes_them(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is made again when its hash is another, and a change in any file of theirs makes it another."""
    bench.measure(("likelihood", "half"))
    bench.measure(("likelihood", "half"))
    assert len(bench.opened) == 1
    folder = tmp_path / "code"
    shutil.copytree(Path(measure.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    hashes = [measuring_code(), measuring_code(folder)]
    assert len(set(hashes)) == 1
    for name in ("generate", "ledger", "packing", "reader", "windows"):
        with (folder / f"{name}.py").open("a") as file:
            file.write("# changed\n")
        hashes.append(measuring_code.__wrapped__(folder))
    assert len(set(hashes)) == 6
    monkeypatch.setattr(measure, "measuring_code", lambda: hashes[-1])
    for name in ("likelihood", "half"):
        bench.measure((name,))
    assert len(bench.opened) == 3


def test_weights_that_are_no_numbers_make_every_measurement_a_gap(bench: Bench) -> None:
    with torch.no_grad():
        bench.model.model.norm.weight[3] = torch.nan
    bench.measure(EVERY)
    for name in EVERY:
        assert bench.rows("step", name) == []
        assert {row["reason"] for row in bench.rows("gaps", name)} <= {
            "logits that are not numbers (NaN or infinite)",
            "weights that are not numbers (NaN or infinite)",
        }
        assert bench.rows("gaps", name)
    kept = bench.contents()
    opened = len(bench.opened)
    bench.measure(EVERY)
    assert (bench.contents(), len(bench.opened)) == (kept, opened)


def test_texts_beyond_the_context_or_of_another_vocabulary_are_gaps_and_the_rest_is_measured(bench: Bench) -> None:
    ids = {s.record_id: s.renderings[s.canonical].ids for s in bench.context.subjects}
    bench.measure(["choice", "half"], context=replace(bench.context, length=12))
    assert {row["reason"].split(",")[1] for row in bench.rows("gaps", "choice")} == {" the model reads at most 12"}
    bench.measure(["extraction"], byte_counts=np.ones(300, np.int32))
    foreign = {record_id for record_id, tokens in ids.items() if max(tokens) >= 300}
    assert len(foreign) > 0
    gaps = {row["record_id"]: row["reason"] for row in bench.rows("gaps", "extraction")}
    assert set(gaps) == foreign
    assert all("of another tokenizer" in reason for reason in gaps.values())
    assert {row["record_id"] for row in bench.rows("step", "extraction")} == set(ids) - foreign


def test_an_empty_continuation_is_a_gap(bench: Bench) -> None:
    def empty(context: Context) -> Iterable[Request]:
        for subject in context.subjects:
            ids = subject.renderings[subject.canonical].ids
            yield Request(subject.record_id, "text/empty", ids, start=len(ids))

    def scores(context: Context, found: Found) -> Iterable[Gap]:
        for request in empty(context):
            yield Gap(request.record_id, request.rendering, "", str(found.tokens(*request.key)))

    probe: Any = SimpleNamespace(
        NEEDS=("loglik",), KINDS=("passage",), METRICS={}, SOURCE="", requests=empty, scores=scores
    )
    bench.probes["empty"] = Loaded(name="empty", probe=probe, code="1", from_user=False)
    bench.measure(["empty"])
    assert [row["reason"] for row in bench.rows("gaps", "empty")] == ["nothing to score: an empty continuation"] * 4
    assert not bench.opened


def test_a_probe_that_the_model_cannot_serve_is_one_gap_until_it_can(bench: Bench) -> None:
    bench.measure(["likelihood", "relearning", "secret-rank"], serves=frozenset({"loglik", "weights", *READABLE}))
    (gap,) = bench.rows("gaps", "relearning")
    assert gap["reason"] == "the probe needs gradients, which this model does not give"
    assert bench.rows("gaps", "secret-rank") == []
    bench.measure(["likelihood", "relearning", "secret-rank"])
    assert bench.rows("gaps", "relearning") == []
    assert bench.rows("step", "relearning")


def test_a_second_process_is_told_of_the_first_and_a_target_is_handed_out_once(built_copy: Path) -> None:
    workspace, suite = Workspace(built_copy), load_suite(built_copy / "suite.toml")
    run = "early.nano.d0"
    next(workspace.scores(run).glob("stage-48.json")).unlink()
    measurer = Measurer(suite, workspace)
    with (
        output_lock(workspace.ledger(run, 48), "eval early"),
        pytest.raises(CostarError, match="being written by costar eval early"),
    ):
        measurer.measure(read_config(workspace, run), 48)
    queue = EvalQueue(measurer, runs=[run])
    assert queue.pending() == [f"{run}:48"]
    job = queue.next_job(frozenset(), 1)
    assert job is not None
    assert job.arguments == (str(built_copy), f"{run}:48")
    assert queue.next_job(frozenset(), 1) is None  # still pending, whatever became of it: no endless loop


def test_polling_looks_at_a_measured_checkpoint_once_and_a_new_command_sees_what_changed(built_copy: Path) -> None:
    torch.set_num_threads(1)
    workspace, suite = Workspace(built_copy), load_suite(built_copy / "suite.toml")
    config = read_config(workspace, "early.nano.d0")

    def pending() -> list[str]:
        return EvalQueue(Measurer(suite, workspace), runs=[config.run]).pending()

    queue = EvalQueue(Measurer(suite, workspace), runs=[config.run])
    assert queue.pending() == []
    block = next(workspace.ledger(config.run, 48).glob("*.parquet"))
    data = block.read_bytes()
    block.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert queue.pending() == []  # found measured: not hashed again
    assert pending() == [f"{config.run}:48"]
    Measurer(suite, workspace).measure(config, 48)
    assert pending() == []
    assert block.read_bytes() == data
    for path in workspace.ledger(config.run, 48).iterdir():
        path.unlink()
    assert pending() == [f"{config.run}:48"]  # a ledger that is gone is missed
