"""Reading an arm with 2 % of its sequences perturbed against reading the base: tokens per second, in one run.

    python bench/reading.py [--tokens 64_000_000] [--length 2048] [--batch 256] [--rounds 7]

A synthetic store of random documents is made in a temporary folder; both readings go through the same keyed order, the
base by an overlay without edits. Rounds alternate; ratios and their median are printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from costar.core.hashing import EMPTY_DIGEST, row_hashes, step_digest
from costar.corpus.store import TokenStore, write_bin, write_idx
from costar.corpus.windows import StoreWindows
from costar.insertion.order import FeistelOrder
from costar.insertion.overlay import Edits, Overlay

EOS = 0


def make_store(folder: Path, tokens: int) -> TokenStore:
    """A store of random ids in documents of 200 to 2,000 tokens."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(200, 2_000, tokens // 1_100).astype(np.int32)
    ids = generator.integers(1, 50_000, int(sizes.sum()), dtype=np.uint16)
    ids[np.cumsum(sizes) - 1] = EOS
    part = folder / "part"
    part.write_bytes(ids.tobytes())
    write_bin(folder / "tokens.bin", [part], part.stat().st_size)
    write_idx(folder / "tokens.idx", sizes, np.dtype(np.uint16))
    return TokenStore.open(folder)


def make_edits(slots: int, share: float, length: int) -> Edits:
    """Edits of 100 tokens in a share of all slots."""
    generator = np.random.default_rng(1)
    chosen = np.sort(generator.choice(slots, int(slots * share), replace=False))
    begins = generator.integers(1, length - 101, len(chosen))
    offsets = np.arange(len(chosen) + 1) * 100
    return Edits(chosen, begins, offsets, np.full(len(chosen) * 100, 7, np.int32))


def read(overlay: Overlay, slots: int, batch: int, *, digest: bool = False) -> float:
    """Tokens per second of one pass over the slots in order; with the rolling digest of every row if asked for."""
    state = EMPTY_DIGEST
    started = time.perf_counter()
    for first in range(0, slots, batch):
        rows = overlay.sequences(np.arange(first, min(first + batch, slots)))
        if digest:
            state = step_digest(state, row_hashes(rows))
    return slots * overlay.length / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64_000_000)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), options.tokens)
        size = store.sequences(options.length)
        windows, order = StoreWindows(store, options.length), FeistelOrder(seed=1, draw=0, size=size)
        base = Overlay(windows, order, make_edits(size, 0.0, options.length))
        arm = Overlay(windows, order, make_edits(size, 0.02, options.length))
        read(arm, size, options.batch)
        rounds = []
        for number in range(options.rounds):
            pair = (base, arm) if number % 2 == 0 else (arm, base)
            rates = {id(side): read(side, size, options.batch) for side in pair}
            rounds.append((rates[id(arm)], rates[id(base)]))
        digested = [read(arm, size, options.batch, digest=True) for _ in range(options.rounds)]
    print(
        json.dumps(
            {
                "what": f"reading tokens/s, 2 % of {size:,} sequences of {options.length} perturbed, against the base",
                "numpy": np.__version__,
                "machine": platform.machine(),
                "arm": round(statistics.median(a for a, _ in rounds)),
                "base": round(statistics.median(b for _, b in rounds)),
                "arm, with digest": round(statistics.median(digested)),
                "ratios": [round(a / b, 3) for a, b in rounds],
                "ratio": round(statistics.median(a / b for a, b in rounds), 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
