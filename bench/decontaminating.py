"""Finding records in real documents: recall by kind of copy and length, what is found wrongly, and MB a CPU second.

    python bench/decontaminating.py data [--each 300] [--documents 400] [--records 10000] [--vocabulary 8192]

`data` is the folder of the real data sets. Records of 8 to 300 words are planted into documents as they are, re-cased,
re-spaced, and with 5 % and 20 % of their words changed; look-alikes are planted that must stay. Then other records are
searched in the documents as they are: every hit is printed with the record's text, to be looked at. Speed is that of the
search by texts and by texts and ids, in bytes of UTF-8 text and CPU seconds of one process, without encoding.
"""

from __future__ import annotations

import argparse
import json
import pickle
import platform
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from costar.corpus.decontaminate import RecordSearch, Searched
from costar.corpus.tokenizer import Tokenizer, train_bpe
from costar.tests.corpus import planting

EOS = "<|endoftext|>"
BATCH = 256
Table = dict[str, dict[str, tuple[int, int]]]


def planted(data: Path, each: int, documents: Sequence[str]) -> tuple[Table, Table, Counter[str]]:
    """Found and all by kind and length class of copies, then of look-alikes (near only), and their hits by kind and reason."""
    searched = planting.records(data, each)
    more, alike = planting.look_alikes(data, searched, documents)
    index = RecordSearch([*searched, *more])
    copies = planting.copies(searched, documents)
    recall = planting.shares(copies, planting.search(index, [copy.document for copy in copies]))
    hits = planting.search(index, [text.document for text in alike])
    near = [[hit for hit in own if hit.reason == "near"] for own in hits]
    own = ((each, hit) for each, found in zip(alike, hits, strict=True) for hit in found)
    reasons = Counter(f"{each.kind}: {hit.reason}" for each, hit in own if hit.record_id == each.record_id)
    return recall, planting.shares(alike, near), reasons


def with_ids(records: Sequence[Searched], tokenizer: Tokenizer) -> list[Searched]:
    """Records with their ids, with and without a leading space."""
    return [
        Searched(
            record_id=record.record_id,
            texts=record.texts,
            ids=tuple(tokenizer.encode_batch([record.texts[0], " " + record.texts[0]])),
        )
        for record in records
    ]


def by_ids(records: Sequence[Searched], documents: Sequence[str], tokenizer: Tokenizer) -> tuple[int, int]:
    """Of how many records of 12 ids and more an exact copy is found by ids alone, and how many there are."""
    long = [record for record in records if len(record.ids[0]) >= 12]
    copies = [copy for copy in planting.copies(long, documents) if copy.kind == "exact"]
    ids, lengths = encoded([copy.document for copy in copies], tokenizer)
    hits = RecordSearch(long).find((), ids, lengths)
    found = {copies[hit.document].record_id for hit in hits if hit.record_id == copies[hit.document].record_id}
    return len(found), len(long)


def encoded(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[Any, Any]:
    """Ids of texts one behind the other, and the length of each."""
    ids = tokenizer.encode_batch(list(texts))
    return np.concatenate([np.array(each, np.uint16) for each in ids]), np.array([len(each) for each in ids])


def speed(index: RecordSearch, documents: Sequence[str], tokenizer: Tokenizer | None) -> float:
    """MB of text a CPU second; by ids too when there is a tokenizer."""
    batches = [documents[first : first + BATCH] for first in range(0, len(documents), BATCH)]
    ids = [encoded(batch, tokenizer) if tokenizer else (None, None) for batch in batches]
    started = time.process_time()
    for batch, (flat, lengths) in zip(batches, ids, strict=True):
        index.find(batch, flat, lengths)
    return sum(len(text.encode()) for text in documents) / 1e6 / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--each", type=int, default=300, help="planted records of every length class")
    parser.add_argument("--documents", type=int, default=400, help="documents of every base file at most")
    parser.add_argument("--records", type=int, default=10_000, help="records searched for speed and wrong hits")
    parser.add_argument("--vocabulary", type=int, default=8192)
    options = parser.parse_args()
    documents = planting.base_texts(options.data, options.documents)
    recall, wrong, reasons = planted(options.data, options.each, documents)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        train_bpe(iter(documents[:: max(1, len(documents) // 500)]), options.vocabulary, EOS, path)
        tokenizer = Tokenizer(path, EOS)
        records = with_ids(planting.records(options.data, options.records)[: options.records], tokenizer)
        started = time.process_time()
        index = RecordSearch(records)
        build = time.process_time() - started
        texts_only = RecordSearch(Searched(record_id=each.record_id, texts=each.texts) for each in records)
        rates = {}
        for name in planting.BASES:
            part = planting.base_texts(options.data, min(options.documents, 300), [name])
            rates[name] = {
                "texts": round(speed(texts_only, part, None), 1),
                "texts and ids": round(speed(index, part, tokenizer), 1),
            }
        ids = by_ids(sampled(records, options.each), documents, tokenizer)
    texts = {record.record_id: record.texts[0] for record in records}
    hits = [hit for own in planting.search(texts_only, documents) for hit in own]
    print(
        json.dumps(
            {
                "what": "records found in documents: (found, all) by kind and words of the record",
                "numpy": np.__version__,
                "python": platform.python_version(),
                "unicode": unicodedata.unidata_version,
                "machine": platform.machine(),
                "copies": recall,
                "exact copies by ids": ids,
                "look-alikes, near": wrong,
                "look-alikes by reason": dict(reasons),
                "documents": len(documents),
                "records": len(records),
                "hits in documents as they are": [
                    [hit.reason, hit.match, round(hit.share, 2), texts[hit.record_id][:160]] for hit in hits
                ],
                "build, CPU s": round(build, 2),
                "pickled MB": round(len(pickle.dumps(index)) / 1e6, 1),
                "MB a CPU s": rates,
            },
            ensure_ascii=False,
        )
    )


def sampled(records: Sequence[Searched], count: int) -> Sequence[Searched]:
    """`count` records, evenly over all."""
    return records[:: max(1, len(records) // count)]


if __name__ == "__main__":
    main()
