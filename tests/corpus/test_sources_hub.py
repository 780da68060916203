"""The source `hub`: folders in the layout of the Hub, the Hub itself (a small one on loopback), and no way to it."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from costar.core.design import SourceDesign
from costar.core.errors import CostarError
from costar.corpus.documents import Item, RawDocument
from costar.corpus.sources import hub

COMMIT = "0123456789abcdef" * 2 + "01234567"
CARD = """---
configs:
- config_name: en
  data_files: [{split: train, path: data/en-train-*}, {split: test, path: data/en-test-*}]
- config_name: de
  data_files: [{split: train, path: data/de-train-*}]
---
"""


def source(*paths: str, text: str = "text") -> SourceDesign:
    return SourceDesign(name="", source="hub", paths=paths, text=text, megabytes=None, share=None, seed=1)


def read(item: Item, chosen: SourceDesign) -> list[RawDocument]:
    return list(hub.read(item, chosen))


def texts(folder: Path, *paths: str, text: str = "text") -> list[str]:
    chosen = source(*paths, text=text)
    return [d.text for item in hub.items(chosen, [folder]) for d in read(item, chosen)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the data set people/two: two configurations, two files a split, three rows a file."""
    folder = tmp_path / "people" / "two" / "data"
    folder.mkdir(parents=True)
    for part in ("en-train", "en-test", "de-train"):
        for number in (0, 1):
            rows = [f"{part} {number} {row}" for row in range(3)]
            pq.write_table(
                pa.table({"text": rows, "other": rows}), folder / f"{part}-{number}.parquet", row_group_size=2
            )
    (folder.parent / "README.md").write_text(CARD)
    return tmp_path


def rows_of(*parts: str) -> list[str]:
    return [f"{part} {number} {row}" for part in parts for number in (0, 1) for row in range(3)]


def test_a_path_names_a_configuration_and_a_split_or_files(data: Path) -> None:
    assert texts(data, "people/two:en") == rows_of("en-train")
    assert texts(data, "people/two:en/test") == rows_of("en-test")
    assert texts(data, "people/two:en", "people/two:de") == rows_of("en-train", "de-train")
    assert sorted(texts(data, "people/two/data/en-*")) == sorted(rows_of("en-test", "en-train"))
    assert texts(data, "people/two:de", text="other") == rows_of("de-train")


