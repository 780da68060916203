"""What the pages of a release promise: every link leads somewhere, every path is there, every snippet runs.

A release may come from anywhere, so that nothing is run but what costar's own templates say for its runs.
"""

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
from .pages import SNIPPET, rendered_snippets
from .sums import files_below

SECONDS = 600.0  # for the snippets of one page
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
MENTION = re.compile(r"(?<![\w/.<>:-])(?:models|revisions|data)/[\w./-]*")
FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*(?:python|py)", re.M | re.I)
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS")


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
    """How many snippets were run, and what is wrong with them. One that costar does not write for this release is not run.

    Those of a page run in order in one process, in the release's folder. Pages of a run's kept steps that differ in the
    step only are run once.
    """
    expected = written_snippets(release)
    chosen: dict[str, tuple[str, list[str]]] = {}
    problems = []
    for page, text in pages(release).items():
        blocks = SNIPPET.findall(text)
        if not _is_own(page):
            continue
        if len(FENCE.findall(text)) != len(blocks) or (blocks and blocks not in expected.get(page, [])):
            problems.append(f"{release.folder / page}: a snippet that this version of costar does not write; not run")
        elif blocks:
            chosen[re.sub(r"step\d+", "step", "".join(blocks))] = page, blocks
    for number, (page, blocks) in enumerate(chosen.values()):
        update(number / len(chosen), f"snippets of {page}")
        if why := run_snippets(release.folder, blocks, seconds):
            problems.append(f"{release.folder / page}: {why}")
    return sum(len(blocks) for _, blocks in chosen.values()), problems


def written_snippets(release: Release) -> dict[str, list[list[str]]]:
    """Page → what costar may write as its snippets: one choice, of the data card one for each table that it may show."""
    asked = ("records",) if release.blind else ("membership", "records")
    found = {
        "README.md": [rendered_snippets("collection.md.j2", pairs=release.pairs, blind=release.blind)],
        "data/README.md": [rendered_snippets("data_card.md.j2", asked=name) for name in asked],
    }
    for _, _, folder in release.model_folders():
        path = folder.relative_to(release.folder).as_posix()
        found[f"{path}/README.md"] = [rendered_snippets("model_card.md.j2", path=path)]
    return found


def run_snippets(folder: Path, blocks: list[str], seconds: float) -> str:
    """Run snippets as a reader without network, home and credentials would; why they fail, or nothing."""
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
        environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        environment |= dict.fromkeys(("HOME", "HF_HOME", "TMPDIR"), home)
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
