"""Steps of datatrove pipelines for the tests of the executors: their tasks write one file each, and may go wrong once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from costar.core.errors import CostarError
from costar.core.workspace import replacing
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep


class Numbers(PipelineStep):
    """Every `world_size`-th number below `count`, as a document."""

    name, type = "numbers", "READER"

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for number in range(rank, self.count, world_size):
            yield Document(text=f"the number {number}", id=str(number))


class Mishap(PipelineStep):
    """What happens to the task `at` where `folder/mishap` lies: it names an error, a signal, or seconds to wait."""

    name, type = "mishap", "FILTER"

    def __init__(self, folder: str, at: int):
        super().__init__()
        self.folder, self.at = folder, at

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
        path = Path(self.folder) / "mishap"
        kind = path.read_text() if rank == self.at and path.is_file() else ""
        if kind == "error":
            raise CostarError("letters.txt, line 3", found="a hole", expected="text", mend="fill it")
        if kind == "bug":
            raise KeyError("colour")
        if kind == "exit":
            raise SystemExit(0)
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        while kind == "wait" and path.is_file():
            time.sleep(0.05)
        return data


class Lines(PipelineStep):
    """Writes a task's texts to `out-<rank>`, and a line into `ran-<rank>` each time that the task runs."""

    name, type = "lines", "WRITER"

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder
        self.seen: list[str] = []

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        with (Path(self.folder) / f"ran-{rank}").open("a") as file:
            threads = os.environ.get("RAYON_NUM_THREADS")
            file.write(f"{os.getpid()} {os.environ.get('SLURM_ARRAY_JOB_ID', 'local')} threads={threads}\n")
        self.seen += [document.text for document in data]
        with replacing(Path(self.folder) / f"out-{rank}") as temporary:
            temporary.write_text("\n".join(self.seen))


def steps(folder: Path, at: int = 1) -> list[PipelineStep]:
    return [Numbers(20), Mishap(str(folder), at), Lines(str(folder))]


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("out-*"))}


def runs(folder: Path) -> list[int]:
    """How often each task ran, by number."""
    paths = sorted(folder.glob("ran-*"), key=lambda path: int(path.name[4:]))
    return [len(path.read_text().splitlines()) for path in paths]


class Texts(PipelineStep):
    """Every rank yields its share of consecutive texts."""

    def __init__(self, texts: Sequence[str]):
        super().__init__()
        self.texts = texts

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for place in range(*share(len(self.texts), rank, world_size)):
            yield Document(text=self.texts[place], id=str(place))


def share(count: int, rank: int, tasks: int) -> tuple[int, int]:
    """The first text of a rank, and the first of the next."""
    return count * rank // tasks, count * (rank + 1) // tasks
