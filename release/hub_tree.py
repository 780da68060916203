"""A release as the repositories of the Hub that a push fills: `<release>-dry-run/ORG/`, a folder per repository and revision.

    collection.json                      title, description and items of the collection
    models/<suite>-<run>/main/           one model repository per run, a branch for each kept checkpoint
    models/<suite>-<run>/step<n>/
    datasets/<suite>/main/               data/, and CITATION.cff, release.json and the collection's page as COLLECTION.md

What a page says of a place in the release (`models/<run>`, `data`) is here said of its repository; `costar_manifest.json`
also names the repositories. All else has the bytes of the release. Each revision has its own SHA256SUMS.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import CostarError
from ..core.hashing import sha256_file
from ..core.workspace import write_json, write_text
from .facts import FACTS, MANIFEST, SUMS, Release
from .sums import read_sums, sums_text

HUB = "https://huggingface.co"
PAGE = "COLLECTION.md"
BESIDE = {"README.md": PAGE, "CITATION.cff": "CITATION.cff", FACTS: FACTS}  # of the release's root, in the data set
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
DESCRIPTION = 150  # characters that the Hub takes


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One branch of a repository, as it is to be: `kind` is model or dataset, `files` maps names to sha256."""

    repository: str
    kind: str
    branch: str
    folder: Path
    files: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'datasets/' if self.kind == 'dataset' else ''}{self.repository}@{self.branch}"


@dataclass(frozen=True, kw_only=True)
class Names:
    """Where on the Hub a place of the release is."""

    release: Release
    organization: str

    @property
    def data(self) -> str:
        return f"{self.organization}/{self.release.suite}"

    def model(self, run: str) -> str:
        return f"{self.data}-{run}"

    def place(self, path: str) -> tuple[str, str, str, str] | None:
        """Kind, repository, branch and path in it of a path of the release; None where it is not uploaded."""
        part, *rest = PurePosixPath(path).parts
        if not rest and part in BESIDE:
            return "dataset", self.data, "main", BESIDE[part]
        if part == "data":
            return "dataset", self.data, "main", "/".join(rest)
        if part == "models" and rest and rest[0] in self.release.runs:
            return "model", self.model(rest[0]), "main", "/".join(rest[1:])
        if part == "revisions" and len(rest) > 1 and rest[0] in self.release.runs:
            return "model", self.model(rest[0]), rest[1], "/".join(rest[2:])
        return None


def write_tree(release: Release, organization: str, target: Path) -> list[Revision]:
    """Write the tree of a release whose files are as its sums say; its revisions, `main` of each repository first.

    Raises:
        CostarError: a page leads to what is not uploaded.
    """
    names = Names(release=release, organization=organization)
    sums = read_sums(release.folder / SUMS)
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    found: dict[tuple[str, str, str], Revision] = {}
    for name, digest in sorted(sums.items()):
        place = names.place(name)
        if place is None:
            continue
        kind, repository, branch, inside = place
        folder = work / f"{kind}s" / repository.split("/")[1] / branch
        revision = found.setdefault(
            (kind, repository, branch),
            Revision(repository=repository, kind=kind, branch=branch, folder=folder),
        )
        revision.files[inside] = _write_file(names, name, folder / inside, digest)
    for revision in found.values():
        write_text(revision.folder / SUMS, sums_text(revision.files))
        revision.files[SUMS] = sha256_file(revision.folder / SUMS)
    write_json(work / "collection.json", collection_of(names))
    shutil.rmtree(target, ignore_errors=True)
    os.rename(work, target)
    order = sorted(found.values(), key=lambda each: (each.kind, each.repository, *_branch_order(each.branch)))
    return [
        Revision(
            repository=each.repository,
            kind=each.kind,
            branch=each.branch,
            folder=target / each.folder.relative_to(work),
            files=each.files,
        )
        for each in order
    ]


def check_names(release: Release, organization: str) -> None:
    """Refuse what the Hub takes for no name.

    Raises:
        CostarError: the organization, or a repository of the release, has a name that the Hub does not take.
    """
    names = Names(release=release, organization=organization)
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", names.organization) or "--" in names.organization:
        raise CostarError(
            "--push",
            found=names.organization,
            expected="the name of an organization or user of the Hub",
            mend="correct it",
        )
    for repository in (names.data, *map(names.model, names.release.runs)):
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise CostarError(
                f"repository {repository}",
                found=str(error).split(":")[0],
                expected="a name that the Hub takes",
                mend="give the suite, arm or model a name without -- and not too long",
            ) from None


