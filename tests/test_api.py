from __future__ import annotations

from pathlib import Path

import costar
import numpy as np
import pytest
import torch
from costar.core.errors import CostarError


def test_tables_are_arrow_and_sql_is_read_only(built: Path) -> None:
    suite = costar.open(str(built))
    assert suite.runs().num_rows == 4
    assert suite.records().num_rows == 44 + 2 * 22 + 20
    assert suite.exposures("late").num_rows == 180
    assert len(suite.sql("from dose_response").df()) > 50


def test_sequences_are_what_training_reads(built: Path) -> None:
    """The digest that the trainer logged is the digest of these rows."""
    from costar.core.hashing import EMPTY_DIGEST, row_hashes, step_digest

    suite = costar.open(str(built))
    rows = suite.sequences("perturbed", np.arange(8))
    assert rows.shape == (8, 129)
    assert rows.dtype == np.uint16
    logged = suite.sql("select data_digest from log where run = 'perturbed.nano.d0' and step = 0").fetchall()[0][0]
    assert step_digest(EMPTY_DIGEST, row_hashes(rows)).hex() == logged


def test_the_torch_dataset_is_the_training_order(built: Path) -> None:
    dataset = costar.torch_dataset(str(built), arm="late")
    assert len(dataset) == 768
    assert dataset[500].dtype == torch.int64
    assert np.array_equal(dataset[500].numpy(), costar.open(str(built)).sequences("late", [500])[0])
    with pytest.raises(IndexError):
        dataset[768]


def test_a_pair_is_two_models_and_a_tokenizer(built: Path) -> None:
    pair = costar.open(str(built)).pair("perturbed.nano.d0")
    ids = pair.tokenizer("some text", return_tensors="pt").input_ids
    with torch.no_grad():
        assert not torch.equal(pair.treated(ids).logits, pair.control(ids).logits)
    with pytest.raises(CostarError, match="a run without control"):
        costar.open(str(built)).pair("standard.nano.d0")


def test_a_ledger_is_found_where_an_ancestor_wrote_it(built: Path) -> None:
    suite = costar.open(str(built))
    assert suite.ledger("late.nano.d0", step=24).equals(suite.ledger("standard.nano.d0", step=24))
    assert set(suite.ledger("late.nano.d0")["step"].to_pylist()) == {96}
    with pytest.raises(CostarError, match="24, 48, 72, 96"):
        suite.ledger("late.nano.d0", step=17)
