from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from costar.core.hashing import keyed_hash
from costar.corpus.duplicates import NEAR, Signature, near_duplicates, repeated, unit_digests
from costar.corpus.executors import Backend, run_tasks
from costar.corpus.regex_words import RegexWords
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from hypothesis import given
from hypothesis import strategies as st

from tests.steps import Texts, share

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = st.lists(st.lists(st.sampled_from([0, 1, 5, 2**63, 2**63 + 1, 2**64 - 1]) | st.integers(0, 2**64 - 1)))


def plainly(shards: Sequence[Sequence[int]]) -> list[list[bool]]:
    """What `repeated` must find, by a set."""
    seen: set[int] = set()
    return [[value in seen or bool(seen.add(value)) for value in shard] for shard in shards]


def saved(folder: Path, shards: Sequence[Any]) -> list[Path]:
    paths = [folder / f"{number}.npy" for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        np.save(path, np.array(shard, np.uint64))
    return paths


@given(shards=DIGESTS, bucket=st.sampled_from([1, 2, 3, 7, 1 << 24]))
def test_repeated_finds_what_a_set_finds_whatever_the_size_of_its_buckets(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], bucket: int
) -> None:
    paths = saved(tmp_path_factory.mktemp("digests"), shards)
    assert [found.tolist() for found in repeated(paths, bucket)] == plainly(shards)


def test_one_digest_that_fills_a_corpus_is_found_everywhere_but_first(tmp_path: Path) -> None:
    """Empty lines are the commonest paragraph: all are in one bucket."""
    shards = [[7] * 1000, [9, 7], [7] * 1000]
    assert [found.tolist() for found in repeated(saved(tmp_path, shards), 16)] == plainly(shards)


