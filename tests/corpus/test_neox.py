from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from costar.core.errors import CostarError
from costar.corpus.neox import NeoxIndex, arm_index, build_sample_index, index_stem, save_index
from costar.corpus.store import document_starts
from hypothesis import given
from hypothesis import strategies as st

LENGTH = 4


def literal_sample_index(sizes: list[int], doc_idx: list[int], length: int) -> list[list[int]]:
    """Lay every token out with its place and offset, and take each L-th: the definition, token by token."""
    laid = [[place, offset] for place, document in enumerate(doc_idx) for offset in range(sizes[document])]
    return laid[: (len(laid) - 1) // length * length + 1 : length]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=20).filter(lambda s: sum(s) > 0))
    epochs = draw(st.integers(1, 2))
    doc_idx = draw(st.permutations(list(range(len(sizes))) * epochs))
    return sizes, doc_idx, draw(st.integers(1, 9))


def index_of(sizes: list[int], doc_idx: list[int], length: int, seed: int = 0) -> NeoxIndex:
    documents = np.array(doc_idx, np.int32)
    table = build_sample_index(np.array(sizes, np.int32), documents, length)
    shuffle = np.random.default_rng(seed).permutation(len(table) - 1).astype(np.uint32)
    starts = document_starts(np.array(sizes, np.int32))
    return NeoxIndex(doc_idx=documents, sample_idx=table, shuffle_idx=shuffle, starts=starts, length=length)


@given(layouts())
def test_sample_index_places_every_lth_token(layout: tuple[list[int], list[int], int]) -> None:
    sizes, doc_idx, length = layout
    table = build_sample_index(np.array(sizes, np.int32), np.array(doc_idx, np.int32), length)
    assert table.tolist() == literal_sample_index(sizes, doc_idx, length)
    assert table.dtype == np.int32


@given(layouts())
def test_a_window_is_the_tokens_of_the_laid_out_stream_and_neighbours_share_one(
    layout: tuple[list[int], list[int], int],
) -> None:
    sizes, doc_idx, length = layout
    index = index_of(sizes, doc_idx, length)
    index.check("here")
    tokens = np.arange(sum(sizes))
    starts = index.starts.tolist()
    stream = [starts[d] + offset for d in doc_idx for offset in range(sizes[d])]
    for slot in range(index.samples):
        sample = int(index.shuffle_idx[slot])
        window = index.window(tokens, slot).tolist()
        assert window == stream[sample * length : sample * length + length + 1]
        assert index.slot_of(sample) == slot
        assert sum(size for _, size in index.segments(slot)) == length + 1


def test_pieces_of_many_slots_are_the_segments_of_each() -> None:
    index = index_of([3, 5, 1, 9, 2, 7], [4, 1, 3, 0, 5, 2], LENGTH)
    slots = np.array([2, 0, 5, 3])
    pieces = index.pieces(slots)
    for number, slot in enumerate(slots):
        own = slice(pieces.offsets[number], pieces.offsets[number + 1])
        assert list(zip(pieces.begins[own], pieces.lengths[own], strict=True)) == index.segments(slot)
    assert len(index.pieces(np.zeros(0, np.int64)).begins) == 0


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, NeoxIndex]:
    index = index_of([3, 5, 1, 9, 2, 7], [4, 1, 3, 0, 5, 2], LENGTH)
    stem = index_stem(tmp_path / "base_text_document", slots=4, length=LENGTH, seed=1234)
    save_index(stem, index, slots=4)
    return stem, index


def sizes_of(index: NeoxIndex) -> np.ndarray:
    return np.diff(index.starts).astype(np.int32)


def test_files_have_the_names_that_neox_looks_for(saved: tuple[Path, NeoxIndex]) -> None:
    names = sorted(path.name for path in saved[0].parent.iterdir())
    stem = "base_text_document_train_indexmap_4ns_4sl_1234s_packedpi_ac"
    assert names == [f"{stem}_{table}_idx.npy" for table in ("doc", "sample", "shuffle")]


def test_what_was_saved_is_opened_by_folder_by_store_and_by_stem(saved: tuple[Path, NeoxIndex]) -> None:
    stem, index = saved
    for place in (stem.parent, stem.parent / "base_text_document", stem):
        opened = NeoxIndex.open(place, index.starts)
        assert opened.length == LENGTH
        for table in ("doc_idx", "sample_idx", "shuffle_idx"):
            assert np.array_equal(getattr(opened, table), getattr(index, table))


