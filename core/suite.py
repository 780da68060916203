"""Reading a suite file: TOML, checked against `schema.py`, into the plain values of `design.py`."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from . import schema
from .analysis import read_analysis
from .arms import ArmReader, check_control, check_parent, fractions
from .base import read_corpus
from .design import (
    ArmDesign,
    EvalDesign,
    PerturbationDesign,
    ReleaseDesign,
    Suite,
    TrainDesign,
    plain,
)
from .errors import CostarError, nearest, shorten
from .hypotheses import HypothesisReader
from .models import ModelPreset, presets
from .schemes import detect_levels, scheme_levels

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
NAMED = ("perturbation", "arm", "model", "hypothesis")  # tables of tables, each with a name of the user's


def find_suite(name: str) -> Path:
    """The path of a suite given as a path, or as a name under `suites/` here or in the package."""
    shipped = Path(__file__).resolve().parent.parent / "suites"
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if path.is_file():
            return path
        raise CostarError(f"suite {name}", found="no such file", expected="a TOML file", mend="check the path")
    for folder in (Path("suites"), shipped):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    known = sorted(path.stem for path in shipped.glob("*.toml"))
    raise CostarError(
        f"suite {name!r}",
        found="no such suite",
        expected=f"a path, or one of {', '.join(known)}",
        mend=f"give the path of your file, such as ./{name}.toml{nearest(name, known)}",
    )


def load_suite(path: Path) -> Suite:
    """Read and check a suite file.

    Raises:
        CostarError: the file is missing, is not TOML, or breaks a rule; the message names the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text, parse_float=Decimal)
    except FileNotFoundError:
        raise CostarError(str(path), found="no such file", expected="a suite file", mend="check the path") from None
    except UnicodeDecodeError as error:
        raise CostarError(
            str(path),
            found=f"bytes that are not UTF-8 at {error.start}",
            expected="UTF-8 text",
            mend="re-save the file",
        ) from None
    except (ValueError, RecursionError) as error:  # not TOML, thousands of digits, or of nested arrays
        raise CostarError(str(path), found=shorten(error), expected="TOML", mend="correct the line") from None
    try:
        spec = schema.SuiteSpec.model_validate(raw)
    except ValidationError as error:
        raise _explain(path, error) from None
    return _Builder(path, spec, raw, text).build()


def _explain(path: Path, error: ValidationError) -> CostarError:
    """The first error of pydantic in the project's words."""
    errors = sorted(
        error.errors(), key=lambda e: e["type"] != "extra_forbidden"
    )  # a misspelt key explains a missing one
    first = errors[0]
    loc = [
        str(part) for part in first["loc"] if not str(part).startswith(("PhaseSpec", "function-", "dict[", "literal["))
    ]
    place = _place(path, loc)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1])
        return CostarError(
            place,
            found=f"unknown key {loc[-1]!r}{more}",
            expected=f"one of {', '.join(sorted(known))}",
            mend=f"correct or remove the key{nearest(loc[-1], known)}",
        )
    if first["type"] == "missing":
        return CostarError(place, found=f"nothing{more}", expected=f"the key {loc[-1]!r}", mend="add it")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("expected ")
    found = shorten(json.dumps(plain(first["input"]), default=str)) + more
    return CostarError(place, found=found, expected=message, mend="correct the value")


def _place(path: Path, loc: list[str]) -> str:
    tables = 3 if loc[:2] == ["corpus", "mixture"] else 2 if loc and loc[0] in NAMED else 1
    table, keys = loc[:tables], [key for key in loc[tables:] if key != schema.ALL]
    return f"{path}, [{'.'.join(table)}]" + (f" {'.'.join(keys)}" if keys else "")


def _known_keys(loc: list[str]) -> list[str]:
    """The keys that the schema knows at a place."""
    model: Any = schema.SuiteSpec
    skip = False
    for part in loc:
        if skip:
            skip = False
            continue
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        model, skip = models[0], annotation not in models and part in (*NAMED, "mixture", "factors")
    return [field.alias or name for name, field in model.model_fields.items()]


