"""One perturbed corpus: Hubble's way (copy the .bin, rewrite windows in place) against costar's, in seconds.

    python bench/anchor.py --folder /scratch [--tokens 1_000_000_000] [--length 2048] [--share 0.0167] [--rounds 3]

A synthetic base (random ids, documents of 200 to 2,000 tokens, read in shuffled order) is made in a temporary folder of
`--folder`. Hubble's way: the whole .bin is copied, then each copy's window of L + 1 tokens is read, spliced, cropped and
written back segment by segment, with one line of output, and the log is written at the end. Against it: costar's edits
made and kept (overlay), the stream written out in one pass (materialize), and Hubble's own corpus rebuilt from its log
(rebuild), whose bytes are compared. Every way ends with its files synced; the edit
loops alone ("edit loop") are compared before that. Needs twice the disk of the base (2 bytes a
token) and about the memory of the touched windows. Rounds alternate in order; JSON is printed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from costar.core.design import Suite
from costar.core.hashing import sha256_file
from costar.core.parquet import write_table
from costar.core.suite import load_suite
from costar.corpus.neox import NeoxIndex, build_sample_index
from costar.corpus.store import TokenStore, document_starts, write_idx
from costar.corpus.windows import StoreWindows
from costar.insertion.build import Planner
from costar.insertion.hubble import rebuild_hubble
from costar.insertion.materialize import EditList, list_edits, materialize, write_edits
from costar.insertion.order import FeistelOrder
from costar.insertion.overlay import read_edits
from costar.manifests.tables import RECORDS
from numpy.typing import NDArray

EOS = 0
U16 = np.dtype(np.uint16)
CHUNK = 1 << 25
POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The base, NeoX's order over it, the records to insert, and where: the same for every way."""

    folder: Path
    base: TokenStore
    index: NeoxIndex
    pool: TokenStore
    slots: NDArray[np.int64]

    @property
    def record_starts(self) -> NDArray[np.int64]:
        return document_starts(self.pool.sizes)


def make_bench(folder: Path, tokens: int, length: int, share: float) -> Bench:
    """Write the base chunk by chunk; draw order, records of 40 to 156 tokens, and slots for a share of all windows."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(200, 2_001, max(2, tokens // 1_100)).astype(np.int32)
    ends = np.cumsum(sizes, dtype=np.int64) - 1
    with (folder / "base.bin").open("wb") as file:
        for begin in range(0, int(ends[-1]) + 1, CHUNK):
            block = generator.integers(1, 50_000, min(CHUNK, int(ends[-1]) + 1 - begin), dtype=np.uint16)
            first, last = np.searchsorted(ends, (begin, begin + len(block)))
            block[ends[first:last] - begin] = EOS
            file.write(block.data)
    write_idx(folder / "base.idx", sizes, U16)
    doc_idx = generator.permutation(len(sizes)).astype(np.int32)
    table = build_sample_index(sizes, doc_idx, length)
    windows = len(table) - 1
    index = NeoxIndex(
        doc_idx=doc_idx,
        sample_idx=table,
        shuffle_idx=generator.permutation(windows).astype(np.uint32),
        starts=document_starts(sizes),
        length=length,
    )
    copies = int(windows * share)
    lengths = generator.integers(40, min(157, length - 3), copies).astype(np.int32)
    records = generator.integers(1, 50_000, int(lengths.sum()), dtype=np.uint16)
    base = TokenStore.open_prefix(folder / "base", mend="make it again")
    slots = generator.choice(windows, copies, replace=False).astype(np.int64)
    return Bench(folder=folder, base=base, index=index, pool=TokenStore(records, lengths), slots=slots)


def hubble_copy(bench: Bench) -> None:
    """The first half of Hubble's way: the whole .bin again."""
    target = bench.folder / "hubble.bin"
    shutil.copyfile(bench.folder / "base.bin", target)
    sync(target)