def test_an_index_of_which_every_sample_is_read_tells_neox_one_more(tmp_path: Path) -> None:
    """NeoX takes len(shuffle_idx) − 1 for the number of samples and never more than sample_idx has."""
    index = index_of([20, 21], [0, 1], LENGTH)
    save_index(tmp_path / "x_4sl_1s", index, slots=index.samples)
    opened = NeoxIndex.open(tmp_path, index.starts)
    assert min(len(opened.shuffle_idx) - 1, len(opened.sample_idx) - 1) == index.samples
    assert opened.slot_of(int(index.shuffle_idx[3])) == 3


def test_an_arm_reads_its_sequences_in_its_order() -> None:
    sizes, sequences = np.array([7, 3, 11, 4], np.int32), np.array([3, 0, 5, 1, 4, 2])
    index = arm_index(sizes, sequences, LENGTH)
    index.check("here")
    tokens = np.arange(sizes.sum())
    for slot, sequence in enumerate(sequences):
        assert index.window(tokens, slot).tolist() == list(range(sequence * LENGTH, sequence * LENGTH + LENGTH + 1))


def test_two_triples_in_a_folder_are_named(saved: tuple[Path, NeoxIndex]) -> None:
    stem, index = saved
    for path in list(stem.parent.iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("train", "valid")))
    with pytest.raises(CostarError, match=r"(?s)_train_indexmap.*_valid_indexmap.*prefix of one"):
        NeoxIndex.open(stem.parent, index.starts)
    assert NeoxIndex.open(stem, index.starts).samples == index.samples


def test_a_missing_table_is_shown_by_what_is_there(saved: tuple[Path, NeoxIndex]) -> None:
    stem, index = saved
    stem.with_name(f"{stem.name}_shuffle_idx.npy").unlink()
    with pytest.raises(CostarError, match=r"\{doc,sample\}_idx.npy"):
        NeoxIndex.open(stem.parent, index.starts)


def test_an_empty_folder_and_an_unknown_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CostarError, match="no index files"):
        NeoxIndex.open(tmp_path, np.array([0, 5]))
    index = index_of([3, 5, 9], [1, 0, 2], LENGTH)
    save_index(tmp_path / "plain", index, slots=1)
    with pytest.raises(CostarError, match="without <L>sl"):
        NeoxIndex.open(tmp_path, index.starts)
    assert NeoxIndex.open(tmp_path, index.starts, length=LENGTH).samples == index.samples


def test_the_length_of_the_name_outranks_no_other(saved: tuple[Path, NeoxIndex]) -> None:
    with pytest.raises(CostarError, match=r"L = 4\n  expected  L = 5"):
        NeoxIndex.open(saved[0], saved[1].starts, length=5)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("doc", lambda a: np.append(a[:-1], 99), "document 99 in doc_idx"),
        ("doc", lambda a: a.astype(np.float64), "numbers of type float64"),
        ("sample", lambda a: a[:-1], "5 samples"),
        ("sample", lambda a: a[:, :1], r"\[samples \+ 1, 2\]"),
        ("sample", lambda a: np.add(a, (0, 9)), "an offset inside its document"),
        ("sample", lambda a: np.add(a, (9, 0)), "in sample_idx"),
        ("shuffle", lambda a: a + 1, "in shuffle_idx"),
        ("shuffle", lambda a: a[:-1], "shuffle_idx"),
    ],
)
def test_a_table_that_does_not_fit_is_named(
    saved: tuple[Path, NeoxIndex], table: str, change: object, message: str
) -> None:
    stem, index = saved
    path = stem.with_name(f"{stem.name}_{table}_idx.npy")
    np.save(path, change(np.load(path)))  # type: ignore[operator]
    with pytest.raises(CostarError, match=message):
        NeoxIndex.open(stem, index.starts)


def test_a_cut_table_is_named(saved: tuple[Path, NeoxIndex]) -> None:
    stem, index = saved
    path = stem.with_name(f"{stem.name}_sample_idx.npy")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CostarError, match=r"sample_idx.npy\n  found     not a whole table"):
        NeoxIndex.open(stem, index.starts)


def test_the_index_of_another_store_is_refused(saved: tuple[Path, NeoxIndex]) -> None:
    stem, index = saved
    with pytest.raises(CostarError, match="as 29 tokens and L = 4 give"):
        NeoxIndex.open(stem, document_starts(sizes_of(index) + np.array([0, 0, 2, 0, 0, 0], np.int32)))
    swapped = NeoxIndex.open(
        stem, document_starts(sizes_of(index)[[0, 1, 2, 5, 4, 3]])
    )  # as many tokens, but other documents
    with pytest.raises(CostarError, match="another store"):
        swapped.pieces(np.arange(swapped.samples))