class _Builder:
    """Turns a checked spec into a `Suite`, with the checks that need more than one key."""

    def __init__(self, path: Path, spec: schema.SuiteSpec, raw: Mapping[str, Any], text: str):
        self.path, self.spec, self.raw, self.text = path, spec, raw, text

    def fail(self, key: str, *, found: object, expected: str, mend: str) -> CostarError:
        return CostarError(f"{self.path}, {key}", found=shorten(found), expected=expected, mend=mend)

    def build(self) -> Suite:
        spec = self.spec
        for table in NAMED:
            for name in getattr(spec, table):
                self._check_name(f"[{table}.{name}]", name)
        for name in spec.corpus.mixture:
            self._check_name(f"[corpus.mixture.{name}]", name)
        self._check_name("file name", self.path.stem)
        models = {
            name: ModelPreset(
                layers=m.layers, hidden=m.hidden, heads=m.heads, kv_heads=m.kv_heads or m.heads, ffn=m.ffn, tied=m.tied
            )
            for name, m in spec.model.items()
        }
        for name, preset in models.items():
            if preset.hidden % preset.heads or preset.heads % preset.kv_heads or preset.hidden // preset.heads % 2:
                raise self.fail(
                    f"[model.{name}]",
                    found=f"hidden {preset.hidden}, heads {preset.heads}, kv_heads {preset.kv_heads}",
                    expected="hidden divisible by heads with an even quotient, heads divisible by kv_heads",
                    mend="change one of the three",
                )
        self.known_models = [*models, *presets()]
        self._check_models("[suite] models", spec.suite.models)
        perturbations = {
            name: self._perturbation(name, i, table) for i, (name, table) in enumerate(spec.perturbation.items())
        }
        for name, design in perturbations.items():
            for other in design.overlaps:
                if other not in perturbations or other == name:
                    raise self.fail(
                        f"[perturbation.{name}] overlaps",
                        found=other,
                        expected=f"one of {', '.join(p for p in perturbations if p != name)}",
                        mend=f"correct the name{nearest(other, perturbations)}",
                    )
        train = self._train("[train]", spec.train)
        reader = ArmReader(spec=spec, perturbations=perturbations, fail=self.fail)
        arms = {name: self._arm(reader, name, table, train) for name, table in spec.arm.items()}
        for arm in arms.values():
            check_parent(arm, arms, self.fail)
        for arm in arms.values():
            check_control(arm, arms, self.fail)
        for at, name in enumerate(spec.release.arms):
            if name in spec.release.arms[:at]:
                raise self.fail("[release] arms", found=f"{name} twice", expected="each once", mend="take one out")
            if name not in arms or arms[name].control is None:
                treated = [arm.name for arm in arms.values() if arm.control]
                raise self.fail(
                    "[release] arms",
                    found=name,
                    expected=f"arms with a control: {', '.join(treated)}",
                    mend="correct it",
                )
        analysis = read_analysis(
            {name: design.kind for name, design in perturbations.items()},
            spec.eval.probes,
            spec.eval.primary,
            spec.eval.margins,
            spec.eval.families,
            self.fail,
        )
        hypotheses = HypothesisReader(
            analysis=analysis,
            probes=spec.eval.probes,
            perturbations=perturbations,
            arms=arms,
            fail=self.fail,
        )
        return Suite(
            name=self.path.resolve().parent.name if self.path.name == "suite.toml" else self.path.stem,
            seed=spec.suite.seed,
            draws=spec.suite.draws,
            models=tuple(spec.suite.models),
            corpus=read_corpus(spec.corpus, spec.suite.seed, self.fail),
            perturbations=perturbations,
            arms=arms,
            model_presets=models,
            train=train,
            eval=EvalDesign(
                probes=tuple(spec.eval.probes),
                prefixes=tuple(spec.eval.prefixes),
                suffix=spec.eval.suffix,
                analysis=replace(
                    analysis, hypotheses=tuple(hypotheses.read(*item) for item in spec.hypothesis.items())
                ),
            ),
            release=ReleaseDesign(
                arms=tuple(spec.release.arms), licence=spec.release.licence, authors=tuple(spec.release.authors)
            ),
            spec=plain(self.raw),
            toml=self.text,
            path=self.path,
        )

    def _check_name(self, key: str, name: str) -> None:
        if not NAME.fullmatch(name):
            raise self.fail(
                key, found=name, expected="lower-case letters, digits and hyphens", mend="choose another name"
            )

    def _check_models(self, key: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.known_models:
                raise self.fail(
                    key,
                    found=name,
                    expected=f"one of {', '.join(self.known_models)}, or a table [model.{name}]",
                    mend=f"correct the name or add the table{nearest(name, self.known_models)}",
                )

    def _perturbation(self, name: str, ordinal: int, table: schema.PerturbationTable) -> PerturbationDesign:
        limit = self.spec.corpus.sequence_length - 3
        if table.records.tokens and table.records.tokens > limit:
            raise self.fail(
                f"[perturbation.{name}] records.tokens",
                found=table.records.tokens,
                expected=f"at most {limit}, the sequence length less 3",
                mend="shorten the records or lengthen [corpus] sequence_length",
            )
        if table.records.origin == "corpus" and not table.records.tokens:
            raise self.fail(
                f"[perturbation.{name}] records", found='from = "corpus"', expected="tokens as well", mend="add tokens"
            )
        return PerturbationDesign(
            name=name,
            ordinal=ordinal,
            kind=table.kind,
            origin=table.records.origin,
            tokens=table.records.tokens,
            length=table.records.length,
            max_tokens=table.records.max_tokens,
            rename=table.records.map,
            where=table.records.where,
            without=tuple(table.records.without),
            levels=self._levels(f"[perturbation.{name}]", table),
            home=fractions(table.phase),
            licence=table.licence
            or {"generator": "CC0-1.0", "corpus": "as the source document"}.get(table.records.origin, "not stated"),
            strata=tuple(table.strata),
            cluster=table.cluster,
            rendering=table.rendering,
            templates=table.templates,
            overlaps=tuple(table.overlaps),
            allow=table.allow,
        )

    def _levels(self, key: str, table: schema.PerturbationTable) -> dict[int, int]:
        """The counts of a scheme, of a wanted effect, or as written; they must add up to a declared count."""
        count = table.records.count
        if isinstance(table.levels, str):
            if count is None:
                raise self.fail(
                    f"{key} levels",
                    found=f'"{table.levels}" without a number of records',
                    expected="records = { …, count = N } as well",
                    mend="add count, or write the levels out",
                )
            return scheme_levels(table.levels, count)
        if isinstance(table.levels, schema.Detect):
            levels = detect_levels(table.levels.effect, table.levels.copies)
        else:
            levels = table.levels
        total = sum(levels.values())
        if (count is not None and total > count) or (
            count is not None and isinstance(table.levels, dict) and total != count
        ):
            raise self.fail(
                f"{key} levels",
                found=f"{total:,} records",
                expected=f"{count:,}, the count of the records",
                mend="correct the levels or the count",
            )
        return levels

    def _arm(self, reader: ArmReader, name: str, table: schema.ArmTable, train: TrainDesign) -> ArmDesign:
        if table.models:
            self._check_models(f"[arm.{name}] models", table.models)
        return reader.read(name, table, self._train(f"[arm.{name}]", table, train))

    def _train(self, key: str, table: schema.TrainKeys, base: TrainDesign | None = None) -> TrainDesign:
        values: dict[str, Any] = dict(vars(base)) if base else {}
        given = {name: getattr(table, name) for name in schema.TrainKeys.model_fields if name != "checkpoints"}
        values |= {name: value for name, value in given.items() if value is not None}
        if table.decay is None and values["schedule"] != "wsd":
            values["decay"] = 0  # an arm with another schedule than [train] leaves its decay behind
        values.setdefault("decay", 0)
        if table.checkpoints is not None:
            values["every"] = table.checkpoints.every or values["steps"]
            values["also"] = tuple(table.checkpoints.also)
        design = TrainDesign(**values)
        if design.slots >= 2**31 or design.warmup > design.steps:
            raise self.fail(
                key,
                found=f"steps {design.steps:,}, batch {design.batch:,}, warmup {design.warmup:,}",
                expected="steps × batch below 2³¹ and warmup at most steps",
                mend="lower one of them",
            )
        for step in design.also:
            if step > design.steps:
                raise self.fail(
                    f"{key} checkpoints.also", found=step, expected=f"at most {design.steps}", mend="correct it"
                )
        self._check_rates(key, design)
        return design

    def _check_rates(self, key: str, design: TrainDesign) -> None:
        """A schedule can come down as it says."""
        if design.schedule == "wsd" and not design.decay:
            raise self.fail(
                f"{key} schedule",
                found='"wsd" without decay',
                expected="the number of last steps over which the rate comes down",
                mend=f"add decay, such as decay = {max(1, design.steps // 10)}",
            )
        if design.schedule != "wsd" and design.decay:
            raise self.fail(
                f"{key} decay",
                found=f'decay {design.decay:,} with schedule = "{design.schedule}"',
                expected='a decay with schedule = "wsd" only',
                mend='say schedule = "wsd", or remove decay',
            )
        if design.warmup + design.decay > design.steps:
            raise self.fail(
                f"{key} decay",
                found=f"warmup {design.warmup:,} and decay {design.decay:,} in {design.steps:,} steps",
                expected="warmup + decay at most steps",
                mend="lower one of them, or give more steps",
            )
        if design.schedule != "constant" and design.lr_end > design.lr:
            raise self.fail(
                f"{key} lr_end",
                found=f"lr_end {design.lr_end:g} above lr {design.lr:g}",
                expected="a rate that comes down",
                mend="lower lr_end, or raise lr",
            )
