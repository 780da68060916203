from __future__ import annotations

import torch
from costar.train.init import random_rows
from hypothesis import given
from hypothesis import strategies as st

ROWS = st.integers(0, 900)


@given(ROWS, ROWS)
def test_rows_are_the_same_whichever_part_of_a_matrix_is_asked_for(a: int, b: int) -> None:
    first, last = sorted((a, b))
    whole = random_rows(1, 0, "model.layers.0.mlp.up_proj.weight", 16, 0, 900)
    assert torch.equal(random_rows(1, 0, "model.layers.0.mlp.up_proj.weight", 16, first, last), whole[first:last])


def test_every_name_draw_seed_and_block_has_values_of_its_own_with_the_spread_of_hubble() -> None:
    rows = [
        random_rows(seed, draw, name, 64, 0, 512)
        for seed, draw, name in ((1, 0, "a"), (1, 0, "b"), (1, 1, "a"), (2, 0, "a"))
    ]
    blocks = [block for matrix in rows for block in (matrix[:256], matrix[256:])]
    for number, block in enumerate(blocks):
        assert abs(float(block.std()) - 0.02) < 0.001
        assert abs(float(block.mean())) < 0.001
        assert not any(torch.equal(block, other) for other in blocks[:number])
