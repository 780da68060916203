"""The table [corpus] says one thing: keys that exclude each other, or that a source lacks, are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from costar.core.errors import CostarError
from costar.core.suite import load_suite

from tests.small import SUITE

BEGIN, END = SUITE.index("[corpus]"), SUITE.index("[perturbation.passages]")
TOKENIZER = 'sequence_length = 128\ntokenizer = { train = "bpe", vocabulary = 512 }\n'


def load(folder: Path, corpus: str) -> None:
    path = folder / "case.toml"
    path.write_text(SUITE[:BEGIN] + corpus + "\n" + SUITE[END:], encoding="utf-8")
    load_suite(path)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (f"[corpus]\n{TOKENIZER}", r"\[corpus\]\n  found     no source"),
        (f'[corpus]\nsource = "files"\npath = "a"\nfrom = "build/x"\n{TOKENIZER}', "found     source and from"),
        (f'[corpus]\nfrom = "build/x"\n{TOKENIZER}', r"\[corpus\] from\n  found     tokenizer beside it"),
        ('[corpus]\nsource = "files"\npath = "a"\nsequence_length = 128\n', "the key 'tokenizer'"),
        (f'[corpus]\nsource = "files"\n{TOKENIZER}', r"\[corpus\] path\n  found     nothing"),
        (f'[corpus]\nsource = "synthetic"\n{TOKENIZER}', "megabytes\n  found     nothing"),
        (f'[corpus]\nsource = "files"\npath = "a"\nmegabytes = 3\n{TOKENIZER}', "megabytes for files"),
        (f'[corpus]\nsource = "files"\npath = "a"\nindex = "x"\n{TOKENIZER}', 'them with source = "megatron"'),
        (f'[corpus]\nsource = "megatron"\npath = "a"\nquality = ["c4"]\n{TOKENIZER}', "for a store that another tool"),
        (
            f'[corpus]\n{TOKENIZER}[corpus.mixture]\na = {{ source = "files", path = "a", share = 1 }}\n'
            'b = { source = "files", path = "b" }\n',
            r"\[corpus.mixture.b\] share\n  found     nothing",
        ),
        (
            f'[corpus]\n{TOKENIZER}[corpus.mixture]\na = {{ source = "files", path = "a" }}\n'
            'b = { source = "megatron", path = "b" }\n',
            "a store of tokens is taken whole",
        ),
        (f'[corpus]\n{TOKENIZER}[corpus.mixture]\n"a:b" = {{ source = "files", path = "a" }}\n', "lower-case"),
        (
            f'[corpus]\n{TOKENIZER}[corpus.mixture]\na = {{ source = "files", pth = "a" }}\n',
            r"\[corpus.mixture.a\].*\n  found     unknown key 'pth'\n.*\n.*did you mean 'path'",
        ),
        (f'[corpus]\nsource = "files"\npath = "a"\ntasks = 0\n{TOKENIZER}', r"\[corpus\] tasks"),
        (
            f'[corpus]\nsource = "files"\npath = "a"\nheld_out = 0.6\nvalidation = 0.4\n{TOKENIZER}',
            "leave some documents",
        ),
        (f'[corpus]\nsource = "files"\npath = "a"\ndeduplicate = "fuzzy"\n{TOKENIZER}', "'exact' or 'minhash'"),
    ],
)
def test_what_cannot_be_said_together_is_refused(tmp_path: Path, corpus: str, message: str) -> None:
    with pytest.raises(CostarError, match=message):
        load(tmp_path, corpus)


def test_a_mixture_and_a_built_corpus_are_read(tmp_path: Path) -> None:
    load(tmp_path, '[corpus]\nfrom = "build/x"\nsequence_length = 64\n')
    load(
        tmp_path,
        f'[corpus]\n{TOKENIZER}[corpus.mixture]\na = {{ source = "files", path = ["a", "b"], share = 0.7 }}\n'
        'b = { source = "hub", path = "owner/name", share = 0.3 }\n',
    )
