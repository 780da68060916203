from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from costar.core.errors import CostarError
from costar.corpus.neox import NeoxIndex, build_sample_index, index_stem, save_index
from costar.corpus.store import TokenStore, document_starts, write_bin, write_idx
from costar.insertion.hubble import DamagedCopy, PerturbedCorpus, read_slot, rebuild_hubble
from costar.insertion.hubble_log import open_pools, read_log
from costar.insertion.materialize import materialize, read_edit_list, write_edit_list
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.small import costar

EOS = 0
U16 = np.dtype(np.uint16)


def write_pair(prefix: Path, documents: list[list[int]]) -> None:
    part = prefix.with_suffix(".part")
    part.write_bytes(np.array([token for document in documents for token in document], U16).tobytes())
    write_bin(prefix.with_name(prefix.name + ".bin"), [part], part.stat().st_size)
    write_idx(prefix.with_name(prefix.name + ".idx"), np.array([len(d) for d in documents], np.int32), U16)
    part.unlink()


@dataclass(frozen=True)
class World:
    """A base, its index and pools on disk, and Hubble's loop over a copy of the base: the truth."""

    folder: Path
    length: int

    @property
    def log(self) -> Path:
        return self.folder / "perturbed_perturbation_info.json"

    def rebuild(self) -> PerturbedCorpus:
        copies = read_log(self.log)
        base = TokenStore.open_prefix(self.folder / "base", mend="")
        return rebuild_hubble(base, self.index(), open_pools(self.folder / "pools", copies.names), copies)

    def index(self) -> NeoxIndex:
        return NeoxIndex.open(self.folder / "base", TokenStore.open_prefix(self.folder / "base", mend="").starts)


