"""What a verb works on: the suite, where it is built, and this machine's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .design import RunName, Suite
from .errors import CostarError, nearest
from .machine import Machine, load_machine
from .models import presets
from .registration import register_analysis
from .suite import find_suite, load_suite
from .workspace import Workspace, corpus_facts, replacing

UNKNOWN_VOCABULARY = 50_304  # for estimates before a given tokenizer was read: the size that Hubble pads to


@dataclass(frozen=True)
class Session:
    suite: Suite
    workspace: Workspace
    machine: Machine

    @property
    def folders(self) -> list[Path]:
        """Where relative paths of the suite start: `data` of machine.toml, then beside the suite file."""
        beside = self.suite.path.resolve().parent
        return [Path(self.machine.data), beside] if self.machine.data else [beside]

    def run_names(self, model: str | None, arm: str | None = None, draw: int | None = None) -> list[RunName]:
        """The suite's runs that options choose; a preset beside the suite adds its runs to the arms.

        Raises:
            CostarError: no model, arm or draw of that name.
        """
        known = {"--model": sorted({*self.suite.model_presets, *presets()}), "--arm": list(self.suite.arms)}
        for option, given in (("--model", model), ("--arm", arm)):
            if given and given not in known[option]:
                choices = known[option]
                folder = (
                    f"; for the model in that folder: ./{given}" if option == "--model" and Path(given).is_dir() else ""
                )
                mend = f"correct it{nearest(given, choices)}{folder}"
                raise CostarError(option, found=given, expected=f"one of {', '.join(choices)}", mend=mend)
        names = self.suite.runs(model, arm, draw)
        if not names:
            raise CostarError("--draw", found=str(draw), expected=f"below {self.suite.draws}", mend="correct it")
        return names

    def save_suite(self) -> None:
        """Keep the suite file beside what is built from it, and the user's own probes that it names; register its analysis."""
        own = self.suite.path.resolve().parent / "probes"
        files = {"suite.toml": self.suite.toml.encode()}
        for name in self.suite.eval.probes:
            file = f"{name.replace('-', '_')}.py"
            if (own / file).is_file():
                files[f"probes/{file}"] = (own / file).read_bytes()
        for name, content in files.items():
            path = self.workspace.root / name
            if not path.is_file() or path.read_bytes() != content:
                with replacing(path) as temporary:
                    temporary.write_bytes(content)
        register_analysis(self.suite.eval.analysis, self.workspace)

    def vocabulary(self) -> int:
        """The size of the vocabulary: of the built corpus, or as the suite asks."""
        path = self.workspace.corpus / "corpus.json"
        if path.is_file():
            return int(corpus_facts(self.workspace)["vocab_size"])
        return self.suite.corpus.vocabulary or UNKNOWN_VOCABULARY


def open_session(name: str) -> Session:
    """A session for a suite's name, a suite file, or a built directory.

    Raises:
        CostarError: nothing of that name, or the file breaks a rule.
    """
    machine = load_machine()
    folder = Path(name)
    if "/" in name and (folder / "suite.toml").is_file():
        return Session(load_suite(folder / "suite.toml"), Workspace(folder), machine)
    if "/" in name and folder.is_dir():
        raise CostarError(name, found="a folder without suite.toml", expected="a built suite", mend="check the path")
    suite = load_suite(find_suite(name))
    return Session(suite, Workspace(Path(machine.build) / suite.name), machine)
