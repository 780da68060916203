"""One model measured: ledger, continuations and the scores of every probe, each kept by the hash of what it was made from.

The ledger is made in blocks: all sequences of a perturbation, rendering and context. A block is computed whole or taken
as it is, so its bits depend on the model and on its own sequences only, not on what was measured before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ..core.hashing import sha256_json
from ..core.parquet import read_table, write_rows
from ..core.workspace import finish_step, is_current, start_step
from ..manifests.tables import GAPS, GENERATED, SCORES
from .ledger import by_key, refusals, write_ledger
from .probes import Context, Found, Gap, Generated, Loaded, Prompt, Request, Score
from .reader import Reader
from .windows import score_in_windows

VERSION = 2
MEND = "run `costar eval` again"
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
    """What is to be measured of one model. `identity` is the hash of its weights; `facts` what else the scores depend on.

    `serves` says what the model gives (the `NEEDS` of probes); `open_reader` loads it, if anything is missing.
    """

    places: Places
    identity: str
    facts: str
    context: Context
    probes: Sequence[Loaded]
    longest: int
    serves: frozenset[str]
    byte_counts: NDArray[np.int32]
    open_reader: Callable[[], Reader]
    _refused: dict[Key, str] = field(default_factory=dict)

    @cached_property
    def reader(self) -> Reader:
        return self.open_reader()

    def run(self) -> list[Path]:
        """Compute what is missing, take away what is no longer asked for; the files of scores and gaps."""
        served = [loaded for loaded in self.probes if not set(loaded.probe.NEEDS) - self.serves]
        ledger = self._ledger(served)
        kept: list[Path] = []
        for loaded in self.probes:
            name = f"{self.places.step}.{loaded.name}"
            inputs = sha256_json([VERSION, self.identity, self.facts, loaded.code])
            paths = [self._scores_path("step", loaded), self._scores_path("gaps", loaded)]
            if not is_current(self.places.scores, inputs, name):
                scores, gaps = self._scored(loaded, ledger) if loaded in served else ([], [self._unserved(loaded)])
                start_step(self.places.scores, name)
                write_rows(paths[0], SCORES, [self._row(loaded) | score._asdict() for score in scores])
                write_rows(paths[1], GAPS, [self._row(loaded) | gap._asdict() for gap in gaps])
                finish_step(self.places.scores, inputs, paths, name, self.identity)
            kept += paths
        self._forget(kept)
        return kept

    def _scores_path(self, what: str, loaded: Loaded) -> Path:
        return self.places.scores / f"{what}-{self.places.step:06d}.{loaded.name}.parquet"

    def _row(self, loaded: Loaded) -> dict[str, Any]:
        return {"run": self.places.run, "step": self.places.step, "probe": loaded.name}

    def _unserved(self, loaded: Loaded) -> Gap:
        lacking = ", ".join(sorted(set(loaded.probe.NEEDS) - self.serves))
        return Gap("", "", "", f"the probe needs {lacking}, which this model does not give")

    def _forget(self, kept: Sequence[Path]) -> None:
        """Scores of probes that the suite no longer names."""
        for path in self.places.scores.glob(f"*-{self.places.step:06d}.*.parquet"):
            if path not in kept:
                name = path.stem.split(".", 1)[1]
                (self.places.scores / f"stage-{self.places.step}.{name}.json").unlink(missing_ok=True)
                path.unlink()

    def _scored(self, loaded: Loaded, ledger: dict[Key, Any]) -> tuple[list[Score], list[Gap]]:
        """What a probe makes of the results; values that are no numbers become gaps."""
        found = Found(
            ledger=ledger,
            generated=self._generated(loaded),
            refused=self._refused,
            reader=self.reader if set(loaded.probe.NEEDS) & {"weights", "gradients"} else None,
        )
        scores: list[Score] = []
        gaps: list[Gap] = []
        for each in loaded.results(self.context, found):
            if isinstance(each, Gap):
                gaps.append(each)
            elif not np.isfinite(each.value):
                gaps.append(Gap(each.record_id, each.rendering, each.variant, f"{each.metric} is {each.value}"))
            else:
                scores.append(each)
        return scores, gaps

    def _ledger(self, probes: Sequence[Loaded]) -> dict[Key, Any]:
        """The ledger of everything that the probes want, by sequence; what is not there is in `_refused`."""
        wanted: dict[Key, Request] = {}
        for loaded in probes:
            for request in loaded.requests(self.context):
                wanted.setdefault(request.key, request)
        self._refused |= refusals(wanted.values(), self.longest, len(self.byte_counts))
        perturbation = {subject.record_id: subject.perturbation for subject in self.context.subjects}
        blocks: dict[str, list[Request]] = {}
        for request in wanted.values():
            if request.key not in self._refused:
                parts = (perturbation[request.record_id], block_of(request.rendering), request.context)
                blocks.setdefault(".".join(quote(part, safe="") for part in parts), []).append(request)
        found: dict[Key, Any] = {}
        paths = []
        for block, requests in sorted(blocks.items()):
            path = self.places.ledger / f"{block}.parquet"
            paths.append(path)
            inputs = sha256_json([VERSION, self.identity, [list(vars(request).values()) for request in requests]])
            if not is_current(self.places.ledger, inputs, block):
                start_step(self.places.ledger, block)
                columns = score_in_windows(self.reader, requests, self.byte_counts, self.longest)
                write_ledger(path, self.places.run, self.places.step, requests, columns)
                finish_step(self.places.ledger, inputs, [path], block)
            found |= by_key(read_table(path, mend=MEND))
        for old in set(self.places.ledger.glob("*.parquet")) - set(paths):
            (self.places.ledger / f"stage-{old.stem}.json").unlink(missing_ok=True)
            old.unlink()
        unreal = [key for key, tokens in found.items() if not tokens.is_finite]
        self._refused |= dict.fromkeys(unreal, "logits that are not numbers (NaN or infinite)")
        return {key: tokens for key, tokens in found.items() if key not in self._refused}

    def _generated(self, loaded: Loaded) -> dict[Key, Generated]:
        """The continuations that a probe wants."""
        if "generate" not in loaded.probe.NEEDS:
            return {}
        prompts = list(loaded.prompts(self.context))
        refused = self._refused_prompts(prompts)
        self._refused |= refused
        prompts = [prompt for prompt in prompts if prompt.key not in refused]
        path = self.places.generated / f"{loaded.name}.parquet"
        inputs = sha256_json([VERSION, self.identity, [list(vars(prompt).values()) for prompt in prompts]])
        if not is_current(self.places.generated, inputs, loaded.name):
            start_step(self.places.generated, loaded.name)
            write_rows(path, GENERATED, self._continuations(loaded, prompts))
            finish_step(self.places.generated, inputs, [path], loaded.name)
        rows = read_table(path, mend=MEND).to_pylist()
        return {
            (row["record_id"], row["rendering"], row["variant"]): Generated(tuple(row["token_ids"]), row["text"])
            for row in rows
        }

    def _refused_prompts(self, prompts: Iterable[Prompt]) -> dict[Key, str]:
        found = {}
        for prompt in prompts:
            length = 1 + len(prompt.ids) + prompt.new_tokens
            if not prompt.ids:
                found[prompt.key] = "an empty prompt"
            elif length > self.longest:
                found[prompt.key] = f"{length:,} tokens of prompt and answer, the model reads at most {self.longest:,}"
        return found

    def _continuations(self, loaded: Loaded, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        decode, reader = self.context.tokenizer.decode, self.reader
        by_length: dict[int, list[Prompt]] = {}
        for prompt in prompts:
            by_length.setdefault(prompt.new_tokens, []).append(prompt)
        answers: dict[Key, list[int]] = {}
        for new_tokens, group in by_length.items():
            given = [[reader.begin, *prompt.ids] for prompt in group]
            made = reader.generate(given, new_tokens, reader.end)
            answers |= {prompt.key: ids for prompt, ids in zip(group, made, strict=True)}
        rows = []
        for prompt in prompts:
            ids = answers[prompt.key]
            row = {"record_id": prompt.record_id, "rendering": prompt.rendering, "variant": prompt.variant}
            texts = {"prompt": decode(list(prompt.ids)), "text": before_stop(decode(ids), prompt.stops)}
            rows.append(self._row(loaded) | row | texts | {"token_ids": ids})
        return rows


def block_of(rendering: str) -> str:
    """A rendering's name without the number of its copy or option."""
    return re.sub(r"[/=][0-9]+$", "", rendering)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stops."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text
