"""`costar verify RELEASE`: a release folder proves itself, wherever it lies: no suite, corpus or manifest is needed.

Hashes first; what they find damaged is not looked at further. Then the manifests with the weights that they name, every
table, every link and path of the pages; then every model is loaded, a sample of the scores of last steps found again, and
the snippets that costar writes are run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..core.console import Update
from .facts import SUMS, read_release
from .sealed import verify_seal
from .snippets import broken_links, failing_snippets
from .sums import read_sums
from .verify_files import code_files, damaged_files, wrong_tables
from .verify_models import wrong_manifests, wrong_models


@dataclass(kw_only=True)
class Proof:
    """How much of a release was looked at, and what is wrong with it."""

    files: int = 0
    models: int = 0
    scores: int = 0
    tables: int = 0
    links: int = 0
    snippets: int = 0
    problems: list[str] = field(default_factory=list)

    def told(self) -> str:
        """What was verified, in one line."""
        return (
            f"{self.files:,} files as written · {self.models} models loaded, {self.scores:,} scores of last steps found again · "
            f"{self.tables} tables · {self.links} links · {self.snippets} snippets run"
        )


def verify_release(folder: Path, update: Update) -> Proof:
    """Prove a release from its files.

    Raises:
        CostarError: `release.json` or a SHA256SUMS that cannot be read.
    """
    release = read_release(folder)
    proof = Proof(files=len(read_sums(folder / SUMS)))

    def part(begin: float, end: float) -> Update:
        return lambda share, remark: update(begin + (end - begin) * share, remark)

    proof.problems = damaged_files(release, part(0.0, 0.1)) + code_files(release)
    if proof.problems:
        return proof
    proof.problems += wrong_manifests(release) + verify_seal(folder)
    proof.tables, problems = wrong_tables(release)
    proof.problems += problems
    proof.links, problems = broken_links(release)
    proof.problems += problems
    if proof.problems:
        return proof
    proof.models, proof.scores, problems = wrong_models(release, part(0.1, 0.7))
    proof.problems += problems
    proof.snippets, problems = failing_snippets(release, part(0.7, 1.0))
    proof.problems += problems
    return proof
