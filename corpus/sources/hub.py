"""Text of a data set of the Hugging Face Hub, through `datasets`, streamed: nothing is stored but what that needs.

`path` is one of, or a list of

    owner/name                  its default configuration, split `train` or the only one
    owner/name:config           another configuration; what follows the colon may be empty
    owner/name:config/split     another split
    owner/name/data/*.parquet   some of its files, whatever its configurations say

A folder `owner/name` below `data` is opened as it lies, otherwise the Hub is asked once for the commit that is read. An
item is one file of the data set and its path says which: workers share the files, and a document is named by its file
and row, however many workers there are. Parquet is read as `files` reads it, everything else by `datasets`, which holds
about 10 MB of lines.
"""

from __future__ import annotations

import fnmatch
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.design import SourceDesign
from ...core.errors import CostarError, shorten
from ..documents import Item, RawDocument
from ..hub import SUFFIXES
from ..lines import LIMIT, too_long
from .files import parquet_documents, text_of

ONE_PARAGRAPH_A_LINE = False
REMOTE = "hf://datasets/"
PATIENCE = 5.0  # seconds for the first answer of the Hub, once


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a path names. `place` is for messages; empty parts were not said."""

    place: str
    repository: str
    config: str
    split: str
    pattern: str


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """The files of a split, each one shard of `rows`, a streamed data set; `chosen` says that a README or a pattern named
    them.
    """

    files: tuple[str, ...]
    rows: Any
    chosen: bool


def items(source: SourceDesign, folders: Sequence[Path]) -> list[Item]:
    """The files of every data set, in the order of the paths; `path` is a local file or `hf://datasets/name@commit/file`.

    Raises:
        CostarError: not such a name; no such data set, or no way to it; several configurations or splits and none named;
            files of two kinds; no field of the text; a file that is named twice.
    """
    if not source.paths:
        raise CostarError("[corpus] path", found="nothing", expected='"owner/name" of a data set', mend="add the key")
    _opened.cache_clear()  # the folders may have changed since
    found: dict[str, Item] = {}
    for path in source.paths:
        wanted = _wanted(path)
        folder = next((f / wanted.repository for f in folders if (f / wanted.repository).is_dir()), None)
        root, present = _local(folder) if folder else _remote(wanted, folders)
        if wanted.pattern:
            matches = functools.partial(fnmatch.fnmatchcase, pat=wanted.pattern)
            _refuse_two_kinds(wanted, [name for name in present if matches(name) or matches("/" + name)])
        opened = _opened(wanted, root, source.text)
        if not opened.chosen:
            _refuse_two_kinds(wanted, present)
        for file in opened.files:
            item = Item(name=f"{wanted.repository}/{file.removeprefix(root + '/')}", path=file)
            if item.name in found:
                raise CostarError(
                    wanted.place,
                    found=f"{item.name} a second time",
                    expected="each file once",
                    mend="correct the paths",
                )
            found[item.name] = item
    return list(found.values())


def facts(source: SourceDesign, items: Sequence[Item] = ()) -> dict[str, object]:
    """What was read, for `corpus.json`: of each data set the commit, or that it was a local folder."""
    from datasets import __version__

    revisions = {}
    for item in items:
        repository = "/".join(item.name.split("/", 2)[:2])
        remote = item.path.startswith(REMOTE)
        revisions[repository] = item.path.removeprefix(REMOTE + repository + "@").split("/")[0] if remote else "local"
    return {"differs": [], "paths": list(source.paths), "revisions": revisions, "datasets": __version__}


def read(item: Item, source: SourceDesign) -> Iterator[RawDocument]:
    """The documents of one file, a row each.

    Raises:
        CostarError: a row without text or with more than 256 MiB of it, or a file that cannot be read to its end.
    """
    if item.path.endswith(".parquet"):
        yield from _parquet_documents(item, source.text)
        return
    for path in source.paths:
        wanted = _wanted(path)
        if not item.name.startswith(wanted.repository + "/"):
            continue
        root = item.path.removesuffix(item.name.removeprefix(wanted.repository))
        opened = _opened(wanted, root, source.text)
        if item.path in opened.files:
            shard = opened.rows.shard(num_shards=len(opened.files), index=opened.files.index(item.path))
            yield from _documents(shard, item, source.text)
            return
    raise CostarError(item.path, found="gone", expected="the files of before", mend="run `costar corpus` again")


def _parquet_documents(item: Item, field: str) -> Iterator[RawDocument]:
    from huggingface_hub import HfFileSystem

    if not item.path.startswith(REMOTE):
        yield from parquet_documents(Path(item.path), item, field)
        return
    try:
        with HfFileSystem().open(item.path) as file:
            yield from parquet_documents(file, item, field)
    except CostarError:
        raise
    except Exception as error:
        raise _broken_off(item.path, error) from error


def _documents(rows: Any, item: Item, field: str) -> Iterator[RawDocument]:
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            place = f"{item.path}, row {number}"
            text = text_of(row, field, place)
            if len(text) > LIMIT:
                raise too_long(place, len(text), LIMIT)
            yield RawDocument(doc_id=f"{item.name}:{number}", text=text)
    except CostarError:
        raise
    except Exception as error:
        raise _broken_off(f"{item.path}, after row {number}", error) from error


def _broken_off(place: str, error: Exception) -> CostarError:
    return CostarError(
        place,
        found=f"it cannot be read on ({type(error).__name__}: {shorten(error)})",
        expected="a whole file of rows of one kind",
        mend="fetch the file again, and check the network if it is not local",
    )


def _wanted(path: str) -> _Wanted:
    place = f"[corpus] path {path!r}"
    owner, _, rest = path.partition("/")
    name, _, more = rest.partition("/")
    name, colon, config = name.partition(":")
    if not owner or not name or ":" in owner or (more and not colon and {"..", ""} & set(more.split("/"))):
        raise CostarError(
            place,
            found=path,
            expected='"owner/name", "owner/name:config/split" or "owner/name/pattern of files"',
            mend="correct the name",
        )
    split, pattern = (more, "") if colon else ("", more)
    return _Wanted(place=place, repository=f"{owner}/{name}", config=config, split=split, pattern=pattern)


def _local(folder: Path) -> tuple[str, list[str]]:
    """The folder itself, and the files in it that are not hidden."""
    root = folder.resolve()
    names = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
    return str(root), [str(name) for name in names if not any(part.startswith(".") for part in name.parts)]


def _remote(wanted: _Wanted, folders: Sequence[Path]) -> tuple[str, list[str]]:
    """What the files of a data set on the Hub begin with, its commit in it, and their names: one question, no retries."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        info = HfApi().dataset_info(wanted.repository, timeout=PATIENCE)
        return f"{REMOTE}{wanted.repository}@{info.sha}", [each.rfilename for each in info.siblings or []]
    except GatedRepoError as error:
        found, mend = (
            f"a gated data set ({shorten(error)})",
            "ask for access on its page and log in with `hf auth login`",
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        found, mend = f"no such data set on the Hub ({shorten(error)})", "correct the name"
    except (HTTPError, OSError) as error:
        found, mend = f"no way to the Hub ({type(error).__name__}: {shorten(error)})", "check the network"
    raise CostarError(
        wanted.place,
        found=found,
        expected=f"the data set on the Hub, or its files in {' or '.join(str(f / wanted.repository) for f in folders)}",
        mend=f"{mend}, or put a copy of the repository there",
    )


@functools.lru_cache(maxsize=16)
def _opened(wanted: _Wanted, root: str, field: str) -> _Opened:
    """Open a data set in this process. `root` is a folder, or what its files on the Hub begin with."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it would say is in the errors
    where = _where(root)
    try:
        builder = datasets.load_dataset_builder(**where, name=wanted.config or None, data_files=wanted.pattern or None)
        split = _split(wanted, [str(name) for name in builder.config.data_files])
        rows = builder.as_streaming_dataset(split)
        if rows.features is not None and field not in rows.features:
            text_of(dict.fromkeys(rows.features), field, wanted.place)
    except CostarError:
        raise
    except Exception as error:
        raise _not_opened(wanted, root, error) from error
    files = tuple(builder.config.data_files[split])
    outside = [file for file in files if not file.startswith(root + "/")]
    if outside or rows.num_shards != len(files):
        raise CostarError(
            wanted.place,
            found=f"the file {outside[0]} elsewhere" if outside else f"{rows.num_shards} shards in {len(files)} files",
            expected="files of the data set, each read as one shard, as .parquet and .jsonl are",
            mend="convert it, or name its files by a pattern",
        )
    bare = builder.DEFAULT_CONFIG_NAME is None and list(builder.builder_configs) == ["default"]
    return _Opened(files=files, rows=rows, chosen=bool(wanted.pattern) or not bare)


def _where(root: str) -> dict[str, Any]:
    path, _, revision = root.removeprefix(REMOTE).partition("@") if root.startswith(REMOTE) else (root, "", "")
    return {"path": path, "revision": revision or None}


def _split(wanted: _Wanted, splits: Sequence[str]) -> str:
    split = wanted.split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else "")
    if split not in splits:
        raise CostarError(
            wanted.place,
            found=f"no split {split!r}" if split else "several splits and none named train",
            expected=f"one of {', '.join(splits)}",
            mend=f'name it: "{wanted.repository}:{wanted.config}/{splits[0]}"',
        )
    return split


def _not_opened(wanted: _Wanted, root: str, error: Exception) -> CostarError:
    """The refusal of what `datasets` does not open, with the configurations where they are the matter."""
    from datasets import get_dataset_config_names

    if isinstance(error, ValueError) and "onfig" in str(error):
        names = get_dataset_config_names(**_where(root))
        if wanted.config not in names:
            return CostarError(
                wanted.place,
                found=f"no configuration {wanted.config!r}"
                if wanted.config
                else "several configurations and no default",
                expected=f"one of {shorten(', '.join(names), 400)}",
                mend=f'name it: "{wanted.repository}:{names[0]}"',
            )
    return CostarError(
        wanted.place,
        found=f"{root} is not read by `datasets` ({type(error).__name__}: {shorten(error)})",
        expected="a data set with whole files, as .parquet or .jsonl",
        mend="correct the path, fetch its files again, or name some of them by a pattern",
    )


def _refuse_two_kinds(wanted: _Wanted, names: Sequence[str]) -> None:
    """`datasets` reads files of one kind: it passes over the others without a word, or takes them for broken ones."""
    known = [name for name in names if name.endswith(SUFFIXES)]
    kinds = [next((name for name in known if name.endswith(".parquet") == parquet), None) for parquet in (True, False)]
    if all(kinds):
        raise CostarError(
            wanted.place,
            found=f"files of two kinds: {kinds[0]} and {kinds[1]}",
            expected="files of one kind, or configurations in the README that say what to read",
            mend=f'name the files by their ending: "{wanted.repository}/**/*.parquet"',
        )