def test_a_default_configuration_and_an_only_split_need_no_name(data: Path) -> None:
    readme = data / "people" / "two" / "README.md"
    readme.write_text(CARD.replace("- config_name: de\n", "- config_name: de\n  default: true\n"))
    assert texts(data, "people/two") == rows_of("de-train")
    readme.write_text("---\nconfigs:\n- config_name: x\n  data_files: [{split: test, path: data/en-test-*}]\n---\n")
    assert texts(data, "people/two") == rows_of("en-test")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("people/two", r"several configurations and no default\n  expected  one of en, de\n.*\"people/two:en\""),
        ("people/two:fr", r"no configuration 'fr'\n  expected  one of en, de"),
        ("people/two:en/dev", r"no split 'dev'\n  expected  one of train, test"),
        ("people/two/data/*.csv", "DataFilesNotFoundError"),
        ("people/two/../two/*", "correct the name"),
        ("people", "correct the name"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(data: Path, path: str, message: str) -> None:
    with pytest.raises(CostarError, match=message):
        hub.items(source(path), [data])


def test_a_missing_field_is_refused_with_the_fields_there_are(data: Path) -> None:
    with pytest.raises(CostarError, match=r"fields text, other\n  expected  text in field 'body'"):
        hub.items(source("people/two:en", text="body"), [data])
    with pytest.raises(CostarError, match="a second time"):
        hub.items(source("people/two:en", "people/two:en"), [data])


def test_an_item_is_a_file_that_any_process_reads_under_the_same_names(data: Path) -> None:
    chosen = source("people/two:de", "people/two:en/test")
    items = hub.items(chosen, [data])
    here = [read(item, chosen) for item in items]
    code = (
        "import os, pickle, sys; from costar.corpus.sources import hub\n"
        "items, chosen = pickle.load(sys.stdin.buffer)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "found = [list(hub.read(item, chosen)) for item in reversed(items)]\n"
        "pickle.dump((found, len(os.listdir('/proc/self/task')) - before), sys.stdout.buffer)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], input=pickle.dumps((items, chosen)), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found, threads = pickle.loads(done.stdout)
    assert found[::-1] == here
    assert threads == 0  # one of Arrow's, alive when the interpreter ends, takes the process with it
    assert [d.doc_id for d in here[1]] == [f"people/two/data/de-train-1.parquet:{row}" for row in (1, 2, 3)]
    assert hub.facts(chosen, items)["revisions"] == {"people/two": "local"}


def test_packed_lines_are_read_and_two_kinds_of_files_are_refused(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "people" / "real" / "data"
    folder.mkdir(parents=True)
    whole = (shared_data / "base" / "wikipedia_articles.jsonl.zst").read_bytes()
    (folder / "a.jsonl.zst").write_bytes(whole)
    with zstandard.open(shared_data / "base" / "wikipedia_articles.jsonl.zst", "rb") as file:
        lines = file.read().splitlines()
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines[0]))
    expected = [json.loads(line)["text"] for line in [*lines, lines[0]]]
    assert texts(tmp_path, "people/real") == expected
    pq.write_table(pa.table({"text": ["c"]}), folder / "c.parquet")
    for path in ("people/real", "people/real/data/*"):
        with pytest.raises(CostarError, match=r"two kinds: data/c\.parquet and data/a\.jsonl\.zst"):
            hub.items(source(path), [tmp_path])
    assert texts(tmp_path, "people/real/**/*.parquet") == ["c"]
    (folder / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CostarError, match=r"a\.jsonl\.zst|people/real"):
        texts(tmp_path, "people/real/data/a*")


def test_a_row_without_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "o" / "n").mkdir(parents=True)
    (tmp_path / "o" / "n" / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    with pytest.raises(CostarError, match=r"a\.jsonl, row 2\n  found     null"):
        texts(tmp_path, "o/n")


class SmallHub(http.server.BaseHTTPRequestHandler):
    """What `datasets` asks of the Hub, for one data set people/two that lies in `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), "ETag": '"x"', "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path, api = self.path.split("?")[0], "/api/datasets/people/two"
        files = sorted(str(file.relative_to(self.root)) for file in self.root.rglob("*") if file.is_file())
        file = path.removeprefix(f"/datasets/people/two/resolve/{COMMIT}/")
        if path in (api, f"{api}/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            self.answer(json.dumps({"id": "people/two", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"{api}/tree/{COMMIT}"):
            entries = [
                {"type": "file", "oid": "0" * 40, "size": os.stat(self.root / n).st_size, "path": n} for n in files
            ]
            inside = path.endswith("/data")
            found = [entry for entry in entries if str(entry["path"]).startswith("data/") == inside]
            folder = [] if inside else [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "data"}]
            self.answer(json.dumps(found + folder).encode())
        elif file in files:
            whole, wanted = (self.root / file).read_bytes(), self.headers.get("Range")
            first, last = (int(end) for end in wanted.removeprefix("bytes=").split("-")) if wanted else (0, len(whole))
            part = whole[first : last + 1]
            place = f"bytes {first}-{first + len(part) - 1}/{len(whole)}"
            self.answer(part, 206 if wanted else 200, Content_Range=place)
        elif path == "/api/datasets/people/gated":
            self.answer(b"{}", 403, X_Error_Code="GatedRepo")
        else:
            self.answer(b"{}", 404, X_Error_Code="EntryNotFound" if "/two" in path else "RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def endpoint(data: Path) -> Iterator[str]:
    handler = type("Handler", (SmallHub,), {"root": data / "people" / "two"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(folder: Path, *paths: str, **environment: str) -> list[Any]:
    """Per path the items, texts and facts, or the error, read in a process that has no local folder."""
    code = """
import json, sys
from pathlib import Path
from tests.corpus.test_sources_hub import hub, read, source
from costar.core.errors import CostarError
found = []
for path in sys.argv[2:]:
    chosen = source(path)
    try:
        items = hub.items(chosen, [Path(sys.argv[1])])
        texts = [d.text for i in items for d in read(i, chosen)]
        found.append([[[i.name, i.path] for i in items], texts, hub.facts(chosen, items)])
    except CostarError as error:
        found.append(str(error))
sys.stdout.write(json.dumps(found))
"""
    keep = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "none"), *paths],
        cwd=Path(__file__).resolve().parents[2],
        env=keep
        | {"HF_HOME": str(folder / "home"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_the_hub_is_streamed_and_the_commit_is_named(data: Path, endpoint: str) -> None:
    one, some, none, missing, gated = ask(
        data,
        "people/two:de",
        "people/two/data/en-train*",
        "people/two",
        "people/missing",
        "people/gated",
        HF_ENDPOINT=endpoint,
    )
    name = "data/de-train-0.parquet"
    assert one[0][0] == [f"people/two/{name}", f"hf://datasets/people/two@{COMMIT}/{name}"]
    assert one[1] == rows_of("de-train")
    assert one[2]["revisions"] == {"people/two": COMMIT}
    assert some[1] == rows_of("en-train")
    assert "several configurations" in none
    assert "no such data set on the Hub" in missing
    assert "a gated data set" in gated
    assert not list((data / "home").rglob("*.parquet"))


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}], ids=str)
def test_no_way_to_the_hub_is_said_at_once_with_the_folder_to_use_instead(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (refusal,) = ask(tmp_path, "people/two", **environment)
    assert "no way to the Hub" in refusal
    assert "none/people/two" in refusal
    assert "put a copy of the repository there" in refusal