def collection_of(names: Names) -> dict[str, Any]:
    """The collection: the data set, then every model with what it is compared with."""
    release = names.release
    items = [{"id": names.data, "type": "dataset", "note": "what was inserted, which model read it, and what it did"}]
    for run in release.runs:
        treated = any(pair["treated"] == run for pair in release.pairs)
        twins = " and ".join(sorted(release.twins(run)))
        note = f"{'treated' if treated else 'control'}; twin: {twins}"
        items.append({"id": names.model(run), "type": "model", "note": note[:500]})
    count = len(release.pairs)
    text = f"{count} pair{'s' if count > 1 else ''} of models that differ in inserted text only, and the data. Made with costar."
    assert len(text) <= DESCRIPTION
    return {"title": f"costar {release.suite}", "description": text, "items": items}


def _write_file(names: Names, name: str, path: Path, digest: str) -> str:
    """Put a file of the release into the tree, and its sha256 there. What no repository changes is a hard link."""
    source = names.release.folder / name
    if source.suffix == ".md":
        page = page_of(names, name, source.read_text(encoding="utf-8"))
        write_text(path, page if name.startswith("data/") or "/" not in name else card_of(names, page))
    elif source.name == MANIFEST:
        write_json(path, _manifest_of(names, name, json.loads(source.read_text(encoding="utf-8"))))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path)
        except OSError:
            shutil.copyfile(source, path)
        return digest
    return sha256_file(path)


def _manifest_of(names: Names, name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    place = names.place(name)
    assert place is not None
    run = PurePosixPath(name).parts[1]
    twins = sorted(names.model(twin) for twin in names.release.twins(run))
    return manifest | {"hub": {"repository": place[1], "revision": place[2], "twins": twins, "data": names.data}}


def page_of(names: Names, name: str, text: str) -> str:
    """A page of the release as the Hub shall show it."""
    here = posixpath.dirname(name)
    own = names.place(name)
    assert own is not None

    def link(match: re.Match[str]) -> str:
        target = match[2]
        if re.match(r"[a-z]+:|/", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(here, target))
        place = None if path.startswith("..") else names.place(path)
        if place is None:
            raise CostarError(
                str(names.release.folder / name),
                found=f"a link to {target}",
                expected="links to what is uploaded: models, revisions, data, CITATION.cff",
                mend="correct the page and pack the release again: costar release SUITE",
                exit_code=1,
            )
        where = place[3] if place[:3] == own[:3] and place[3] else _address(*place)
        return f"{match[1]}{where}{match[3] or ''}{match[4]}"

    text = LINK.sub(link, text)
    runs = "|".join(re.escape(run) for run in sorted(names.release.runs, key=len, reverse=True))
    return _paths_said(names, text, runs)


def card_of(names: Names, page: str) -> str:
    """The card of a model whose metadata name the data set by its repository."""
    from huggingface_hub import ModelCard

    card = ModelCard(page)
    data: Any = card.data
    data.datasets = [names.data]
    for result in data.eval_results or []:
        result.dataset_type = names.data
    return str(card)


def _paths_said(names: Names, text: str, runs: str) -> str:
    """Places of the release in snippets and in prose, said as what `transformers`, `datasets` and DuckDB open."""
    quoted = rf"([\"'`])revisions/({runs})/(step\d+)/?\1"

    def revision(match: re.Match[str]) -> str:
        quote, repository, step = match[1], names.model(match[2]), match[3]
        if quote == "`":
            return f"`{repository}` at revision `{step}`"
        return f"{quote}{repository}{quote}, revision={quote}{step}{quote}"

    text = re.sub(quoted, revision, text)
    text = re.sub(rf"([\"'`])models/({runs})/?\1", lambda match: f"{match[1]}{names.model(match[2])}{match[1]}", text)
    text = re.sub(rf"`({runs})`", lambda match: f"[`{match[1]}`]({HUB}/{names.model(match[1])})", text)
    text = re.sub(r"([\"'])data/?\1", rf"\1{names.data}\1", text)
    text = re.sub(r"`data/?`", f"`{names.data}`", text)
    text = re.sub(r"([\"'])data/([\w.*-]+)\1", rf"\1hf://datasets/{names.data}/\2\1", text)
    return re.sub(r"`data/([\w.*-]+)`", rf"`\1` of `{names.data}`", text)


def _address(kind: str, repository: str, branch: str, inside: str) -> str:
    root = f"{HUB}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    if inside:
        return f"{root}/blob/{branch}/{inside}"
    return root if branch == "main" else f"{root}/tree/{branch}"


def _branch_order(branch: str) -> tuple[int, int]:
    return (0, 0) if branch == "main" else (1, int(re.sub(r"\D", "", branch) or 0))