def make_world(
    folder: Path, generator: np.random.Generator, *, length: int, documents: int, copies: int, epochs: int = 1
) -> World:
    (folder / "pools").mkdir(parents=True)
    sizes = generator.integers(1, 2 * length, documents)
    write_pair(folder / "base", [[*generator.integers(1, 1000, n - 1).tolist(), EOS] for n in sizes])
    doc_idx = np.concatenate([np.arange(documents)] * epochs).astype(np.int32)
    generator.shuffle(doc_idx)
    table = build_sample_index(sizes.astype(np.int32), doc_idx, length)
    shuffle = generator.permutation(len(table) - 1).astype(np.uint32)
    starts = document_starts(sizes.astype(np.int32))
    index = NeoxIndex(doc_idx=doc_idx, sample_idx=table, shuffle_idx=shuffle, starts=starts, length=length)
    save_index(index_stem(folder / "base", slots=copies, length=length, seed=1234), index, slots=0)
    copies = min(copies, index.samples)
    for name, number in (("privacy", copies // 2), ("testset", copies - copies // 2)):
        lengths = generator.integers(1, length + 1, number)
        # ids of records differ from those of the base, so that damage always shows
        write_pair(folder / "pools" / name, [[*generator.integers(2000, 9000, n - 1).tolist(), 1500] for n in lengths])
    return World(folder, length)


def run_hubble(world: World, generator: np.random.Generator, *, mode: str = "seq_shuffle") -> list[DamagedCopy]:
    """Steps 3 to 7 as they are described: distinct slots, a window read, spliced, cropped, written back in place.

    Reads the files with nothing but open, seek and numpy; leaves `perturbed.bin` and the log; returns the damage.
    """
    folder, width = world.folder, world.length + 1
    shutil.copy(folder / "base.bin", folder / "perturbed.bin")
    tables = [np.load(next(folder.glob(f"*_{name}_idx.npy"))) for name in ("doc", "sample", "shuffle")]
    doc_idx, sample_idx, shuffle_idx = (table.tolist() for table in tables)
    pools: dict[str, list[list[int]]] = {}
    for path in sorted((folder / "pools").glob("*.bin")):
        data, ends = np.fromfile(path, U16), np.cumsum(idx_sizes(path.with_suffix(".idx")))
        pools[path.stem] = [data[end - size : end].tolist() for end, size in zip(ends, np.diff(ends, prepend=0))]
    total = sum(len(pool) for pool in pools.values())
    slots = generator.choice(len(sample_idx) - 1, total, replace=False).tolist()
    document_sizes = idx_sizes(folder / "base.idx").tolist()
    document_begins = (np.cumsum(document_sizes) - document_sizes).tolist()
    lines, placed = [], []
    with (folder / "perturbed.bin").open("r+b") as file:
        for name, pool in pools.items():
            for number, record in enumerate(pool):
                slot = slots.pop(0)
                sample = shuffle_idx[slot]
                (doc_f, offset_f), (doc_l, offset_l) = sample_idx[sample], sample_idx[sample + 1]
                places = []  # (token offset, tokens) of each segment
                for place in range(doc_f, doc_l + 1):
                    document = doc_idx[place]
                    begin = offset_f if place == doc_f else 0
                    end = offset_l + 1 if place == doc_l else document_sizes[document]
                    places.append((document_begins[document] + begin, end - begin))
                segments = []
                for begin, size in places:
                    file.seek(begin * 2)
                    segments.append(np.frombuffer(file.read(size * 2), U16).tolist())
                details: dict[str, Any] = {
                    "perturbation_file": name,
                    "perturbation_idx": number,
                    "pt_loc": slot,
                    "pt_shuffle_idx": sample,
                    "doc_index_f": doc_f,
                    "doc_index_l": doc_l,
                    "offset_f": offset_f,
                    "offset_l": offset_l,
                }
                if mode == "seq_shuffle":
                    k = int(generator.integers(len(segments)))
                    crop = int(generator.integers(len(record))) if k else 0
                    before = sum(len(segment) for segment in segments[:k])
                    if k:
                        crop = min(crop, before)
                        crop = max(crop, before + len(record) - width)
                    segments.insert(k, record)
                    new = [token for segment in segments for token in segment][crop : crop + width]
                    at = before - crop
                    details |= {
                        "pt_injection_pos": k,
                        "pt_window_offset": crop,
                        "pt_injection_len": len(record),
                        "orig_doc_seq_sizes": [size for _, size in places],
                    }
                else:
                    new, at = record, 0
                assert new[at : at + len(record)] == record
                lines.append(json.dumps(details))
                left = list(new)
                for begin, size in places:
                    now, left = left[:size], left[size:]
                    file.seek(begin * 2)
                    file.write(np.array(now, U16).tobytes())
                assert not left
                absolute = [begin + i for begin, size in places for i in range(size)]
                placed.append((name, number, slot, record, absolute[at : at + len(record)]))
    world.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    final = np.fromfile(folder / "perturbed.bin", U16).tolist()
    damaged = []
    for name, number, slot, record, absolute in placed:
        lost = tuple(i for i, (token, place) in enumerate(zip(record, absolute, strict=True)) if final[place] != token)
        if lost:
            damaged.append(DamagedCopy(pool=name, index=number, slot=slot, tokens=lost))
    return damaged


def idx_sizes(path: Path) -> np.ndarray:
    data = path.read_bytes()
    return np.frombuffer(data, "<i4", int.from_bytes(data[18:26], "little"), 34)


def check_rebuild(world: World, damaged: list[DamagedCopy]) -> PerturbedCorpus:
    """The rebuilt corpus is the one in `perturbed.bin`, by bytes, by windows, by damage; the base is as it was."""
    base = TokenStore.open_prefix(world.folder / "base", mend="")
    before = (world.folder / "base.bin").read_bytes()
    rebuilt = world.rebuild()
    assert list(rebuilt.damaged) == damaged
    materialize(world.folder / "base.bin", rebuilt.edits, world.folder / "again.bin")
    assert (world.folder / "again.bin").read_bytes() == (world.folder / "perturbed.bin").read_bytes()
    assert (world.folder / "base.bin").read_bytes() == before
    index, final = world.index(), np.fromfile(world.folder / "perturbed.bin", U16)
    for slot in range(0, index.samples, 7):
        assert np.array_equal(read_slot(base.tokens, rebuilt.edits, index, slot), index.window(final, slot))
    return rebuilt


@pytest.mark.parametrize("mode", ["seq_shuffle", "seq_start"])
def test_a_dense_corpus_is_rebuilt_byte_for_byte_with_its_damage(tmp_path: Path, mode: str) -> None:
    generator = np.random.default_rng(3)
    world = make_world(tmp_path, generator, length=32, documents=400, copies=250)
    damaged = run_hubble(world, generator, mode=mode)
    rebuilt = check_rebuild(world, damaged)
    # a record at the start of its window ends before the token that the next window shares
    assert len(damaged) >= 3 if mode == "seq_shuffle" else not damaged
    assert rebuilt.copies == 250
    assert len(rebuilt.edits.begins) > 250  # windows are made of pieces that lie apart


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 40),
    st.integers(2, 60),
    st.integers(1, 80),
    st.sampled_from([1, 1, 2]),
    st.sampled_from(["seq_shuffle", "seq_shuffle", "seq_start"]),
)
def test_any_corpus_is_rebuilt_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    length: int,
    documents: int,
    copies: int,
    epochs: int,
    mode: str,
) -> None:
    """With two epochs windows share more than one token, and a window may hold the same tokens twice."""
    generator = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("world")
    world = make_world(folder / "w", generator, length=length, documents=documents, copies=copies, epochs=epochs)
    if world.index().samples == 0:
        return
    check_rebuild(world, run_hubble(world, generator, mode=mode))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    generator = np.random.default_rng(8)
    world = make_world(tmp_path_factory.mktemp("w") / "w", generator, length=16, documents=120, copies=40)
    run_hubble(world, generator)
    return world


