"""One model measured: ledger, continuations and the scores of every probe, each kept by the hash of what it was made from.

The ledger is made in blocks: all sequences of a perturbation, rendering and context. A block is computed whole or taken
as it is, so its bits depend on the model and on its own sequences only, not on what was measured before. Scores follow
the blocks that their probe reads. What could not be measured is a gap with its reason, and the rest goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import read_table, write_rows
from ..core.workspace import changed_files, finish_step, read_marker, start_step
from ..manifests.tables import GAPS, GENERATED, SCORES
from .ledger import by_key, refusals, write_ledger
from .probes import Context, Found, Gap, Generated, Loaded, Prompt, Request, Score, too_long
from .reader import Reader
from .user_probes import Asked, ProbeFailed, prompts_of, requests_of, results_of
from .windows import score_in_windows

VERSION = 3
MEASURING = ("generate", "ledger", "packing", "reader", "windows")  # the modules that make ledgers and continuations
MEND = "run `costar eval` again"
NO_NUMBERS = "logits that are not numbers (NaN or infinite)"
Key = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the results of a model lie; `step` tells the files of its scores from those of other steps."""

    ledger: Path
    generated: Path
    scores: Path
    run: str
    step: int


@dataclass(kw_only=True)
class Measurement:
    """What is to be measured of one model. `identity` is the hash of its weights; `facts` what else the scores depend on,
    `reads` the hashes of what only some probes read (their `READS`).

    `serves` says what the model gives (the `NEEDS` of probes) and what is known of its training (their `READS`);
    `open_reader` loads it, if anything is missing.
    """

    places: Places
    identity: str
    facts: str
    context: Context
    probes: Sequence[Loaded]
    serves: frozenset[str]
    byte_counts: NDArray[np.int32]
    open_reader: Callable[[], Reader]
    reads: Mapping[str, str] = field(default_factory=dict)
    _refused: dict[Key, str] = field(init=False, default_factory=dict)
    _failed: dict[str, str] = field(init=False, default_factory=dict)
    _sources: dict[str, list[str]] = field(init=False, default_factory=dict)

    @cached_property
    def reader(self) -> Reader:
        return self.open_reader()

    @cached_property
    def is_sound(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(torch.isfinite(each).all()) for each in self.reader.module.parameters())

    @cached_property
    def tokens(self) -> str:
        """What a ledger takes from the tokenizer."""
        return sha256_json(self.byte_counts.tolist())

    def run(self) -> list[Path]:
        """Compute what is missing, take away what is no longer asked for; the files of scores and gaps."""
        served = [loaded for loaded in self.probes if not self._lacking(loaded)]
        ledger = self._ledger(served)
        generated = self._all_generated(served)
        kept: list[Path] = []
        for loaded in self.probes:
            name = f"{self.places.step}.{loaded.name}"
            paths = [self._scores_path("step", loaded), self._scores_path("gaps", loaded)]
            inputs = self._inputs(loaded, is_served=loaded in served)
            if not is_same(self.places.scores, inputs, name):
                if loaded in served:
                    scores, gaps = self._scored(loaded, ledger, generated.get(loaded.name, {}))
                else:
                    scores, gaps = [], [self._unserved(loaded)]
                start_step(self.places.scores, name)
                write_rows(paths[0], SCORES, [self._row(loaded) | score._asdict() for score in scores])
                write_rows(paths[1], GAPS, [self._row(loaded) | gap._asdict() for gap in gaps])
                finish_step(self.places.scores, inputs, paths, name, self.identity)
            kept += paths
        names = [f"stage-{self.places.step}.{loaded.name}.json" for loaded in self.probes]
        forget(self.places.scores, f"stage-{self.places.step}.*.json", names)
        forget(self.places.scores, f"*-{self.places.step:06d}.*.parquet", [path.name for path in kept])
        return kept

    def _inputs(self, loaded: Loaded, *, is_served: bool) -> str:
        """The hash of everything that the scores of a probe depend on."""
        read = [self.reads.get(name, "") for name in loaded.reads]
        sources = sorted(self._sources.get(loaded.name, []))
        return sha256_json([VERSION, self.identity, self.facts, loaded.code, read, sources, is_served])

    def _scores_path(self, what: str, loaded: Loaded) -> Path:
        return self.places.scores / f"{what}-{self.places.step:06d}.{loaded.name}.parquet"

    def _row(self, loaded: Loaded) -> dict[str, Any]:
        return {"run": self.places.run, "step": self.places.step, "probe": loaded.name}

    def _unserved(self, loaded: Loaded) -> Gap:
        return Gap("", "", "", f"the probe needs {', '.join(self._lacking(loaded))}, which this model does not give")

    def _lacking(self, loaded: Loaded) -> list[str]:
        return sorted({*loaded.probe.NEEDS, *loaded.reads} - self.serves)

    def _scored(
        self, loaded: Loaded, ledger: dict[Key, Any], generated: dict[Key, Generated]
    ) -> tuple[list[Score], list[Gap]]:
        """What a probe makes of the results; values that are no numbers become gaps."""
        needs_weights = bool(set(loaded.probe.NEEDS) & {"weights", "gradients"})
        if loaded.name in self._failed:
            return [], [Gap("", "", "", self._failed[loaded.name])]
        if needs_weights and not self.is_sound:
            return [], [Gap("", "", "", "weights that are not numbers (NaN or infinite)")]
        found = Found(
            ledger=ledger,
            generated=generated,
            refused=self._refused,
            reader=self.reader if needs_weights else None,
        )
        scores: list[Score] = []
        gaps: list[Gap] = []
        for each in results_of(loaded, self.context, found):
            if isinstance(each, Gap):
                gaps.append(each)
            elif not np.isfinite(each.value):
                gaps.append(Gap(each.record_id, each.rendering, each.variant, f"{each.metric} is {each.value}"))
            else:
                scores.append(each)
        return scores, gaps

    def _ledger(self, probes: Sequence[Loaded]) -> dict[Key, Any]:
        """The ledger of everything that the probes want, by sequence; what is not there is in `_refused`."""
        blocks, used = self._blocks(probes)
        found: dict[Key, Any] = {}
        paths, inputs = [], {}
        for block in sorted(blocks):
            requests = [blocks[block][key] for key in sorted(blocks[block])]
            path = self.places.ledger / f"{block}.parquet"
            paths.append(path)
            wanted = [list(vars(request).values()) for request in requests]
            inputs[block] = sha256_json([VERSION, measuring_code(), self.identity, self.tokens, wanted])
            if not is_same(self.places.ledger, inputs[block], block):
                start_step(self.places.ledger)
                start_step(self.places.ledger, block)
                columns = score_in_windows(self.reader, requests, self.byte_counts, self.context.length)
                write_ledger(path, self.places.run, self.places.step, requests, columns)
                finish_step(self.places.ledger, inputs[block], [path], block)
            found |= by_key(read_table(path, mend=MEND))
        for name, names in used.items():
            self._sources[name] = [inputs[block] for block in names]
        self._close(self.places.ledger, paths)
        self._refused |= {key: NO_NUMBERS for key, tokens in found.items() if not tokens.is_finite}
        return {key: tokens for key, tokens in found.items() if key not in self._refused}

    def _blocks(self, probes: Sequence[Loaded]) -> tuple[dict[str, dict[Key, Request]], dict[str, set[str]]]:
        """The sequences of every block that a model can score, and the blocks that each probe reads."""
        perturbation = {subject.record_id: subject.perturbation for subject in self.context.subjects}
        blocks: dict[str, dict[Key, Request]] = {}
        used: dict[str, set[str]] = {}
        for loaded in sorted(probes, key=lambda each: each.from_user):  # where names clash, a user's probe gives way
            requests = self._asked(loaded, requests_of)
            refused = refusals(requests, self.context.length, len(self.byte_counts))
            names = used.setdefault(loaded.name, set())
            for request in requests:
                if request.key in refused:
                    continue
                parts = (perturbation[request.record_id], block_of(request.rendering), request.context)
                name = ".".join(quote(part, safe="") for part in parts)
                other = blocks.setdefault(name, {}).setdefault(request.key, request)
                if (other.before, other.ids, other.start) != (request.before, request.ids, request.start):
                    assert loaded.from_user, f"{loaded.name}: two sequences of the name {request.key}"
                    self._failed[loaded.name] = f"it asks for two sequences of one name, {' '.join(request.key)}"
                names.add(name)
            self._refused |= refused
        return blocks, used

    def _asked(self, loaded: Loaded, asked: Callable[[Loaded, Context], list[Asked]]) -> list[Asked]:
        """What a probe asks for; where it fails, the gap that stands for it is noted."""
        try:
            return asked(loaded, self.context)
        except ProbeFailed as error:
            self._failed[loaded.name] = str(error)
            return []

    def _all_generated(self, probes: Sequence[Loaded]) -> dict[str, dict[Key, Generated]]:
        """The continuations that the probes want, by probe."""
        generating = [loaded for loaded in probes if "generate" in loaded.probe.NEEDS]
        found = {loaded.name: self._generated(loaded) for loaded in generating}
        if found or self.places.generated.is_dir():
            self._close(self.places.generated, [self.places.generated / f"{name}.parquet" for name in found])
        return found

    def _generated(self, loaded: Loaded) -> dict[Key, Generated]:
        """The continuations that a probe wants."""
        prompts = self._asked(loaded, prompts_of)
        refused = self._refused_prompts(prompts)
        prompts = [prompt for prompt in prompts if prompt.key not in refused]
        path = self.places.generated / f"{loaded.name}.parquet"
        wanted = [list(vars(prompt).values()) for prompt in prompts]
        inputs = sha256_json([VERSION, measuring_code(), self.identity, self.tokens, wanted])
        if not is_same(self.places.generated, inputs, loaded.name):
            start_step(self.places.generated)
            start_step(self.places.generated, loaded.name)
            made = self._continuations(loaded, prompts) if prompts and self.is_sound else []
            write_rows(path, GENERATED, made)
            finish_step(self.places.generated, inputs, [path], loaded.name)
        self._sources.setdefault(loaded.name, []).append(inputs)
        rows = read_table(path, mend=MEND).to_pylist()
        found = {
            (row["record_id"], row["rendering"], row["variant"]): Generated(tuple(row["token_ids"]), row["text"])
            for row in rows
        }
        self._refused |= {prompt.key: NO_NUMBERS for prompt in prompts if prompt.key not in found} | refused
        return found

    def _refused_prompts(self, prompts: Iterable[Prompt]) -> dict[Key, str]:
        found = {}
        for prompt in prompts:
            length = 1 + len(prompt.ids) + prompt.new_tokens
            if not prompt.ids:
                found[prompt.key] = "an empty prompt"
            elif length > self.context.length:
                found[prompt.key] = too_long(length, self.context.length, "tokens of prompt and answer")
            elif max(prompt.ids) >= len(self.byte_counts):
                found[prompt.key] = f"token {max(prompt.ids):,} of another tokenizer"
        return found

    def _continuations(self, loaded: Loaded, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        decode, reader = self.context.tokenizer.decode, self.reader
        by_length: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            by_length.setdefault(prompt.new_tokens, []).append(prompt)
        answers: dict[Key, list[int] | None] = {}
        for new_tokens, group in by_length.items():
            given = [[reader.begin, *prompt.ids] for prompt in group]
            made = reader.generate(given, new_tokens)
            answers |= {prompt.key: ids for prompt, ids in zip(group, made, strict=True)}
        rows = []
        for prompt in prompts:
            ids = answers[prompt.key]
            if ids is None:
                continue
            row = {"record_id": prompt.record_id, "rendering": prompt.rendering, "variant": prompt.variant}
            texts = {"prompt": decode(list(prompt.ids)), "text": before_stop(decode(ids), prompt.stops)}
            rows.append(self._row(loaded) | row | texts | {"token_ids": ids})
        return rows

    def _close(self, folder: Path, paths: Sequence[Path]) -> None:
        """Take away what no probe asks for any more, markers first; then the marker of the folder as a whole."""
        forget(folder, "stage-*.json", [f"stage-{path.stem}.json" for path in paths])
        forget(folder, "*.parquet", [path.name for path in paths])
        markers = {path: read_marker(folder, path.stem) for path in paths}
        known = {path: str(marker["files"][path.name]["sha256"]) for path, marker in markers.items() if marker}
        whole = read_marker(folder)
        listed = {name: str(facts["sha256"]) for name, facts in whole["files"].items()} if whole else None
        if whole is None or whole["input"] != self.identity or listed != {p.name: sha for p, sha in known.items()}:
            folder.mkdir(parents=True, exist_ok=True)
            finish_step(folder, self.identity, paths, known=known)


@cache
def measuring_code(folder: Path = Path(__file__).parent) -> str:
    """The hash of the code that makes ledgers and continuations, so that they follow it."""
    return sha256_json([sha256_file(folder / f"{name}.py") for name in MEASURING])


def is_same(folder: Path, inputs: str, step: str) -> bool:
    """Whether a part was made from these inputs and has the bytes that were written, however large."""
    marker = read_marker(folder, step)
    return marker is not None and marker["input"] == inputs and not changed_files(folder, step)


def forget(folder: Path, pattern: str, kept: Collection[str]) -> None:
    """Take away the files of a pattern whose names are not kept."""
    for path in sorted(folder.glob(pattern)):
        if path.name not in kept:
            path.unlink()


def block_of(rendering: str) -> str:
    """A rendering's name without the number of its copy or option."""
    return re.sub(r"[/=][0-9]+$", "", rendering)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stops."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
