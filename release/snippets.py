"""What the pages of a release promise: every link leads somewhere, every path is there, every snippet runs."""

from __future__ import annotations

import os
import posixpath
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from ..core.console import Update
from ..core.errors import shorten
from .facts import PARTS, Release
from .sums import files_below

SECONDS = 600.0  # for the snippets of one page
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
MENTION = re.compile(r"(?<![\w/.<>:-])(?:models|revisions|data)/[\w./-]*")
CODE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")


def pages(release: Release) -> dict[str, str]:
    """The text of every Markdown page, by its path in the release, those of exports last."""
    names = [name for name in files_below(release.folder) if name.endswith(".md")]
    ordered = sorted(names, key=lambda name: (not _is_own(name), name))
    return {name: (release.folder / name).read_text(encoding="utf-8") for name in ordered}


def _is_own(page: str) -> bool:
    """Whether a page is of the release itself. One of an export speaks of its own folder and needs the tool it is for."""
    return "/" not in page or page.split("/", maxsplit=1)[0] in PARTS


def broken_links(release: Release) -> tuple[int, list[str]]:
    """How many links and paths the pages have, and those that lead nowhere. Addresses of the web are not asked."""
    count, problems = 0, []
    for page, text in pages(release).items():
        here = posixpath.dirname(page)
        for target in sorted(set(LINK.findall(text))):
            if re.match(r"[a-z]+:", target):
                continue
            count += 1
            path = posixpath.normpath(posixpath.join(here, target))
            if target.startswith("/") or path.startswith("..") or not (release.folder / path).exists():
                problems.append(f"{release.folder / page}: the link to {target} leads nowhere")
        for mention in sorted(set(MENTION.findall(text))) if _is_own(page) else []:
            count += 1
            path = mention.rstrip(".")
            if not any((root / path).exists() for root in (release.folder, release.folder / here)):
                problems.append(f"{release.folder / page}: names {mention}, which is not there")
    return count, problems


def failing_snippets(release: Release, update: Update, seconds: float = SECONDS) -> tuple[int, list[str]]:
    """How many snippets were run, and those that fail. Those of a page run in order in one process, in the release's folder.

    Pages of a run's kept steps that differ in the step only are run once.
    """
    chosen: dict[str, tuple[str, list[str]]] = {}
    for page, text in pages(release).items():
        if _is_own(page) and (blocks := CODE.findall(text)):
            chosen[re.sub(r"step\d+", "step", "".join(blocks))] = page, blocks
    problems = []
    for number, (page, blocks) in enumerate(chosen.values()):
        update(number / len(chosen), f"snippets of {page}")
        if why := _run(release.folder, blocks, seconds):
            problems.append(f"{release.folder / page}: {why}")
    return sum(len(blocks) for _, blocks in chosen.values()), problems


def _run(folder: Path, blocks: list[str], seconds: float) -> str:
    """Run snippets as a reader without network and without credentials would; why they fail, or nothing."""
    with tempfile.TemporaryDirectory() as home:
        paths = []
        for number, block in enumerate(blocks, start=1):
            path = Path(home) / f"snippet-{number}.py"
            path.write_text(block, encoding="utf-8")
            paths.append(str(path))
        runner = (
            "import sys\n"
            "space = {'__name__': '__main__'}\n"
            "for path in sys.argv[1:]:\n"
            "    exec(compile(open(path, encoding='utf-8').read(), path, 'exec'), space)\n"
        )
        environment = {key: value for key, value in os.environ.items() if key not in SECRETS}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": home, "TMPDIR": home}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", runner, *paths],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            _, told = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"a snippet does not end within {seconds:.0f} s"
        if process.returncode == 0:
            return ""
        failed = re.findall(r"snippet-(\d+)\.py\", line (\d+)", told)
        where = f"snippet {failed[-1][0]}, line {failed[-1][1]}" if failed else "a snippet"
        last = told.strip().splitlines()[-1] if told.strip() else f"exit code {process.returncode}"
        return f"{where} fails: {shorten(last, 200)}"
