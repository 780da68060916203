"""A small Hub on loopback with the semantics that a push relies on: tokens, repositories, branches, commits, LFS, collections.

It keeps everything in memory, answers the real `huggingface_hub` client, and counts what it was sent. Tests make it fail
on purpose through the fields of `Hub`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ROOT_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
LARGE = (".safetensors", ".parquet")  # what the Hub stores as LFS whatever its size
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    parent: str | None
    tree: dict[str, str]  # path → name of a blob: git oid, or sha256 of an LFS object


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)

    def commit(self, branch: str, title: str, tree: dict[str, str]) -> Commit:
        parent = self.branches.get(branch)
        facts = json.dumps([self.kind, self.name, parent, title, tree], sort_keys=True)
        made = Commit(hashlib.sha1(facts.encode()).hexdigest(), title, parent, tree)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return self.commits[oid]

    def entry(self, path: str, blob: str) -> dict[str, Any]:
        data = self.blobs[blob]
        if blob not in self.large:
            return {"type": "file", "path": path, "size": len(data), "oid": blob}
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{blob}\nsize {len(data)}\n".encode()
        lfs = {"oid": blob, "size": len(data), "pointerSize": len(pointer)}
        return {"type": "file", "path": path, "size": len(data), "oid": git_oid(pointer), "lfs": lfs}

    def files(self, revision: str) -> dict[str, bytes]:
        return {path: self.blobs[blob] for path, blob in self.at(revision).tree.items()}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Refusal(Exception):
    """An answer that is an error of the Hub's."""

    def __init__(self, status: int, code: str = "", message: str = "", **body: Any):
        super().__init__(code)
        self.status, self.code, self.message, self.body = status, code, message, body


@dataclass
class Hub:
    """The state of the server; `users` maps a token to what the Hub says of its owner."""

    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)  # what was asked: method and path
    stored: list[str] = field(default_factory=list)  # LFS objects that arrived
    hold_after: int | None = None  # LFS uploads after which the server no longer answers any
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    refuses: dict[str, Refusal] = field(default_factory=dict)  # regular expression of "METHOD path" → the refusal
    serves: dict[str, bytes] = field(default_factory=dict)  # end of a file's path → other bytes than were sent
    drops: str = ""  # regular expression of the paths that commits lose
    url: str = ""

    def user(self, token: str, name: str, *, role: str = "write", **organizations: str) -> None:
        """Let a token in: its owner is a member of organizations, with a role in each."""
        orgs = [{"type": "org", "name": org, "roleInOrg": has} for org, has in organizations.items()]
        access = {"displayName": token, "role": role}
        self.users[token] = {
            "type": "user",
            "name": name,
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": access},
        }

    def create(self, kind: str, name: str, *, private: bool = False) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, private)
        oids = {path: git_oid(data) for path, data in ROOT_FILES.items()}
        repo.blobs = {oids[path]: data for path, data in ROOT_FILES.items()}
        repo.commit("main", "initial commit", oids)
        return repo

    def repo(self, kind: str, name: str) -> Repo:
        if (kind, name) not in self.repos:
            raise Refusal(404, "RepoNotFound")
        return self.repos[kind, name]


class Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = (
            self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self.chunks()
        )
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = parts.path
        self.hub.sent.append((self.command, path))
        try:
            for pattern, refusal in self.hub.refuses.items():
                if re.search(pattern, f"{self.command} {path}"):
                    raise refusal
            for pattern, method in ROUTES:
                if match := re.fullmatch(pattern, f"{self.command.replace('HEAD', 'GET')} {path}"):
                    found = getattr(self, method)(*(unquote(group or "") for group in match.groups()))
                    if found is not None:
                        self.answer(json.dumps(found).encode(), headers={"Content-Type": "application/json"})
                    return
            raise Refusal(404, "EntryNotFound")
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            body = json.dumps({"error": refusal.message, **refusal.body}).encode()
            self.answer(body, refusal.status, {key: value for key, value in headers.items() if value})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def member(self, *, writes: str = "") -> dict[str, Any]:
        """Who asks; `writes` names the account in which it must be allowed to write."""
        if self.token not in self.hub.users:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        user = self.hub.users[self.token]
        roles = {user["name"]: "admin"} | {org["name"]: org["roleInOrg"] for org in user["orgs"]}
        can = roles.get(writes) in ("admin", "write") and user["auth"]["accessToken"]["role"] == "write"
        if writes and not can:
            raise Refusal(403, message=f"You don't have the rights to write in {writes}")
        return user

    def found(self, kind: str, name: str, *, writes: bool = False) -> Repo:
        repo = self.hub.repo(kind, name)
        if repo.private or writes:
            self.member(writes=name.split("/", maxsplit=1)[0] if writes else "")
        return repo

    def whoami(self) -> Any:
        return self.member()

    def create(self) -> Any:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        self.member(writes=asked["organization"])
        kind = f"{asked['type']}s"
        url = f"{self.hub.url}/{'' if kind == 'models' else 'datasets/'}{name}"
        if (kind, name) in self.hub.repos:
            raise Refusal(409, message="You already created this repo", url=url)
        self.hub.create(kind, name, private=asked.get("visibility") == "private")
        return {"url": url, "name": name}

    def info(self, kind: str, name: str, revision: str = "main") -> Any:
        repo = self.found(kind, name)
        commit = repo.at(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.tree)]
        return {
            "_id": "0" * 24,
            "id": name,
            "sha": commit.oid,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }

    def refs(self, kind: str, name: str) -> Any:
        repo = self.found(kind, name)
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid}
            for branch, oid in repo.branches.items()
        ]
        return {"branches": branches, "converts": [], "tags": []}

    def commits(self, kind: str, name: str, revision: str) -> Any:
        repo, found = self.found(kind, name), []
        commit: Commit | None = repo.at(revision)
        while commit is not None:
            found.append({"id": commit.oid, "title": commit.title, "message": "", "authors": [], "date": DATE})
            commit = repo.commits.get(commit.parent or "")
        return found

    def tree(self, kind: str, name: str, revision: str, folder: str) -> Any:
        repo = self.found(kind, name)
        inside = folder.strip("/") + "/" if folder else ""
        tree = {path: blob for path, blob in repo.at(revision).tree.items() if path.startswith(inside)}
        if inside and not tree:
            raise Refusal(404, "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries, folders = [], set()
        for path, blob in sorted(tree.items()):
            rest = path.removeprefix(inside)
            if "/" in rest:
                folders.add(inside + rest.split("/")[0])
            if recursive or "/" not in rest:
                entries.append(repo.entry(path, blob))
        return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + entries

    def paths_info(self, kind: str, name: str, revision: str) -> Any:
        repo = self.found(kind, name)
        tree = repo.at(revision).tree
        asked = parse_qs(self.body.decode()).get("paths", [])
        folders = [p for p in asked if p not in tree and any(path.startswith(f"{p}/") for path in tree)]
        found = [repo.entry(path, tree[path]) for path in asked if path in tree]
        return found + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]

    def preupload(self, kind: str, name: str, revision: str) -> Any:
        tree = self.found(kind, name, writes=True).at(revision).tree
        files = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            large = path.endswith(LARGE) or asked["size"] > 10 * 2**20
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": tree.get(path)})
        return {"files": files}

    def batch(self, prefix: str, name: str) -> Any:
        repo = self.found(prefix.rstrip("/") or "models", name, writes=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            href = f"{self.hub.url}/lfs/{repo.kind}/{name}/{asked['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": href}}
            known = asked["oid"] in repo.blobs
            objects.append({"oid": asked["oid"], "size": asked["size"], **({} if known else {"actions": actions})})
        return {"transfer": "basic", "objects": objects}

    def store(self, kind: str, name: str, oid: str) -> None:
        if self.hub.hold_after is not None and len(self.hub.stored) >= self.hub.hold_after:
            self.hub.held.set()
            self.hub.released.wait()
            self.close_connection = True
            return
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, message="the object has another hash")
        repo = self.hub.repo(kind, name)
        repo.blobs[oid] = self.body
        repo.large.add(oid)
        self.hub.stored.append(oid)
        self.answer(b"")

    def check_stored(self, kind: str, name: str, oid: str) -> Any:
        if oid not in self.hub.repo(kind, name).blobs:
            raise Refusal(404, "EntryNotFound")
        return {}

    def make_commit(self, kind: str, name: str, branch: str) -> Any:
        repo = self.found(kind, name, writes=True)
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        if branch not in repo.branches:
            raise Refusal(404, "RevisionNotFound")
        tree = dict(repo.at(branch).tree)
        for operation in operations:
            value = operation["value"]
            path = value["path"]
            if operation["key"] == "file":
                data = base64.b64decode(value["content"])
                repo.blobs[git_oid(data)] = data
                tree[path] = git_oid(data)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in repo.blobs:
                    raise Refusal(400, message=f"{path} was never uploaded")
                tree[path] = value["oid"]
            elif operation["key"] == "deletedFile":
                if path not in tree:
                    raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
                del tree[path]
        if self.hub.drops:
            tree = {
                path: blob for path, blob in tree.items() if not re.search(self.hub.drops, f"{name}@{branch}/{path}")
            }
        commit = repo.commit(branch, header["value"]["summary"], tree)
        url = f"{self.hub.url}/{'' if kind == 'models' else 'datasets/'}{name}/commit/{commit.oid}"
        return {"success": True, "commitOid": commit.oid, "commitUrl": url}

    def branch(self, kind: str, name: str, branch: str) -> Any:
        repo = self.found(kind, name, writes=True)
        if branch in repo.branches:
            raise Refusal(409, message="Reference already exists")
        asked = json.loads(self.body or b"{}")
        repo.branches[branch] = repo.at(asked.get("startingPoint", "main")).oid
        return {}

    def settings(self, kind: str, name: str) -> Any:
        repo = self.found(kind, name, writes=True)
        asked = json.loads(self.body)
        repo.gated = asked.get("gated", repo.gated)
        repo.private = asked["visibility"] == "private" if "visibility" in asked else repo.private
        return {}

    def resolve(self, prefix: str, name: str, revision: str, path: str) -> None:
        repo = self.found(prefix.rstrip("/") or "models", name)
        commit = repo.at(revision)
        if path not in commit.tree:
            raise Refusal(404, "EntryNotFound")
        blob = commit.tree[path]
        size = str(len(repo.blobs[blob]))
        headers = {"ETag": f'"{blob}"', "X-Repo-Commit": commit.oid}
        if blob in repo.large:
            link = f"{self.hub.url}/cdn/{repo.kind}/{name}/{blob}/{commit.oid}/{path}"
            headers |= {"X-Linked-Etag": f'"{blob}"', "X-Linked-Size": size, "Location": link}
            self.answer(b"", 302, headers)
        else:
            self.serve(repo, blob, f"{name}@{revision}/{path}", headers)

    def cdn(self, kind: str, name: str, blob: str, commit: str, path: str) -> None:
        headers = {"ETag": f'"{blob}"', "X-Repo-Commit": commit}
        self.serve(self.hub.repo(kind, name), blob, f"{name}/{path}", headers)

    def serve(self, repo: Repo, blob: str, place: str, headers: dict[str, str]) -> None:
        data = next((other for end, other in self.hub.serves.items() if place.endswith(end)), repo.blobs[blob])
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers |= {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self.answer(data[first : last + 1], 206, headers)
        else:
            self.answer(data, 200, headers)

    def validate(self) -> Any:
        content = json.loads(self.body)["content"]
        if content.startswith("---\n") and content.count("\n---\n") < 1:
            raise Refusal(400, message="Invalid metadata", errors=[{"message": "the metadata has no end"}])
        return {"errors": [], "warnings": []}

    def list_collections(self) -> Any:
        owner = self.query.get("owner", [""])[0]
        seen = [c for c in self.hub.collections.values() if c["owner"]["name"] == owner]
        shown = [{**c, "items": c["items"][:4], "owner": c["owner"]["name"]} for c in seen]
        return [{key: value for key, value in each.items() if key != "position"} for each in shown]

    def collection(self, slug: str) -> Any:
        if slug not in self.hub.collections:
            raise Refusal(404)
        found = self.hub.collections[slug]
        return {**found, "owner": found["owner"]["name"]}

    def create_collection(self) -> Any:
        asked = json.loads(self.body)
        self.member(writes=asked["namespace"])
        if len(asked.get("description") or "") > 150:
            raise Refusal(400, message="the description is too long")
        slug = (
            f"{asked['namespace']}/{re.sub('[^a-z0-9]+', '-', asked['title'].lower())}-{len(self.hub.collections):024d}"
        )
        facts = {"position": 0, "theme": "blue", "upvotes": 0, "lastUpdated": DATE, "items": []}
        self.hub.collections[slug] = {
            "slug": slug,
            "title": asked["title"],
            "description": asked.get("description"),
            "private": asked["private"],
            "owner": {"name": asked["namespace"]},
            **facts,
        }
        return self.collection(slug)

    def add_item(self, slug: str) -> Any:
        self.member(writes=slug.split("/", maxsplit=1)[0])
        asked = json.loads(self.body)
        items = self.hub.collections[slug]["items"]
        item = asked["item"]
        self.hub.repo(f"{item['type']}s", item["id"])
        if any((each["type"], each["id"]) == (item["type"], item["id"]) for each in items):
            raise Refusal(409, message="already there")
        note = {"text": asked["note"], "html": asked["note"]} if asked.get("note") else None
        items.append({"_id": f"{len(items):024d}", **item, "position": len(items), "note": note})
        return self.collection(slug)


REPO = r"/api/(models|datasets)/([^/]+/[^/]+)"
ROUTES = (
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (r"GET /api/collections", "list_collections"),
    (r"POST /api/collections", "create_collection"),
    (r"GET /api/collections/([^/]+/[^/]+)", "collection"),
    (r"POST /api/collections/([^/]+/[^/]+)/items", "add_item"),
    (rf"GET {REPO}", "info"),
    (rf"GET {REPO}/revision/([^/]+)", "info"),
    (rf"GET {REPO}/refs", "refs"),
    (rf"GET {REPO}/commits/([^/]+)", "commits"),
    (rf"GET {REPO}/tree/([^/]+)(/.*)?", "tree"),
    (rf"POST {REPO}/paths-info/([^/]+)", "paths_info"),
    (rf"POST {REPO}/preupload/([^/]+)", "preupload"),
    (rf"POST {REPO}/commit/([^/]+)", "make_commit"),
    (rf"POST {REPO}/branch/([^/]+)", "branch"),
    (rf"PUT {REPO}/settings", "settings"),
    (r"POST /(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs/(models|datasets)/([^/]+/[^/]+)/(\w+)", "store"),
    (r"POST /lfs/(models|datasets)/([^/]+/[^/]+)/(\w+)", "check_stored"),
    (r"GET /cdn/(models|datasets)/([^/]+/[^/]+)/(\w+)/(\w+)/(.+)", "cdn"),
    (r"GET /(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
)


@contextlib.contextmanager
def small_hub() -> Iterator[Hub]:
    """A running Hub with one user, `keeper`, of the organization `lab`, whose token is `hf_keeper`."""
    hub = Hub()
    hub.user("hf_keeper", "keeper", lab="write")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub})) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.released.set()
            server.shutdown()