def test_digests_of_another_kind_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "signed.npy", np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="not uint64"):
        repeated([tmp_path / "signed.npy"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_the_digest_of_a_unit_is_its_keyed_hash_without_outer_space(texts: list[str]) -> None:
    assert unit_digests(texts).tolist() == [keyed_hash("paragraph", text.strip()) for text in texts]


def test_a_planted_paragraph_is_found_among_real_ones(shared_data: Path, tmp_path: Path) -> None:
    shards = [text.split("\n") for text in real(shared_data)[:40]]
    shards[30].insert(2, "  " + shards[3][1] + "\r")
    found = repeated(saved(tmp_path, [unit_digests(shard) for shard in shards]))
    assert found[30][2]
    seen = [line.strip() for shard in shards for line in shard]
    assert sum(map(np.count_nonzero, found)) == len(seen) - len(set(seen))


def real(folder: Path) -> list[str]:
    """Real articles of two thousand words."""
    with (folder / "base" / "brown.jsonl.zst").open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
        return [json.loads(line)["text"] for line in lines]


def changed(text: str, share: float, seed: int) -> str:
    """The text with a share of its words, drawn at random, replaced by others of its own."""
    words, draw = text.split(" "), random.Random(seed)
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = draw.choice(words) + "x"
    return " ".join(words)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker processes find the steps of the tests wherever pytest was started."""
    given = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), given] if given else [str(ROOT)]))


def runner(folder: Path, workers: int = 1) -> Callable[[Sequence[PipelineStep], int, str], None]:
    def run(pipeline: Sequence[PipelineStep], tasks: int, name: str) -> None:
        backend = Backend(workers=workers, inline=workers == 1)
        run_tasks(pipeline, tasks=tasks, folder=folder / "tasks" / name, name=name, backend=backend)

    return run


def dropped(texts: Sequence[str], tasks: int, folder: Path, workers: int = 1) -> list[int]:
    """The numbers of the texts that `near_duplicates` drops."""
    found = near_duplicates(Texts(texts), tasks=tasks, folder=folder, run=runner(folder, workers))
    assert len(found) == tasks
    assert all((np.diff(each) > 0).all() for each in found)
    firsts = [share(len(texts), rank, tasks)[0] for rank in range(tasks)]
    return sorted(first + int(place) for first, each in zip(firsts, found, strict=True) for place in each)


def planted(shared_data: Path) -> tuple[list[str], list[int]]:
    """Sixty real articles with six near copies among them, and the numbers of those to drop."""
    texts = real(shared_data)[:60]
    texts[50] = changed(texts[3], 0.01, 1)
    texts[7] = changed(texts[20], 0.01, 2)  # so the copy stands first: 20 goes
    texts[41], texts[42] = changed(texts[11], 0.01, 3), changed(texts[11], 0.01, 4)
    texts[59] = texts[0]
    texts[31] = texts[30].upper().replace(" ", "\n")
    texts[5] = "too short"
    texts[6] = "too short"
    return texts, [20, 31, 41, 42, 50, 59]


@pytest.mark.parametrize(("tasks", "workers"), [(1, 1), (3, 1), (7, 1), (7, 2)])
def test_of_near_copies_the_first_stays_whatever_the_tasks_and_workers(
    shared_data: Path, tmp_path: Path, tasks: int, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    texts, expected = planted(shared_data)
    assert dropped(texts, tasks, tmp_path, workers) == expected
    assert capfd.readouterr() == ("", "")  # what people read goes through the console


def test_the_first_stays_where_datatrove_keeps_another(shared_data: Path, tmp_path: Path) -> None:
    """Copies that are alike in few places join a large cluster late, so that its middle is not its first."""
    texts = real(shared_data)[:6]
    copies = [changed(texts[0], 0.02 * number, number) for number in (2, 1, 0, 1, 2)]
    found = [dropped([*copies, *texts[1:]], tasks, tmp_path / str(tasks)) for tasks in (1, 3, 7)]
    assert found[0] == found[1] == found[2]
    assert 0 not in found[0]
    removed = (tmp_path / "1" / "clusters" / "000000.remove").read_bytes()
    assert sorted(np.frombuffer(removed, "<u4").tolist()) != found[0]  # else this test shows nothing


def test_real_articles_are_not_taken_for_copies(shared_data: Path, tmp_path: Path) -> None:
    assert dropped(real(shared_data)[100:200], 4, tmp_path) == []


def test_copies_are_found_as_often_as_their_similarity_says(shared_data: Path, tmp_path: Path) -> None:
    """With 5 % of words drawn at random and changed, 77 % of 5-grams stay, similarity is near 0.63 and 30 % are
    found; with 5 % changed in one passage nearly all are."""
    texts = [text[:6000] for text in real(shared_data)[200:260]]
    scattered = [changed(text, 0.05, number) for number, text in enumerate(texts)]
    found = dropped([*texts, *scattered], 3, tmp_path / "scattered")
    assert all(place >= len(texts) for place in found)
    chance = [1 - (1 - jaccard(a, b) ** 8) ** 14 for a, b in zip(texts, scattered, strict=True)]
    spread = sum(p * (1 - p) for p in chance) ** 0.5
    assert abs(len(found) - sum(chance)) < 4 * spread
    together = [text[:5700] + other[:300] for text, other in zip(texts, texts[::-1], strict=True)]
    assert len(dropped([*texts, *together], 3, tmp_path / "together")) >= 0.95 * len(texts)


def jaccard(first: str, second: str) -> float:
    step = MinhashDedupSignature(".", config=MinhashConfig(**NEAR), language=RegexWords())
    a, b = (set(step.get_shingles(text).ravel().tolist()) for text in (first, second))
    return len(a & b) / len(a | b)


def test_no_documents_no_words_and_tasks_without_documents_are_no_trouble(tmp_path: Path) -> None:
    assert dropped([], 2, tmp_path / "none") == []
    assert dropped(["", "one two", "the same six words again here", "the same six words again here"], 7, tmp_path) == [
        3
    ]


def test_a_run_that_was_cut_short_gives_the_same_when_it_goes_on(shared_data: Path, tmp_path: Path) -> None:
    texts, expected = planted(shared_data)
    whole = runner(tmp_path)

    def cut(at: str) -> Callable[[Sequence[PipelineStep], int, str], None]:
        def run(pipeline: Sequence[PipelineStep], tasks: int, name: str) -> None:
            whole(pipeline, tasks, name)
            if name == at:
                (tmp_path / "tasks" / name / "log" / "completions" / "00000").unlink()
                raise KeyboardInterrupt

        return run

    for stage in ("near-signatures", "near-pairs", "near-clusters"):
        with pytest.raises(KeyboardInterrupt):
            near_duplicates(Texts(texts), tasks=3, folder=tmp_path, run=cut(stage))
    assert dropped(texts, 3, tmp_path) == expected


def test_a_long_document_has_the_signature_that_datatrove_gives_it(shared_data: Path, tmp_path: Path) -> None:
    long = " ".join(real(shared_data)[:6])
    ours = Signature(str(tmp_path), config=MinhashConfig(**NEAR), language=RegexWords())
    theirs = MinhashDedupSignature(str(tmp_path), config=MinhashConfig(**NEAR), language=RegexWords())
    shingles = theirs.get_shingles(long)
    assert len(shingles) > 8192
    assert ours.get_signature(shingles) == theirs.get_signature(shingles)
