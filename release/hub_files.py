"""What the Hub holds of a release: listed, compared without a transfer, and read again byte by byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..core.console import Update
from ..core.errors import CostarError
from .hub_tree import Revision

if TYPE_CHECKING:
    from huggingface_hub import HfApi, HfFileSystem

KEPT = {".gitattributes"}  # what the Hub puts into a new repository
CHUNK = 1 << 20


def held_files(api: HfApi, each: Revision, branch: str) -> dict[str, str]:
    """What the Hub says that a branch holds: the sha256 of each large file, the git object of each small one."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(each.repository, recursive=True, revision=branch, repo_type=each.kind)
    files = [entry for entry in tree if isinstance(entry, RepoFile)]
    return {entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in files}


def is_there(each: Revision, name: str, identity: str | None) -> bool:
    """Whether the Hub has a file: it names a large one by its sha256, a small one by its git object."""
    if identity is None or len(identity) == 64:
        return identity == each.files[name]
    data = (each.folder / name).read_bytes()
    return identity == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def held_facts(api: HfApi, each: Revision, name: str) -> dict[str, Any]:
    """A JSON object that the Hub holds; empty where it is none."""
    data = b"".join(_blocks(_file_system(api), each, name))
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_again(api: HfApi, revisions: Sequence[Revision], update: Update) -> None:
    """Download every file of every revision, and compare. Nothing is kept."""
    files, problems = _file_system(api), []
    for number, each in enumerate(revisions):
        update(0.5 + number / len(revisions) / 2, f"reading {each} again")
        present = set(held_files(api, each, each.branch)) - KEPT
        if not present:
            problems.append(f"{each}: empty")
            continue
        problems += [f"{each}: {name} is missing" for name in sorted(set(each.files) - present)]
        problems += [f"{each}: {name} is not of this release" for name in sorted(present - set(each.files))]
        for name in sorted(present & set(each.files)):
            state = hashlib.sha256()
            for block in _blocks(files, each, name):
                state.update(block)
            if state.hexdigest() != each.files[name]:
                problems.append(f"{each}: {name} has other bytes than those sent")
    if problems:
        raise CostarError(
            "push",
            found=f"{len(problems)} problem{'s' if len(problems) > 1 else ''} on the Hub: " + "; ".join(problems[:10]),
            expected="every file of every revision as it was sent",
            mend="run the same command again: it uploads only what differs",
            exit_code=1,
        )


def _file_system(api: HfApi) -> HfFileSystem:
    """The Hub's files, nothing of them remembered between two pushes of one process."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem(endpoint=api.endpoint, token=api.token, use_listings_cache=False, skip_instance_cache=True)


def _blocks(files: HfFileSystem, each: Revision, name: str) -> Iterator[bytes]:
    """A file of the Hub, as a reader would get it."""
    prefix = "datasets/" if each.kind == "dataset" else ""
    with files.open(f"{prefix}{each.repository}@{each.branch}/{name}", "rb", block_size=0) as file:
        while block := file.read(CHUNK):
            yield block
