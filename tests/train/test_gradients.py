from __future__ import annotations

import torch
from costar.train.gradients import TreeSum, flatten, tree_sum, unflatten
from costar.train.world import World, micro_batches, shard_range
from hypothesis import given
from hypothesis import strategies as st


def values(count: int) -> list[torch.Tensor]:
    return list(torch.randn(count, 5, generator=torch.Generator().manual_seed(count)))


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_a_tree_over_blocks_has_the_bits_of_the_tree_over_all(processes: int, each: int) -> None:
    """Blocks of a power of two are subtrees: this is why the number of processes changes nothing."""
    whole = tree_sum([v.clone() for v in values(processes * each)])
    blocks = [
        tree_sum([v.clone() for v in values(processes * each)[i * each : (i + 1) * each]]) for i in range(processes)
    ]
    assert torch.equal(tree_sum(blocks), whole)


@given(st.integers(1, 40))
def test_a_tree_sums_everything_once_and_can_be_used_again(count: int) -> None:
    tree = TreeSum()
    for _ in range(2):
        for value in values(count):
            tree.add(value.clone())
        torch.testing.assert_close(tree.total(), torch.stack(values(count)).double().sum(0).float())


def test_flat_and_back() -> None:
    tensors = [torch.randn(3, 4), torch.randn(7), torch.randn(())]
    assert all(torch.equal(a, b) for a, b in zip(unflatten(flatten(tensors), tensors), tensors, strict=True))


@given(st.integers(1, 70), st.integers(1, 9))
def test_ranks_take_every_row_once_in_order_and_as_torch_cuts_tensors(total: int, size: int) -> None:
    ranges = [shard_range(total, rank, size) for rank in range(size)]
    assert [row for first, last in ranges for row in range(first, last)] == list(range(total))
    lengths = [len(part) for part in torch.arange(total).chunk(size)]
    assert [last - first for first, last in ranges if last > first] == lengths


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 6))
def test_micro_batches_are_as_many_in_every_process_and_cover_its_rows(batch: int, size: int, most: int) -> None:
    each = -(-batch // size)
    count = -(-each // most)
    for rank in range(size):
        first, last = World(rank=rank, size=size).rows(batch)
        groups = list(micro_batches((first, last), most, count))
        assert len(groups) == count
        assert [row for group in groups for row in group] == list(range(first, last))
        assert all(len(group) <= most for group in groups)