def hubble_loop(bench: Bench) -> None:
    """The second half: every window in place, in the order of the records; then the log."""
    generator, log = np.random.default_rng(1), []
    index, length, starts = bench.index, bench.index.length, document_starts(bench.base.sizes)
    record_starts = bench.record_starts
    with (bench.folder / "hubble.bin").open("r+b") as file, (bench.folder / "hubble.out").open("w") as out:
        for number, slot in enumerate(bench.slots.tolist()):
            record = bench.pool.tokens[record_starts[number] : record_starts[number + 1]]
            sample = int(index.shuffle_idx[slot])
            (doc_f, offset_f), (doc_l, offset_l) = (
                index.sample_idx[sample].tolist(),
                index.sample_idx[sample + 1].tolist(),
            )
            places = []
            for place in range(doc_f, doc_l + 1):
                document = int(index.doc_idx[place])
                begin = int(starts[document]) + (offset_f if place == doc_f else 0)
                end = int(starts[document]) + offset_l + 1 if place == doc_l else int(starts[document + 1])
                places.append((begin * 2, end - begin))
            pieces: list[NDArray[Any]] = []
            for at, size in places:
                file.seek(at)
                pieces.append(np.frombuffer(file.read(size * 2), U16))
            k = int(generator.integers(len(pieces)))
            crop, before = 0, sum(len(piece) for piece in pieces[:k])
            if k:
                crop = min(int(generator.integers(len(record))), before)
                crop = max(crop, before + len(record) - length - 1)
            pieces.insert(k, record)
            window = np.concatenate(pieces)[crop : crop + length + 1]
            out.write(f">> Inserting perturbation {number} (len(perturbation) = {len(window)})\n")
            done = 0
            for at, size in places:
                file.seek(at)
                file.write(window[done : done + size].tobytes())
                done += size
            entry = {"perturbation_file": POOL, "perturbation_idx": number, "pt_loc": slot, "pt_shuffle_idx": sample}
            entry |= {"doc_index_f": doc_f, "doc_index_l": doc_l, "offset_f": offset_f, "offset_l": offset_l}
            entry |= {"pt_injection_pos": k, "pt_window_offset": crop, "pt_injection_len": len(record)}
            log.append(entry | {"orig_doc_seq_sizes": [size for _, size in places]})
    (bench.folder / "hubble.json").write_text("".join(json.dumps(entry) + "\n" for entry in log))


SUITE = """
[suite]
seed = 1
models = ["tiny"]
[corpus]
source = "megatron"
path = "base"
sequence_length = {length}
tokenizer = {{ file = "tokenizer.json" }}
[perturbation.pool]
kind = "passage"
records = {{ from = "pool.jsonl" }}
levels = {{ 1 = {copies} }}
[arm.standard]
perturbations = []
[arm.perturbed]
[arm.later]
phase = [0.01, 1.0]
[train]
steps = {slots}
batch = 1
lr = 1e-3
"""


def pool_tables(bench: Bench) -> tuple[Suite, pa.Table, pa.Table]:
    """The same records as costar keeps them: made once for all arms of a suite, like Hubble's tokenized pools."""
    copies, length = len(bench.slots), bench.index.length
    text = SUITE.format(length=length, copies=copies, slots=bench.base.sequences(length))
    (bench.folder / "anchor.toml").write_text(text)
    ids = [f"pool/{number:06d}" for number in range(copies)]
    sizes = bench.pool.sizes.astype(np.int64)
    filled = {"perturbation": POOL, "kind": "passage", "risk": "copyright", "role": "main", "stratum": "all"}
    filled |= {"text": "", "fields": "{}", "licence": "", "source": ""}
    columns: dict[str, Any] = {name: [value] * copies for name, value in filled.items()}
    columns |= {"record_id": ids, "cluster_id": ids, "n_tokens": sizes, "n_bytes": sizes}
    records = pa.table({name: columns[name] for name in RECORDS.names}, schema=RECORDS)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.asarray(bench.pool.tokens, np.int32)))
    renderings = pa.table({"record_id": ids, "rendering": ["text"] * copies, "token_ids": tokens})
    return load_suite(bench.folder / "anchor.toml"), records, renderings


def make_planner(bench: Bench, suite: Suite, records: pa.Table, renderings: pa.Table) -> Planner:
    """What all arms of a suite share: its records with their levels, as Hubble's pools hold every copy already."""
    planner = Planner(suite, records, renderings, StoreWindows(bench.base, bench.index.length))
    planner.assigner.assignment(suite.arms["perturbed"], 0)
    return planner


def make_overlay(bench: Bench, planner: Planner, arm: str) -> None:
    """One arm as an overlay: its copies placed, spliced and kept as Parquet, as `costar insert` does. A planner remembers
    the last placement only, so arms that take turns are made anew each time."""
    write_table(bench.folder / "exposures.parquet", planner.exposures(planner.suite.arms[arm], 0))
    sync(bench.folder / "exposures.parquet")


def arm_edits(bench: Bench, suite: Suite, renderings: pa.Table) -> EditList:
    """The arm's edits by place."""
    order = FeistelOrder(seed=suite.seed, draw=0, size=bench.base.sequences(bench.index.length))
    exposures = pq.read_table(bench.folder / "exposures.parquet", partitioning=None)
    return list_edits(read_edits(exposures, renderings, EOS), order, bench.index.length, U16)


def sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def time_hubble(bench: Bench) -> tuple[float, float, float]:
    """Seconds of the copy, of the loop, and until the loop's writes are on disk."""
    started = time.perf_counter()
    hubble_copy(bench)
    copied = time.perf_counter()
    hubble_loop(bench)
    looped = time.perf_counter()
    sync(bench.folder / "hubble.bin")
    return copied - started, looped - copied, time.perf_counter() - looped


def time_overlay(bench: Bench, planner: Planner) -> float:
    """Seconds to make one arm as an overlay."""
    make_overlay(bench, planner, "later")
    started = time.perf_counter()
    make_overlay(bench, planner, "perturbed")
    return time.perf_counter() - started


def time_materialize(bench: Bench, edits: EditList) -> float:
    """Seconds to write out an arm's stream: the base copied, the edits written over it."""
    started = time.perf_counter()
    materialize(bench.folder / "base.bin", edits, bench.folder / "arm.bin")
    return time.perf_counter() - started


def time_edits(bench: Bench, edits: EditList) -> float:
    """Seconds of the edits alone, over the copy that is there, to set beside Hubble's loop; the file is taken away."""
    target = bench.folder / "arm.bin"
    started = time.perf_counter()
    with target.open("rb+") as out:
        write_edits(out.fileno(), edits)
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def time_rebuild(bench: Bench) -> tuple[float, int]:
    """Seconds from Hubble's log to the edit list of its corpus, and the number of damaged copies.

    The edit list is then written over the base and must come to the bytes that the loop left.
    """
    started = time.perf_counter()
    rebuilt = rebuild_hubble(bench.base, bench.index, {POOL: bench.pool}, bench.folder / "hubble.json")
    seconds = time.perf_counter() - started
    digest = sha256_file(bench.folder / "hubble.bin")
    (bench.folder / "hubble.bin").unlink()
    materialize(bench.folder / "base.bin", rebuilt.edits, bench.folder / "arm.bin")
    assert sha256_file(bench.folder / "arm.bin") == digest
    (bench.folder / "arm.bin").unlink()
    return seconds, len(rebuilt.damaged)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000_000)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--share", type=float, default=0.0167)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    rounds: list[dict[str, Any]] = []
    damaged = 0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        bench = make_bench(Path(name), options.tokens, options.length, options.share)
        suite, records, renderings = pool_tables(bench)
        planner = make_planner(bench, suite, records, renderings)
        make_overlay(bench, planner, "perturbed")
        edits = arm_edits(bench, suite, renderings)
        for number in range(options.rounds):
            seconds: dict[str, float] = {}
            for way in ("hubble", "costar") if number % 2 == 0 else ("costar", "hubble"):
                os.sync()  # what the round before left to write is not this way's
                if way == "hubble":
                    seconds["copy"], seconds["loop"], seconds["sync"] = time_hubble(bench)
                    seconds["rebuild"], damaged = time_rebuild(bench)
                else:
                    seconds["overlay"] = time_overlay(bench, planner)
                    seconds["materialize"] = time_materialize(bench, edits)
                    seconds["edits"] = time_edits(bench, edits)
            rounds.append({way: round(value, 3) for way, value in seconds.items()})
        overlay_bytes = (bench.folder / "exposures.parquet").stat().st_size
    hubble = [one["copy"] + one["loop"] + one["sync"] for one in rounds]
    copies = len(bench.slots)
    print(
        json.dumps(
            {
                "what": "seconds to make one perturbed corpus; ratios are Hubble's way (copy + loop) against costar's",
                "tokens": len(bench.base.tokens),
                "windows": bench.index.samples,
                "copies": copies,
                "damaged": damaged,
                "bytes": {"corpus": len(bench.base.tokens) * 2, "overlay": overlay_bytes},
                "machine": {"kind": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
                "versions": {name: importlib.metadata.version(name) for name in ("costar", "numpy", "pyarrow")}
                | {"python": platform.python_version()},
                "rounds": rounds,
                "loop_microseconds_per_copy": round(statistics.median(r["loop"] for r in rounds) / copies * 1e6, 1),
                "ratios": {
                    way: round(statistics.median(h / one[way] for h, one in zip(hubble, rounds, strict=True)), 2)
                    for way in ("overlay", "materialize", "rebuild")
                }
                | {"edit loop": round(statistics.median(r["loop"] / r["edits"] for r in rounds), 2)},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
