"""Planning at Hubble's size: every arm of `suites/hubble.toml`, and ten million copies in one arm; then their manifests.

    python bench/insertion.py [--tokens 4000000000] [--folder .] [--only hubble|million]

Records are synthetic, with Hubble's counts and mean lengths. The token store has its index only, of documents of 200 to
2,000 tokens: planning reads no token. Times, the largest memory of the process, and the times of views are printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from costar.core.design import Suite
from costar.core.parquet import write_rows, write_table
from costar.core.suite import find_suite, load_suite
from costar.core.workspace import Workspace, finish_step
from costar.corpus.store import TokenStore
from costar.corpus.windows import StoreWindows
from costar.insertion.build import Planner
from costar.insertion.kinds import load_kind
from costar.manifests.catalogue import build_manifest
from costar.manifests.sql import recipes
from costar.manifests.tables import BALANCE, FILLERS, RECORDS, RENDERINGS

LENGTHS = {"passage": 256, "paraphrase": 26, "biography": 88, "court": 150, "chat": 270}  # mean tokens; test sets 53
QUERIES = {
    "exposures by arm": "select arm, count(*), min(slot), max(slot) from exposures group by arm",
    "levels": "select arm, perturbation, level, count(*) from assignments join records using (record_id) group by all",
    "copies of a record": "select arm, count(*) from exposures where record_id = 'testset-mmlu/000007' group by arm",
    "dose_at_step": "select copies, count(*) from dose_at_step where run = 'perturbed.1b.d0' group by all",
}
RECIPES = ("balance", "exposure_counts", "positions")


def synthetic_records(suite: Suite, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Records and renderings of a suite: ids, lengths and token ids, without text."""
    generator = np.random.default_rng(seed)
    ids, names, kinds, lengths = [], [], [], []
    for design in suite.perturbations.values():
        ids += [f"{design.name}/{number:06d}" for number in range(design.records)]
        names += [design.name] * design.records
        kinds += [design.kind] * design.records
        mean = LENGTHS.get(design.kind, 53)
        lengths.append(generator.integers(mean // 2, mean * 3 // 2, design.records))
    count, tokens = len(ids), np.concatenate(lengths)
    same = {"role": "main", "risk": "testset", "text": "", "fields": "{}", "licence": "CC0-1.0", "source": "synthetic"}
    columns: dict[str, Any] = {name: [value] * count for name, value in same.items()}
    columns |= {"record_id": ids, "perturbation": names, "kind": kinds, "cluster_id": ids}
    columns |= {"stratum": ["all"] * count, "n_tokens": tokens, "n_bytes": tokens * 4}
    records = pa.table({name: columns[name] for name in RECORDS.names}, schema=RECORDS)
    asked = {
        (name, factors.rendering or load_kind(design.kind, place=name).RENDERINGS[0])
        for name, design in suite.perturbations.items()
        for arm in suite.arms.values()
        for factors in arm.factors[name]
    }
    parts = []
    for name, rendering in sorted(asked):
        chosen = np.flatnonzero(np.array(names, object) == name)
        offsets = np.concatenate([[0], np.cumsum(tokens[chosen])])
        values = generator.integers(1, 50_000, offsets[-1]).astype(np.int32)
        parts.append(
            pa.table(
                {
                    "record_id": [ids[i] for i in chosen],
                    "rendering": [rendering] * len(chosen),
                    "text": [""] * len(chosen),
                    "n_tokens": tokens[chosen],
                    "n_bytes": tokens[chosen] * 4,
                    "spans": pa.array([[]] * len(chosen), RENDERINGS.field("spans").type),
                    "token_ids": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values)),
                },
                schema=RENDERINGS,
            )
        )
    return records, pa.concat_tables(parts)


def plan(suite: Suite, workspace: Workspace, tokens: int) -> dict[str, Any]:
    """Place and splice every arm and draw of a suite and write its tables; seconds by what they went to."""
    sizes = np.random.default_rng(1).integers(200, 2_000, tokens // 1_100).astype(np.int32)
    records, renderings = synthetic_records(suite)
    folder = workspace.insertion
    folder.mkdir(parents=True)
    write_table(folder / "records.parquet", records)
    write_table(folder / "renderings.parquet", renderings)
    write_table(folder / "fillers.parquet", FILLERS.empty_table())
    started = time.perf_counter()
    unread = np.broadcast_to(np.uint16(0), (int(sizes.sum(dtype=np.int64)),))
    windows = StoreWindows(TokenStore(unread, sizes), suite.corpus.sequence_length)
    planner = Planner(suite, records, renderings, windows)
    seconds, copies = {"set up": time.perf_counter() - started}, 0
    assignments = []
    for arm in suite.arms.values():
        for draw in range(arm.draws):
            begun = time.perf_counter()
            table = planner.exposures(arm, draw)
            write_table(workspace.exposures(arm.name, draw) / "exposures.parquet", table)
            assignments.append(planner.assigner.table(arm, draw))
            copies += len(table)
            seconds[arm.name] = seconds.get(arm.name, 0.0) + time.perf_counter() - begun
    begun = time.perf_counter()
    write_table(folder / "assignments.parquet", pa.concat_tables(assignments))
    write_rows(folder / "balance.parquet", BALANCE, planner.assigner.balance(0))
    seconds["assignments"] = time.perf_counter() - begun
    total = time.perf_counter() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parts = {name: round(value, 2) for name, value in seconds.items()}
    return {"copies": copies, "seconds": round(total, 1), "gigabytes": round(memory, 2), "parts": parts}


def manifest(suite: Suite, workspace: Workspace) -> dict[str, Any]:
    """Build the manifest over planned tables, and ask it."""
    folder = workspace.insertion
    finish_step(folder, "bench", [folder / f"{name}.parquet" for name in ("records", "renderings")], "records")
    finish_step(
        folder, "bench", [folder / f"{name}.parquet" for name in ("assignments", "balance", "fillers")], "insert"
    )
    started = time.perf_counter()
    build_manifest(suite, workspace)
    seconds = {"build": time.perf_counter() - started}
    with duckdb.connect(str(workspace.manifest), read_only=True) as connection:
        for name, query in [*QUERIES.items(), *((name, recipes()[name]) for name in RECIPES)]:
            begun = time.perf_counter()
            connection.execute(query).fetchall()
            seconds[name] = time.perf_counter() - begun
    return {name: round(value, 3) for name, value in seconds.items()}


def ten_million(suite: Suite) -> Suite:
    """One arm of a suite with about ten million copies in 49 million slots."""
    perturbations = {
        name: replace(design, levels={level: count * 12 for level, count in design.levels.items()})
        for name, design in suite.perturbations.items()
    }
    return replace(suite, perturbations=perturbations, arms={"perturbed": suite.arms["perturbed"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4_000_000_000)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--only", choices=["hubble", "million"])
    options = parser.parse_args()
    hubble = load_suite(find_suite("hubble"))
    found: dict[str, Any] = {"numpy": np.__version__, "duckdb": duckdb.__version__, "machine": platform.machine()}
    found["cores"] = os.cpu_count()
    for name, suite in (("hubble", hubble), ("million", ten_million(hubble))):
        if options.only in (None, name):
            root = Path(tempfile.mkdtemp(dir=options.folder))
            try:
                workspace = Workspace(root)
                found[name] = plan(suite, workspace, options.tokens)
                found[f"{name}, manifest"] = manifest(suite, workspace)
            finally:
                shutil.rmtree(root)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