@pytest.fixture
def world(finished: World, tmp_path: Path) -> World:
    """A perturbed corpus of its own, to damage."""
    shutil.copytree(finished.folder, tmp_path / "w")
    return World(tmp_path / "w", finished.length)


def entries(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.log.read_text(encoding="utf-8").splitlines()]


def rewrite(world: World, changed: list[dict[str, Any]]) -> None:
    world.log.write_text("".join(json.dumps(entry) + "\n" for entry in changed), encoding="utf-8")


def test_what_can_be_computed_may_be_missing(world: World) -> None:
    whole = world.rebuild()
    keep = ("perturbation_file", "perturbation_idx", "pt_loc", "pt_injection_pos", "pt_window_offset")
    short = [{key: entry[key] for key in keep} for entry in entries(world)]
    for entry in short:
        if entry["pt_injection_pos"] == 0:
            del entry["pt_window_offset"]
    rewrite(world, short)
    assert world.rebuild().edits.sha256() == whole.edits.sha256()


def test_the_edits_of_a_rebuilt_corpus_are_kept_whole(world: World) -> None:
    edits = world.rebuild().edits
    assert read_edit_list(write_edit_list(world.folder / "edits.parquet", edits)).sha256() == edits.sha256()


def test_the_command_leaves_the_edits_the_damage_and_the_stream(world: World) -> None:
    arguments = ["base", "--index", ".", "--log", world.log.name, "--pools", "pools", "--out", "out", "--materialize"]
    done = costar(world.folder, "rebuild", *arguments)
    expected = world.rebuild()
    assert f"{expected.copies} copies" in done.stdout
    assert (world.folder / "out" / "perturbed.bin").read_bytes() == (world.folder / "perturbed.bin").read_bytes()
    assert read_edit_list(world.folder / "out" / "edits.parquet").sha256() == expected.edits.sha256()
    damaged = pq.read_table(world.folder / "out" / "damaged.parquet").to_pylist()
    assert [(row["pool"], row["index"], row["tokens"]) for row in damaged] == [
        (each.pool, each.index, list(each.tokens)) for each in expected.damaged
    ]
    wrong = costar(world.folder, "rebuild", "absent", *arguments[1:], check=False)
    assert wrong.returncode == 2
    assert "absent.idx" in wrong.stderr


