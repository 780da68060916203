"""Text that stood before: exact copies by their digests, and near copies by MinHash with datatrove's stages.

Both find the places to drop and change no text; the first in the order of the source stays.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from numpy.typing import NDArray

from ..core.hashing import U64, keyed_hashes
from .regex_words import RegexWords

BUCKET = 1 << 24  # digests that are sorted at once: about half a gigabyte
BLOCK = 4096  # n-grams whose hashes are worked out at once, and records read at once

# FineWeb's settings (Penedo et al. 2024): two documents whose sets of word 5-grams have Jaccard similarity s meet with
# probability 1 - (1 - s⁸)¹⁴, one half at s = 0.68 and 0.92 at s = 0.8.
NEAR = {"n_grams": 5, "num_buckets": 14, "hashes_per_bucket": 8, "seed": 1}

Runner = Callable[[Sequence[PipelineStep], int, str], None]


def unit_digests(texts: Iterable[str]) -> U64:
    """A digest of each text [n] without the space around it: `keyed_hash("paragraph", text.strip())`.

    Among n different texts two share a digest with probability n² / 2⁶⁵: 3 % for 10⁹.
    """
    return np.array(keyed_hashes(("paragraph",), (text.strip() for text in texts)), np.uint64)


def repeated(digests: Sequence[Path], bucket: int = BUCKET) -> list[NDArray[np.bool_]]:
    """Which units stood before: for every shard [units], True where its digest stood in an earlier shard or place.

    `digests` names one .npy of uint64 [units] for each shard, in the order of the source. They are read once for every
    range of digests, so that about `bucket` different ones are in memory at a time, however often each occurs.
    """
    shards = [_opened(path) for path in digests]
    found = [np.zeros(len(shard), np.bool_) for shard in shards]
    bits = max(sum(map(len, shards)) - 1, 0) // bucket
    shift = np.uint64(64 - bits.bit_length())
    for part in range(1 << bits.bit_length()):
        kept: list[tuple[int, U64, NDArray[np.int64]]] = []
        for number, start, values, places in _pieces(shards, shift, part, bucket):
            later = _later(values)
            found[number][start + places[later]] = True
            kept.append((number, values[~later], start + places[~later]))
        if not kept:
            continue
        later = _later(np.concatenate([values for _, values, _ in kept]))
        end = 0
        for number, values, places in kept:
            start, end = end, end + len(values)
            found[number][places[later[start:end]]] = True
    return found


def _opened(path: Path) -> U64:
    values: U64 = np.load(path, mmap_mode="r")
    if values.dtype != np.uint64 or values.ndim != 1:
        raise ValueError(f"{path} holds {values.dtype} {values.shape}, not uint64 [units]")
    return values


def _pieces(
    shards: Sequence[U64], shift: np.uint64, part: int, size: int
) -> Iterator[tuple[int, int, U64, NDArray[np.int64]]]:
    """Shard, start, and what of at most `size` of its digests from there has the top bits `part`."""
    for number, shard in enumerate(shards):
        for start in range(0, len(shard), size):
            values = np.asarray(shard[start : start + size])
            # a shift by 64 bits is not defined
            places = np.flatnonzero(values >> shift == part) if shift < 64 else np.arange(len(values))
            yield number, start, values[places], places.astype(np.int64)


def _later(values: U64) -> NDArray[np.bool_]:
    """True where a value stood earlier in the array."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    later = np.zeros(len(values), np.bool_)
    later[order[1:][ordered[1:] == ordered[:-1]]] = True
    return later


def near_duplicates(reader: PipelineStep, *, tasks: int, folder: Path, run: Runner) -> list[NDArray[np.int64]]:
    """The documents to drop because an earlier one is nearly the same: for each rank their places, from 0, in order.

    `reader` yields the documents of a rank: those of all ranks, one after the other, are in the order of the source.
    `run(pipeline, tasks, name)` runs a pipeline to its end, and a task that it skips as completed has left its files in
    `folder`, which no other call uses. Of a cluster (all that are linked by shared buckets) the first stays, so `tasks`
    and workers do not enter the result. Documents of fewer than five words are never near duplicates. The second stage
    opens a file of every task at once.
    """
    config = MinhashConfig(**NEAR)
    signatures, pairs, clusters = (str(folder / name) for name in ("signatures", "pairs", "clusters"))
    first = Signature(signatures, config=config, language=RegexWords())
    run([reader, first], tasks, "near-signatures")
    # one task a bucket; records are read by the block, datatrove's default is five
    second = MinhashDedupBuckets(signatures, pairs, config=config, lines_to_buffer=BLOCK)
    run([second], config.num_buckets, "near-pairs")
    third = QuietCluster(pairs, clusters, config=config, save_cluster_id=True, lines_to_buffer=BLOCK)
    run([third], 1, "near-clusters")
    return _all_but_first(folder, tasks)


def _all_but_first(folder: Path, tasks: int) -> list[NDArray[np.int64]]:
    """What `near_duplicates` gives, from the stages' files: datatrove's own choice in a cluster is the one that most
    others were joined to, which depends on the order of the buckets."""
    ranks, places, names = [], [], []
    for rank in range(tasks):
        path = folder / "clusters" / f"{rank:06d}.clusters"
        rows = (
            np.fromfile(path, "<u4").reshape(-1, 2).astype(np.int64) if path.is_file() else np.zeros((0, 2), np.int64)
        )
        ranks.append(np.full(len(rows), rank))
        places.append(rows[:, 0])
        names.append(rows[:, 1])
    of_rank, place, name = (np.concatenate(each) for each in (ranks, places, names))
    order = np.lexsort((place, of_rank, name))
    dropped = np.zeros(len(order), np.bool_)
    dropped[order[1:]] = name[order[1:]] == name[order[:-1]]
    return [np.sort(place[dropped & (of_rank == rank)]) for rank in range(tasks)]


class Signature(MinhashDedupSignature):
    """datatrove's first stage with bounded memory."""

    def get_signature(self, shingles: U64) -> list[list[int]]:
        """The least hashes [buckets][hashes] of n-grams [n, 1], as datatrove's, which needs 900 bytes an n-gram."""
        parts = [
            super(Signature, self).get_signature(shingles[at : at + BLOCK]) for at in range(0, len(shingles), BLOCK)
        ]
        least: list[list[int]] = np.min(np.array(parts, np.uint64), axis=0).tolist()
        return least


class QuietCluster(MinhashDedupCluster):
    """datatrove's third stage without its progress bar, which has no switch."""

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            super().run(data, rank, world_size)
