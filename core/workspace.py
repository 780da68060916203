"""Where a built suite lies, when a part of it is current, and who may write it.

A directory (or a step that shares one) is current when its marker is there: `stage.json`, or `stage-<step>.json`, with
the hash of the inputs and every file's size and sha256, written last. Nothing else says that work is done, so a stage
can be killed at any moment and simply runs again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import CostarError
from .hashing import sha256_file

HASHED_AT_ONCE = 256 * 2**20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit on the size of a file


@dataclass(frozen=True)
class Workspace:
    """The paths of `build/<suite>/`."""

    root: Path

    @property
    def corpus(self) -> Path:
        return self.root / "corpus"

    @property
    def insertion(self) -> Path:
        return self.root / "insertion"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def eval(self) -> Path:
        return self.root / "eval"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.duckdb"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def release(self) -> Path:
        return self.root / "release"

    def run(self, run: str) -> Path:
        return self.runs / run

    def checkpoint(self, run: str, step: int) -> Path:
        return self.runs / run / "checkpoints" / f"step-{step:06d}"

    def exposures(self, arm: str, draw: int) -> Path:
        return self.insertion / "exposures" / f"arm={arm}" / f"draw={draw}"

    def ledger(self, run: str, step: int) -> Path:
        return self.eval / "ledger" / f"run={run}" / f"step={step}"

    def generated(self, run: str, step: int) -> Path:
        return self.eval / "generated" / f"run={run}" / f"step={step}"

    def scores(self, run: str) -> Path:
        return self.eval / "scores" / f"run={run}"

    def external(self, name: str) -> Path:
        return self.eval / "external" / name


def _marker(folder: Path, step: str) -> Path:
    return folder / (f"stage-{step}.json" if step else "stage.json")


def read_marker(folder: Path, step: str = "") -> dict[str, Any] | None:
    """The marker of a finished step, or None. What is not a marker counts as absent: it was cut short or damaged."""
    try:
        marker = json.loads(_marker(folder, step).read_text(encoding="utf-8"))
        whole = isinstance(marker["input"], str) and all({"size", "sha256"} <= set(f) for f in marker["files"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return marker if whole else None


def read_facts(path: Path, keys: Sequence[str], *, mend: str) -> dict[str, Any]:
    """A JSON file of facts that has these keys.

    Raises:
        CostarError: it is missing, damaged, or lacks a key.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in facts]
    except (OSError, ValueError, TypeError) as error:
        raise CostarError(str(path), found=f"no facts ({error})", expected=", ".join(keys), mend=mend) from None
    if missing or not isinstance(facts, dict):
        raise CostarError(str(path), found=f"nothing of {', '.join(missing)}", expected=", ".join(keys), mend=mend)
    return facts


def corpus_facts(workspace: Workspace) -> dict[str, Any]:
    """`corpus.json` of a built corpus."""
    return corpus_facts_in(workspace.corpus)


def corpus_facts_in(folder: Path) -> dict[str, Any]:
    """`corpus.json` of a corpus folder."""
    keys = (
        "source",
        "documents",
        "tokens",
        "sequences",
        "sequence_length",
        "vocab_size",
        "eos_id",
        "eos",
        "dropped",
        "order",
    )
    hashes = ("tokenizer_sha256", "tokens_sha256", "dropped_sha256", "corpus_sha256", "corpus")
    return read_facts(folder / "corpus.json", (*keys, *hashes), mend="run `costar corpus`")


def step_of(path: Path) -> int | None:
    """The step in a name such as `step-000366` or `step-000366.likelihood.parquet`; None for any other name."""
    match = re.fullmatch(r"(?:step|gaps)-(\d+)(\.[a-z0-9-]+)?(\.parquet)?", path.name)
    return int(match[1]) if match else None


def is_current(folder: Path, input_hash: str, step: str = "") -> bool:
    """Whether a step was finished from these inputs and its files are as written: their sizes, and up to 256 MB a file
    their bytes, so that the same verb mends what was damaged."""
    marker = read_marker(folder, step)
    if marker is None or marker["input"] != input_hash or _missized(folder, marker):
        return False
    small = {name: facts for name, facts in marker["files"].items() if facts["size"] <= HASHED_AT_ONCE}
    return all(sha256_file(folder / name) == facts["sha256"] for name, facts in small.items())


def is_whole(folder: Path, step: str = "") -> bool:
    """Whether a step was finished and its files have their sizes, whatever it was made from."""
    marker = read_marker(folder, step)
    return marker is not None and not _missized(folder, marker)


