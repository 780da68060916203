"""`costar release SUITE --push ORG`: a finished release as private repositories of the Hub, proved by reading them back.

What is uploaded is the tree of `hub_tree.py`, and what `--dry-run` writes is that tree. Everything that can be refused is
refused before anything is uploaded. Then every revision is one commit of what the Hub lacks, so the same command goes on
where an earlier one stopped; in the end every file of every revision is downloaded again and its hash compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.console import Update
from ..core.errors import CostarError, shorten
from ..core.workspace import output_lock, read_facts
from .facts import FACTS, MANIFEST, SUMS, Release, read_release
from .hub_files import KEPT, held_facts, held_files, is_there, read_again
from .hub_tree import Revision, check_names, write_tree
from .verify_files import damaged_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PATIENCE = 10.0  # seconds to connect
WRITERS = ("admin", "write", "contributor")  # roles in an organization that may create repositories
OWN = ("suite", "run", "tokens_sha256", "order_sha256")  # what makes a repository that of this suite, where it says so
GATE = "extra_gated_"  # keys of a card that asks for access by request


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did. `folder` has the tree; `collection` is empty in a dry run; counts are of files."""

    folder: Path
    repositories: tuple[str, ...]
    revisions: int
    files: int
    uploaded: int
    gated: tuple[str, ...]
    collection: str


def push_release(folder: Path, organization: str, *, dry_run: bool, update: Update) -> Pushed:
    """Write the tree of a release for the Hub; without `dry_run` upload it, and read all of it again.

    Raises:
        CostarError: a damaged release, a name that the Hub does not take, no token, no right, a repository of somebody
            else's, no way to the Hub, or what was read again is not what was sent.
    """
    release = read_release(folder)
    check_names(release, organization)
    target = folder.with_name(f"{folder.name}-dry-run") / organization
    with output_lock(folder, "push"):
        _refuse_damaged(release, update)
        if not dry_run:
            api = _open_hub()
            _check_rights(api, organization)
        with output_lock(target, "push"):
            revisions = write_tree(release, organization, target)
            gated = _gated(revisions)
            uploaded, collection = 0, ""
            if not dry_run:
                with _explained("push"):
                    _check_owned(api, release, revisions)
                    _create(api, revisions, gated)
                    uploaded = _upload(api, revisions, update)
                    read_again(api, revisions, update)
                    collection = _collect(api, organization, target)
    return Pushed(
        folder=target,
        repositories=tuple(dict.fromkeys(str(each).split("@")[0] for each in revisions)),
        revisions=len(revisions),
        files=sum(len(each.files) for each in revisions),
        uploaded=uploaded,
        gated=tuple(sorted(gated)),
        collection=collection,
    )


def _refuse_damaged(release: Release, update: Update) -> None:
    problems = damaged_files(release, update, exports=False)
    if problems:
        raise CostarError(
            str(release.folder),
            found="a damaged release: " + "; ".join(problems[:5]),
            expected=f"the files of {SUMS}",
            mend="pack it again: costar release SUITE",
            exit_code=1,
        )