def test_an_empty_log_is_the_base(world: World) -> None:
    world.log.write_text("", encoding="utf-8")
    rebuilt = world.rebuild()
    assert (rebuilt.copies, len(rebuilt.edits.begins), rebuilt.damaged) == (0, 0, ())


def deep(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """A copy that was put before a later segment."""
    return next(entry for entry in entries if entry["pt_injection_pos"] > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[4].pop("pt_loc"), r"info.json:5\n  found     no pt_loc"),
        (lambda e: e[4].update(pt_loc=-3), r"info.json:5\n  found     pt_loc = -3"),
        (lambda e: e[4].update(pt_loc="3"), r"info.json:5\n  found     pt_loc = 3"),
        (lambda e: e[4].update(pt_loc=10**6), r"info.json:5\n  found     pt_loc 1,000,000"),
        (lambda e: e[4].update(pt_loc=e[2]["pt_loc"]), r"info.json:5\n  found     pt_loc .*, which line 3 has already"),
        (lambda e: e.append(e[6]), r"info.json:41\n  found     .*, which line 7 has already"),
        (lambda e: e[4].update(pt_shuffle_idx=e[4]["pt_shuffle_idx"] + 1), r"info.json:5\n  found     pt_shuffle_idx"),
        (lambda e: e[4].update(offset_l=e[4]["offset_l"] + 1), r"info.json:5\n  found     offset_l"),
        (lambda e: e[4].update(doc_index_f=e[4]["doc_index_f"] + 1), r"info.json:5\n  found     doc_index_f"),
        (lambda e: e[4].update(perturbation_idx=99), r"info.json:5\n  found     perturbation_idx 99"),
        (lambda e: e[4].update(pt_injection_len=99), r"info.json:5\n  found     pt_injection_len 99"),
        (
            lambda e: e[4].update(pt_injection_pos=50, pt_window_offset=0),
            r"info.json:5\n  found     pt_injection_pos 50",
        ),
        (lambda e: e[4].update(orig_doc_seq_sizes=[17] * 9), r"info.json:5\n  found     segments 9"),
        (lambda e: e[4]["orig_doc_seq_sizes"].__setitem__(0, 1000), r"info.json:5\n  found     a segment of 1,000"),
        (lambda e: e[4].update(orig_doc_seq_sizes="x"), r"info.json:5\n  found     orig_doc_seq_sizes"),
        (lambda e: deep(e).update(pt_window_offset=999), "keeps the whole record"),
        (lambda e: deep(e).pop("pt_window_offset"), "pt_injection_pos above 0 alone"),
        (lambda e: e[4].update(perturbation_file="else"), r"else.idx\n  found     no such file"),
    ],
)
def test_a_contradiction_is_named_by_file_and_line(
    world: World, change: Callable[[list[dict[str, Any]]], object], message: str
) -> None:
    changed = entries(world)
    change(changed)
    rewrite(world, changed)
    with pytest.raises(CostarError, match=message):
        world.rebuild()


def test_a_line_cut_short_and_a_missing_log_are_named(world: World) -> None:
    text = world.log.read_text(encoding="utf-8")
    world.log.write_text(text[:-40], encoding="utf-8")
    with pytest.raises(CostarError, match=r"info.json:40\n"):
        world.rebuild()
    world.log.unlink()
    with pytest.raises(CostarError, match="No such file"):
        world.rebuild()


def test_a_pool_of_another_token_type_is_refused(world: World) -> None:
    copies = read_log(world.log)
    pools = open_pools(world.folder / "pools", copies.names)
    pools["testset"] = TokenStore(pools["testset"].tokens.astype(np.int32), pools["testset"].sizes)
    base = TokenStore.open_prefix(world.folder / "base", mend="")
    with pytest.raises(CostarError, match="pool 'testset' of int32"):
        rebuild_hubble(base, world.index(), pools, copies)
    del pools["testset"]
    with pytest.raises(CostarError, match="pool 'testset'\n  expected  one of privacy"):
        rebuild_hubble(base, world.index(), pools, copies)