def _missized(folder: Path, marker: dict[str, Any]) -> list[str]:
    wrong = []
    for name, facts in marker["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["size"]:
            wrong.append(name)
    return wrong


def start_step(folder: Path, step: str = "") -> None:
    """Make the folder and take the marker away: from here on the step counts as not done."""
    folder.mkdir(parents=True, exist_ok=True)
    _marker(folder, step).unlink(missing_ok=True)


def finish_step(
    folder: Path,
    input_hash: str,
    files: Sequence[Path],
    step: str = "",
    state: str | None = None,
    known: Mapping[Path, str] | None = None,
) -> None:
    """Write the marker, last of all; `state` names what was measured, where that is not the folder's own, `known` has
    hashes of large files that were computed already."""
    hashes = known or {}
    entries = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": hashes.get(path) or sha256_file(path)}
        for path in sorted(files)
    }
    write_json(_marker(folder, step), {"input": input_hash, "files": entries} | ({"state": state} if state else {}))


def check_files(folder: Path, step: str = "", *, mend: str) -> dict[str, Any]:
    """The marker of a step whose files all have their recorded sizes.

    Raises:
        CostarError: the step never finished, or a file is missing or was cut or changed.
    """
    marker = read_marker(folder, step)
    if marker is None:
        raise CostarError(str(folder), found="no finished build", expected=_marker(folder, step).name, mend=mend)
    for name in _missized(folder, marker):
        path = folder / name
        found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        size = marker["files"][name]["size"]
        raise CostarError(str(path), found=found, expected=f"{size:,} bytes, as when it was built", mend=mend)
    return marker


def changed_files(folder: Path, step: str = "") -> list[str]:
    """The files of a finished step whose bytes are no longer those that were written."""
    marker = read_marker(folder, step)
    if marker is None:
        return []
    wrong = _missized(folder, marker)
    hashed = (name for name in marker["files"] if name not in wrong)
    return wrong + [name for name in hashed if sha256_file(folder / name) != marker["files"][name]["sha256"]]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; when the block ends well, the file is synced and takes the name `path`.

    Files have one writer at a time, so what a killed one left under this name is taken away, with what DuckDB keeps
    beside a file that it writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        if not _is_running(leftover.name.removeprefix(f".{path.name}.").split(".")[0]):
            _remove(leftover)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        for left in temporary.parent.glob(f"{glob.escape(temporary.name)}*"):
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(pid: str) -> bool:
    """Whether a process of this number lives: then its file is no leftover. One that ended and that nobody waited for is
    none."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def remove_leftovers(folder: Path) -> None:
    """Take away the work folders of killed writers, not those that a step goes on from. Call it with the lock held."""
    for path in folder.glob(".work-[0-9]*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """An empty folder of this process alone: workers that outlive a killed build cannot write into the next one."""
    remove_leftovers(folder)
    work = folder / f".work-{os.getpid()}"
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def output_lock(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """The right to write `folder`. A second writer is refused with the name of the first, or waits if `wait`.

    The lock is the kernel's (flock): it goes with the process, so a killed writer leaves none behind.

    Raises:
        CostarError: another process writes this output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f".{folder.name}.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise written_elsewhere(folder, _holder(file)) from None
        _sign(file, what)
        yield


def written_elsewhere(folder: Path, holder: str) -> CostarError:
    """The refusal of a second writer of an output, with the name of the first."""
    return CostarError(
        str(folder), found=f"being written by {holder}", expected="one writer at a time", mend="wait for it, or stop it"
    )


class Claims:
    """What this process alone may start, until it ends: a lock of the kernel beside each output's own."""

    def __init__(self) -> None:
        self._files: dict[Path, IO[str]] = {}

    def take(self, folder: Path, what: str) -> str | None:
        """Claim an output that nobody else claims and nobody writes; otherwise the name of who does."""
        if folder in self._files:
            return None
        folder.parent.mkdir(parents=True, exist_ok=True)
        claim = (folder.parent / f".{folder.name}.claim.lock").open("a+")
        with (folder.parent / f".{folder.name}.lock").open("a+") as writing:
            for file in (claim, writing):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = _holder(file)
                    claim.close()
                    return holder
        _sign(claim, what)
        self._files[folder] = claim
        return None


def _holder(file: IO[str]) -> str:
    """Who holds a lock, by what it wrote into its file."""
    file.seek(0)
    return file.read().strip() or "another process"


def _sign(file: IO[str], what: str) -> None:
    file.truncate(0)
    file.write(f"costar {what}, process {os.getpid()}")
    file.flush()


def explain_os_error(error: OSError) -> CostarError:
    """A full or read-only disk, or any other error of the system, in the project's words."""
    place = str(error.filename or "output")
    if error.errno in DISK_FULL:
        return CostarError(
            place,
            found="the disk is full",
            expected="room for the output",
            mend="free some space, or set `build` in machine.toml; then run the same command again: nothing is lost",
            exit_code=1,
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return CostarError(
            place,
            found="no right to write here",
            expected="a writable folder",
            mend="change its mode, or set `build` in machine.toml",
            exit_code=1,
        )
    return CostarError(
        place,
        found=error.strerror or str(error),
        expected="a file or folder that can be used",
        mend="check the path and what lies there, and the paths in machine.toml; then run the same command again",
        exit_code=1,
    )
