"""A push to a small Hub on loopback, by the real client: what is there, what is refused, what goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from costar.release.facts import SUMS
from costar.release.sums import read_sums

from tests.release.hub_server import ROOT_FILES, Hub, Refusal, Repo, git_oid, small_hub
from tests.release.releases import summed_again

TREATED, CONTROL = "perturbed.nano.d0", "standard.nano.d0"
STEPS = ["step24", "step48", "step72", "step96"]
PUSH = """
import dataclasses, json, sys
from pathlib import Path
from costar.core.errors import CostarError
from costar.release.hub import push_release
folder, organization, dry_run = sys.argv[1:]
try:
    done = push_release(Path(folder), organization, dry_run=dry_run == "yes", update=lambda share, remark: None)
    sys.stdout.write(json.dumps(dataclasses.asdict(done), default=str))
except CostarError as error:
    sys.stdout.write(json.dumps({"refused": str(error)}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with small_hub() as running:
        yield running


@pytest.fixture
def release(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built / "release", tmp_path / "release"))


def environment(folder: Path, hub: Hub | None, token: str = "hf_keeper") -> dict[str, str]:
    """That of somebody who uses this Hub, and nothing of this machine's."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    return keep | own | {"HF_HOME": str(folder / "home"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(
    release: Path, hub: Hub | None, *, to: str = "lab", dry_run: bool = False, **own: str
) -> subprocess.Popen[str]:
    """The client reads its address when it is imported, so a push is a process of its own."""
    command = [sys.executable, "-c", PUSH, str(release), to, "yes" if dry_run else "no"]
    surroundings = environment(release.parent, hub) | own
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def push(release: Path, hub: Hub | None, *, to: str = "lab", dry_run: bool = False, **own: str) -> dict[str, Any]:
    process = start(release, hub, to=to, dry_run=dry_run, **own)
    told, complaints = process.communicate(timeout=600)
    assert process.returncode == 0, complaints
    found: dict[str, Any] = json.loads(told)
    return found


def tree_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shown(repo: Repo, branch: str) -> dict[str, bytes]:
    return {path: data for path, data in repo.files(branch).items() if path not in ROOT_FILES}


def test_the_hub_holds_the_tree_of_the_dry_run_and_a_second_push_sends_nothing(release: Path, hub: Hub) -> None:
    tried = push(release, None, dry_run=True)
    tree = tree_of(Path(tried["folder"]))
    done = push(release, hub)
    assert tree_of(Path(done["folder"])) == tree
    assert done["uploaded"] == done["files"] == tried["files"]
    names = {("datasets", "lab/small"), ("models", f"lab/small-{TREATED}"), ("models", f"lab/small-{CONTROL}")}
    assert set(hub.repos) == names
    found = {
        f"{kind}/{name.split('/')[1]}/{branch}/{path}": data
        for (kind, name), repo in hub.repos.items()
        for branch in repo.branches
        for path, data in shown(repo, branch).items()
    }
    assert found == {path: data for path, data in tree.items() if path != "collection.json"}
    assert all(repo.private for repo in hub.repos.values())
    assert set(hub.repos["models", f"lab/small-{TREATED}"].branches) == {"main", *STEPS}
    (collection,) = hub.collections.values()
    assert {(f"{item['type']}s", item["id"]) for item in collection["items"]} == names
    assert collection["private"]
    commits = {key: len(repo.commits) for key, repo in hub.repos.items()}
    hub.stored.clear()
    assert push(release, hub)["uploaded"] == 0
    assert hub.stored == []
    assert {key: len(repo.commits) for key, repo in hub.repos.items()} == commits
    assert len(hub.collections) == 1


def test_every_revision_proves_itself_and_what_is_not_text_has_the_bytes_of_the_release(release: Path) -> None:
    tree = Path(push(release, None, dry_run=True)["folder"])
    for folder in (*tree.glob("models/*/*"), *tree.glob("datasets/*/*")):
        done = subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout
        assert set(read_sums(folder / SUMS)) == set(tree_of(folder)) - {SUMS}
    for run in (TREATED, CONTROL):
        for branch, source in [("main", f"models/{run}"), *((step, f"revisions/{run}/{step}") for step in STEPS)]:
            folder = tree / "models" / f"small-{run}" / branch
            for path in (release / source).iterdir():
                same = (folder / path.name).read_bytes() == path.read_bytes()
                assert same == (path.name not in ("README.md", "costar_manifest.json"))


def test_what_pages_say_of_the_release_they_say_of_its_repositories_on_the_hub(release: Path) -> None:
    from huggingface_hub import metadata_load

    tree = Path(push(release, None, dry_run=True)["folder"])
    for page in tree.rglob("*.md"):
        text = page.read_text()
        assert not re.search(
            r"(?<![\w/.-])(models|revisions)/[a-z]|\"data\"|\]\((?!https://|CITATION|release)", text
        ), page
    card = tree / "models" / f"small-{TREATED}" / "step24" / "README.md"
    assert f'from_pretrained("lab/small-{TREATED}", revision="step24")' in card.read_text()
    metadata: Any = metadata_load(card)
    assert metadata["datasets"] == ["lab/small"]
    results = metadata["model-index"][0]["results"]
    assert {result["dataset"]["type"] for result in results} == {"lab/small"}
    page = (tree / "datasets" / "small" / "main" / "COLLECTION.md").read_text()
    assert f"](https://huggingface.co/lab/small-{CONTROL})" in page
    assert 'load_dataset("lab/small", "membership"' in page
    manifest = json.loads((tree / "models" / f"small-{CONTROL}" / "step24" / "costar_manifest.json").read_text())
    assert manifest["hub"] == {
        "repository": f"lab/small-{CONTROL}",
        "revision": "step24",
        "twins": [f"lab/small-{TREATED}"],
        "data": "lab/small",
    }


def test_a_push_of_a_blind_release_has_no_table_that_is_withheld(blind: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(blind / "release", tmp_path / "release"))
    tree = Path(push(folder, None, dry_run=True)["folder"])
    names = {path.stem for path in tree.rglob("*.parquet")}
    assert "records" in names
    assert not names & {"assignments", "exposures", "effects"}
    sealed = {path.name for path in (blind / "sealed").iterdir()}
    assert not {path.name for path in tree.rglob("*") if path.suffix != ".md"} & (sealed - {"membership.parquet"})


@pytest.mark.slow
def test_the_snippets_of_pushed_pages_run_as_they_stand(release: Path, hub: Hub, tmp_path: Path) -> None:
    push(release, hub)
    pages = [
        shown(hub.repos["datasets", "lab/small"], "main")["COLLECTION.md"],
        shown(hub.repos["datasets", "lab/small"], "main")["README.md"],
        shown(hub.repos["models", f"lab/small-{TREATED}"], "step24")["README.md"],
    ]
    for page in pages:
        code = re.search(r"```python\n(.*?)```", page.decode(), re.S)
        assert code is not None
        done = subprocess.run(
            [sys.executable, "-c", code[1]],
            cwd=tmp_path,
            env=environment(tmp_path, hub),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_killed_push_goes_on_and_sends_no_object_twice(release: Path, hub: Hub) -> None:
    hub.hold_after = 3
    process = start(release, hub)
    assert hub.held.wait(timeout=300)
    process.kill()
    process.communicate()
    before = list(hub.stored)
    assert len(before) == 3
    hub.hold_after = None
    hub.released.set()
    done = push(release, hub)
    assert done["uploaded"] <= done["files"]
    assert hub.stored[:3] == before
    assert len(hub.stored) == len(set(hub.stored)) > 3
    assert push(release, hub)["uploaded"] == 0


@pytest.mark.slow
def test_a_push_that_the_hub_refuses_midway_says_so_and_goes_on_from_there(release: Path, hub: Hub) -> None:
    hub.refuses[f"POST /api/models/lab/small-{CONTROL}/commit/step48"] = Refusal(403, message="storage is full")
    told = push(release, hub)["refused"]
    assert "storage is full" in told
    sent = sum(len(shown(repo, branch)) for repo in hub.repos.values() for branch in repo.branches)
    hub.refuses.clear()
    done = push(release, hub)
    assert done["uploaded"] == done["files"] - sent


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no token", "no token of the Hub"),
        ("unknown token", "a token that the Hub does not know"),
        ("no member", "lab, of which guest is no member"),
        ("reader", "reader has the role read in lab"),
        ("token that reads", "a token that may only read"),
        ("no way", "no way to the Hub"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("name taken", f"repository lab/small-{TREATED}\n  found     it is there already and is not of suite small"),
        ("other corpus", f"repository lab/small-{TREATED}\n  found     it is there already and is not of suite small"),
        ("name of another account", "the name of an organization"),
        ("too long a name", "a name that the Hub takes"),
    ],
)
def test_what_can_be_refused_is_refused_before_anything_is_sent(
    release: Path, hub: Hub, case: str, message: str
) -> None:
    hub.user("hf_guest", "guest")
    hub.user("hf_reader", "reader", lab="read")
    hub.user("hf_reads", "keeper", role="read", lab="admin")
    tokens = {"no token": "", "unknown token": "hf_x", "no member": "hf_guest", "reader": "hf_reader"}
    own = {"HF_TOKEN": tokens.get(case, "hf_reads" if case == "token that reads" else "hf_keeper")}
    if case == "offline":
        own["HF_HUB_OFFLINE"] = "1"
    if case == "name taken":
        repo = hub.create("models", f"lab/small-{TREATED}")
        repo.blobs[git_oid(b"theirs")] = b"theirs"
        repo.commit("main", "theirs", {"model.bin": git_oid(b"theirs")})
    if case == "other corpus":
        theirs = json.dumps({"suite": "small", "run": TREATED, "tokens_sha256": "0" * 64}).encode()
        repo = hub.create("models", f"lab/small-{TREATED}")
        repo.blobs[git_oid(theirs)] = theirs
        repo.commit("main", "theirs", {"costar_manifest.json": git_oid(theirs)})
    to = {"name of another account": "lab/other", "too long a name": "l" * 97}.get(case, "lab")
    if case == "too long a name":
        hub.user("hf_keeper", "keeper", **{to: "write"})
    before = {key: dict(repo.branches) for key, repo in hub.repos.items()}
    told = push(release, None if case == "no way" else hub, to=to, **own)["refused"]
    assert message in told
    assert "Traceback" not in told
    assert {key: dict(repo.branches) for key, repo in hub.repos.items()} == before
    assert not [path for method, path in hub.sent if method != "GET" and "paths-info" not in path]


@pytest.mark.slow
def test_what_reads_back_otherwise_is_named_and_mended_by_the_next_push(release: Path, hub: Hub) -> None:
    hub.serves = {f"small-{TREATED}/model.safetensors": b"other", "small@main/README.md": b"other"}
    hub.drops = f"{CONTROL}@(step24/costar_manifest|step48/)"
    told = push(release, hub)["refused"]
    for place in (
        f"lab/small-{TREATED}@main: model.safetensors has other bytes",
        "datasets/lab/small@main: README.md has other bytes",
        f"lab/small-{CONTROL}@step24: costar_manifest.json is missing",
        f"lab/small-{CONTROL}@step48: empty",
    ):
        assert place in told
    assert hub.collections == {}
    hub.serves, hub.drops = {}, ""
    assert "refused" not in push(release, hub)


@pytest.mark.slow
def test_real_text_is_gated_before_it_is_sent_or_not_sent_at_all(release: Path, hub: Hub) -> None:
    hub.refuses["PUT .*/settings"] = Refusal(403, message="gating is not for this account")
    told = push(release, hub)["refused"]
    assert "gating is not for this account" in told
    assert not any(shown(repo, branch) for repo in hub.repos.values() for branch in repo.branches)
    hub.refuses.clear()
    real = ["lab/small", f"lab/small-{TREATED}"]  # passages are text of the corpus
    assert push(release, hub)["gated"] == real
    gates = {name: repo.gated for (_, name), repo in hub.repos.items()}
    assert gates == {**dict.fromkeys(real, "manual"), f"lab/small-{CONTROL}": False}


def test_a_damaged_release_is_not_sent(release: Path, hub: Hub) -> None:
    path = release / "models" / TREATED / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert f"{TREATED}/model.safetensors" in push(release, hub)["refused"]
    assert hub.sent == []


@pytest.mark.slow
def test_a_changed_release_replaces_the_old_one_file_by_file(release: Path, hub: Hub) -> None:
    push(release, hub)
    hub.stored.clear()
    (release / "models" / TREATED / "generation_config.json").unlink()
    summed_again(release)
    done = push(release, hub)
    assert hub.stored == []
    assert done["uploaded"] == 3  # release.json, and the sums of two revisions
    assert "generation_config.json" not in shown(hub.repos["models", f"lab/small-{TREATED}"], "main")
    assert "generation_config.json" in shown(hub.repos["models", f"lab/small-{TREATED}"], "step96")