@contextlib.contextmanager
def _explained(place: str) -> Iterator[None]:
    """What the Hub and the way to it raise, as one message."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    again = "run the same command again: it uploads only what is missing"
    try:
        yield
    except LocalTokenNotFoundError:
        raise CostarError(
            place,
            found="no token of the Hub",
            expected="one that may write",
            mend="run `hf auth login`, or set HF_TOKEN",
        ) from None
    except OfflineModeIsEnabled:
        raise CostarError(
            place, found="HF_HUB_OFFLINE is set", expected="a way to the Hub", mend="unset it, or use --dry-run"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            found, mend = "a token that the Hub does not know", "run `hf auth login`, or correct HF_TOKEN"
        elif status == 403:
            found, mend = f"no right: {_said(error)}", "use a token that may write there, or another ORG"
        else:
            found, mend = f"the Hub answers {status}: {_said(error)}", again
        raise CostarError(place, found=found, expected="what was asked", mend=mend, exit_code=1) from None
    except (httpx2.HTTPError, ConnectionError, RuntimeError) as error:
        cause = error.__cause__ or error
        if isinstance(error, RuntimeError) and not isinstance(cause, httpx2.HTTPError | HfHubHTTPError):
            raise
        raise CostarError(
            place,
            found=f"no way to the Hub ({type(cause).__name__}: {shorten(cause)})",
            expected="answers",
            mend=f"check the network; then {again}",
            exit_code=1,
        ) from None


def _said(error: Any) -> str:
    """What the Hub says of an error, without the address."""
    return shorten(error.server_message or str(error).strip().splitlines()[-1], 160)


def _open_hub() -> HfApi:
    import httpx2
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    get_session().timeout = httpx2.Timeout(None, connect=PATIENCE)
    return HfApi(library_name="costar")


def _check_rights(api: HfApi, organization: str) -> None:
    """Refuse a token that cannot write in the organization, as far as the Hub tells."""
    with _explained("--push"):
        user = api.whoami()
    roles = {user["name"]: "admin"}
    roles |= {org["name"]: org.get("roleInOrg") or "write" for org in user.get("orgs", [])}
    mend = "name another ORG, or ask for the role `write` there"
    if organization not in roles:
        mine = ", ".join(roles)
        raise CostarError(
            "--push",
            found=f"{organization}, of which {user['name']} is no member",
            expected=f"one of {mine}",
            mend=mend,
        )
    if roles[organization] not in WRITERS:
        found = f"{user['name']} has the role {roles[organization]} in {organization}"
        raise CostarError("--push", found=found, expected=f"one of {', '.join(WRITERS)}", mend=mend)
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise CostarError(
            "--push",
            found="a token that may only read",
            expected="one that may write",
            mend="make one in the settings of the Hub",
        )


def _gated(revisions: list[Revision]) -> set[str]:
    """The repositories whose card asks for access by request."""
    from huggingface_hub import metadata_load

    gated = set()
    for each in revisions:
        card = metadata_load(each.folder / "README.md") if (each.folder / "README.md").is_file() else None
        if any(key.startswith(GATE) for key in card or {}):
            gated.add(each.repository)
    return gated


def _check_owned(api: HfApi, release: Release, revisions: list[Revision]) -> None:
    """Refuse a repository that has files and does not say that it is of this suite and run."""
    from huggingface_hub.errors import RepositoryNotFoundError

    for each in revisions:
        if each.branch != "main":
            continue
        try:
            present = set(held_files(api, each, "main"))
        except RepositoryNotFoundError:
            continue
        name = FACTS if each.kind == "dataset" else MANIFEST
        theirs = held_facts(api, each, name) if name in present else {}
        ours = read_facts(each.folder / name, ["suite"], mend="pack the release again")
        same = all(theirs.get(key) == ours.get(key) for key in OWN)
        if present - KEPT and not same:
            raise CostarError(
                f"repository {each.repository}",
                found=f"it is there already and is not of suite {release.suite}",
                expected="no such repository, or one that costar made for this suite",
                mend="rename the suite, use another ORG, or remove the repository on the Hub",
            )
        if ours.get("blind") and theirs and not theirs.get("blind"):
            raise CostarError(
                f"repository {each.repository}",
                found="a release with labels, which its history keeps",
                expected="a blind release in a repository that never had labels",
                mend="rename the suite, use another ORG, or remove the repository on the Hub",
            )


def _create(api: HfApi, revisions: list[Revision], gated: set[str]) -> None:
    """Make every repository, private, and gate those that ask for it, before a file is sent."""
    for each in revisions:
        if each.branch != "main":
            continue
        with _explained(f"repository {each.repository}"):
            api.create_repo(each.repository, repo_type=each.kind, private=True, exist_ok=True)
            if each.repository in gated:
                api.update_repo_settings(each.repository, repo_type=each.kind, gated="manual")
                if api.repo_info(each.repository, repo_type=each.kind).gated != "manual":
                    raise CostarError(
                        f"repository {each.repository}",
                        found="the Hub did not gate it",
                        expected="access by request, as its card says: it holds real text",
                        mend="gate it in its settings on the Hub, and push again",
                        exit_code=1,
                    )


def _upload(api: HfApi, revisions: list[Revision], update: Update) -> int:
    """Bring every revision to what it shall be, each in one commit; the number of files that the Hub lacked."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    uploaded = 0
    for number, each in enumerate(revisions):
        update(number / len(revisions) / 2, f"{each}")
        _make_branch(api, each)
        remote = held_files(api, each, each.branch)
        missing = [name for name in each.files if not is_there(each, name, remote.get(name))]
        surplus = [name for name in remote if name not in each.files and name not in KEPT]
        if not missing and not surplus:
            continue
        api.create_commit(
            each.repository,
            [CommitOperationAdd(name, each.folder / name) for name in missing]
            + [CommitOperationDelete(name) for name in surplus],
            commit_message="costar release",
            repo_type=each.kind,
            revision=each.branch,
        )
        uploaded += len(missing)
    return uploaded


def _make_branch(api: HfApi, each: Revision) -> None:
    """A branch begins empty: at the first commit, so that it never shows the files of another step."""
    refs = api.list_repo_refs(each.repository, repo_type=each.kind)
    if each.branch in {branch.name for branch in refs.branches}:
        return
    first = api.list_repo_commits(each.repository, repo_type=each.kind)[-1].commit_id
    api.create_branch(each.repository, branch=each.branch, revision=first, repo_type=each.kind, exist_ok=True)


def _collect(api: HfApi, organization: str, target: Path) -> str:
    """The address of the collection of all repositories, made or completed."""
    facts = read_facts(target / "collection.json", ["title", "description", "items"], mend="push again")
    with _explained(f"collection {facts['title']}"):
        known = [each for each in api.list_collections(owner=organization) if each.title == facts["title"]]
        if known:
            collection = api.get_collection(known[0].slug)
        else:
            collection = api.create_collection(
                facts["title"], namespace=organization, description=facts["description"], private=True
            )
        present = {(item.item_type, item.item_id) for item in collection.items}
        for item in facts["items"]:
            if (item["type"], item["id"]) not in present:
                api.add_collection_item(collection.slug, item["id"], item["type"], note=item["note"], exists_ok=True)
    return collection.url
