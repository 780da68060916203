"""Models from elsewhere: any causal language model of transformers, measured on the records of a suite.

The results lie in `eval/external/<name>/`, in the formats of the suite's own runs, with the name as run and step 0. Records
are encoded by the model's own tokenizer; where that is the suite's, ids are the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from ..core import console
from ..core.console import stage_line, token_text
from ..core.design import Suite
from ..core.errors import CostarError, shorten
from ..core.hashing import sha256_file, sha256_json
from ..core.parquet import write_rows
from ..core.workspace import Workspace, finish_step, is_current, output_lock, read_facts, start_step, write_json
from ..corpus.tokenizer import Tokenizer
from ..manifests.catalogue import EXTERNAL_KEYS, build_manifest
from ..manifests.sql import open_manifest
from ..manifests.tables import GAPS
from .hf_reader import WEIGHTS, HfReader, check_folder, load_model, longest_input
from .measure import Measurement, Places
from .probes import Gap
from .recoded import recoded
from .score import Measurer

HUB = "hub:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OWN_RUN = re.compile(r"[^.]+\.[^.]+\.d[0-9]+")
FILES = ("*.safetensors", "*.json", "*.txt", "*.model")  # what is fetched of a repository: no pickle, no code
READER = Path(__file__).with_name("hf_reader.py")
STEP = 0
FACTS = "external"
SHOWN = {"likelihood": "ll_byte", "extraction": "extracted", "choice": "accuracy", "secret-rank": "exposure_bits"}


def is_external(model: str | None, name: str | None = None) -> TypeGuard[str]:
    """Whether the value of `--model` names a model from elsewhere: a path with a slash, or a repository of the Hub.

    Raises:
        CostarError: it does not, but there is a name for one.
    """
    found = model is not None and ("/" in model or model.startswith(HUB))
    if name is not None and not found:
        raise CostarError(
            "--name",
            found=f"a name for {model or 'no model'}",
            expected="--model with a folder (./model) or hub:owner/name",
            mend="leave it away, or name the model",
        )
    return found


def evaluate_external(
    suite: Suite, workspace: Workspace, model: str, name: str | None, others: Sequence[object] = ()
) -> None:
    """The verb `eval` for a model from elsewhere: measure it, rebuild the manifest, print its dose response.

    Raises:
        CostarError: `others`, options that choose among the suite's own runs, or what `measure_external` refuses.
    """
    if any(value is not None for value in others):
        raise CostarError(
            "--model",
            found="--arm, --draw or --step beside a model from elsewhere, which has none",
            expected="only --name",
            mend="leave them away",
        )
    started = time.monotonic()
    facts = measure_external(suite, workspace, model, name)
    build_manifest(suite, workspace)
    what = f"{facts['run']}: {facts['architecture']}, {token_text(facts['parameters'])} parameters"
    stage_line("eval", f"{what}, {len(suite.eval.probes)} probes", time.monotonic() - started)
    print_response(workspace, facts["run"])


def measure_external(suite: Suite, workspace: Workspace, model: str, name: str | None = None) -> dict[str, Any]:
    """Measure a folder of a model, or `hub:owner/name[@revision]`, on the suite's records; what is known of the model.

    Raises:
        CostarError: it cannot be found or loaded, or the name is another model's.
    """
    folder, source = _located(model)
    check_folder(folder)
    run = name or source.removeprefix(HUB).split("@")[0].rsplit("/", 1)[-1]
    _check_name(run, given=name is not None)
    place = workspace.external(run)
    with output_lock(place, f"eval {run}"):
        measurer = Measurer(suite, workspace)
        probes = measurer.probes  # one that is not there is told before the model is loaded
        external = ExternalModel(folder, source, run, place)
        external.refuse_another()
        context = replace(measurer.contexts.shared, length=external.facts["longest"])
        gaps: list[Gap] = []
        if external.facts["tokenizer_sha256"] != sha256_file(workspace.corpus / "tokenizer.json"):
            context, gaps = recoded(suite, workspace.corpus, context, external.tokenizer)
            if not context.subjects:
                raise CostarError(
                    str(folder),
                    found=f"a tokenizer that can write none of the records: {gaps[0].reason if gaps else 'no records'}",
                    expected="the model's own tokenizer",
                    mend="put its files beside the weights",
                )
        context = replace(context, first=external.begin)
        rows = [{"run": run, "step": STEP, "probe": ""} | gap._asdict() for gap in gaps]
        inputs = sha256_json([external.identity, measurer.facts])
        if not is_current(place, inputs, "gaps"):
            start_step(place, "gaps")
            finish_step(place, inputs, [write_rows(place / "gaps.parquet", GAPS, rows)], "gaps")
        size = external.facts["vocab_size"]
        Measurement(
            places=Places(
                ledger=place / "ledger", generated=place / "generated", scores=place / "scores", run=run, step=STEP
            ),
            identity=external.identity,
            facts=measurer.facts,
            reads=measurer.reads,
            context=context,
            probes=probes,
            serves=frozenset({"loglik", "generate", "counts"} | ({"weights"} if external.facts["packs"] else set())),
            byte_counts=np.array([context.tokenizer.byte_count(i) for i in range(size)], np.int32),
            open_reader=lambda: external.reader,
        ).run()
        return external.facts


@dataclass
class ExternalModel:
    """A model's folder, and what is known of it without loading it a second time."""

    folder: Path
    source: str
    run: str
    place: Path

    @cached_property
    def _config(self) -> Any:
        return self._asked("configuration", lambda auto: auto.AutoConfig)

    @cached_property
    def _theirs(self) -> Any:
        assert self._config is not None  # first: transformers blames the tokenizer for a broken configuration
        return self._asked("tokenizer", lambda auto: auto.AutoTokenizer)

    def _asked(self, what: str, auto: Any) -> Any:
        import transformers

        try:
            return auto(transformers).from_pretrained(self.folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # transformers raises many kinds for folders that it cannot read
            raise CostarError(
                str(self.folder),
                found=f"no {what}: {type(error).__name__}: {shorten(error, 160)}",
                expected=f"the model's {what}, as transformers saves it",
                mend=f"put the {what} beside the weights",
            ) from None

    @cached_property
    def _tokenizer_path(self) -> Path:
        """Its tokenizer.json, or what transformers makes of other files."""
        path = self.folder / "tokenizer.json"
        if path.is_file():
            return path
        backend = getattr(self._theirs, "backend_tokenizer", None)
        if backend is None:
            raise CostarError(
                str(self.folder),
                found=f"a {type(self._theirs).__name__}, which has no tokenizer.json",
                expected="a tokenizer of the tokenizers library",
                mend="save it as tokenizer.json",
            )
        made = self.place / "tokenizer.json"
        backend.save(str(made))
        return made

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self._tokenizer_path, self._special("eos_token"))

    def _special(self, name: str) -> str:
        """A special token of the tokenizer, or that whose id the configuration names."""
        text = getattr(self._theirs, name, None)
        if text is None:
            number = getattr(self._config, f"{name}_id", None)
            text = self._theirs.convert_ids_to_tokens(number) if isinstance(number, int) else None
        if text is None and name == "bos_token":
            return self._special("eos_token")
        if text is None:
            raise CostarError(
                str(self.folder),
                found="a tokenizer without a token that ends texts",
                expected="eos_token in tokenizer_config.json or eos_token_id in config.json",
                mend="name it there",
            )
        return str(text)

    @cached_property
    def weights(self) -> str:
        """The hash of all files of weights."""
        return sha256_json({path.name: sha256_file(path) for path in sorted(self.folder.glob(WEIGHTS))})

    @cached_property
    def identity(self) -> str:
        parts = [sha256_file(path) for path in sorted(self.folder.glob("*config.json"))]
        special = [self._special(name) for name in ("bos_token", "eos_token")]
        return sha256_json([self.weights, parts, sha256_file(self._tokenizer_path), special, sha256_file(READER)])

    @cached_property
    def begin(self) -> int:
        """The id before a text: BOS, or EOS where the tokenizer has no other."""
        found = self.tokenizer.inner.token_to_id(self._special("bos_token"))
        return self.tokenizer.eos_id if found is None else int(found)

    @cached_property
    def reader(self) -> HfReader:
        model, tokenizer = load_model(self.folder), self.tokenizer
        longest = longest_input(model.config, getattr(self._theirs, "model_max_length", None))
        size = tokenizer.vocab_size
        if getattr(self._theirs, "pad_token_id", None) == size - 1 != tokenizer.eos_id:
            size -= 1  # a pad token behind all others is no prediction
        return HfReader(model, vocab_size=size, longest=longest, begin=self.begin, end=tokenizer.eos_id)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of the model, and what was tried when it was loaded; kept for the next time."""
        path = self.place / f"{FACTS}.json"
        keys = (*EXTERNAL_KEYS, "longest", "packs")
        if is_current(self.place, self.identity, FACTS):
            return read_facts(path, keys, mend="remove the folder and run `costar eval` again")
        reader = self.reader
        values = {
            "run": self.run,
            "source": self.source,
            "architecture": type(reader.module).__name__,
            "parameters": sum(each.numel() for each in reader.module.parameters()),
            "vocab_size": reader.vocab_size,
            "tokenizer_sha256": sha256_file(self._tokenizer_path),
            "weights_sha256": self.weights,
            "longest": reader.longest,
            "packs": reader.packs,
        }
        start_step(self.place, FACTS)
        write_json(path, values)
        finish_step(self.place, self.identity, [path], FACTS)
        return values

    def refuse_another(self) -> None:
        """A name stands for one model: the weights that it was first used for."""
        path = self.place / f"{FACTS}.json"
        if not path.is_file():
            return
        known = read_facts(path, EXTERNAL_KEYS, mend="remove the folder and run `costar eval` again")
        if known["weights_sha256"] != self.weights:
            raise CostarError(
                f"model {self.run}",
                found=f"other weights than those measured under this name ({known['source']})",
                expected="one model a name",
                mend=f"give it another --name, or remove {self.place}",
            )


def _located(model: str) -> tuple[Path, str]:
    """The folder of a model, and its source in words that hold no path of this machine."""
    if not model.startswith(HUB):
        folder = Path(model)
        if not folder.is_dir():
            raise CostarError(
                "--model",
                found=f"no folder {model}",
                expected="a folder of a model, or hub:owner/name",
                mend="correct the path",
            )
        return folder, folder.resolve().name
    repository, _, revision = model.removeprefix(HUB).partition("@")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # errors of the network, of the Hub and of names are of many kinds
        raise CostarError(
            "--model",
            found=f"no model {model}, or no way to it: {type(error).__name__}: {shorten(error, 160)}",
            expected="a model of the Hub, hub:owner/name or hub:owner/name@revision",
            mend="check the name and the network (HF_HUB_OFFLINE forbids it), or name a folder",
        ) from None
    return folder, f"{HUB}{repository}@{folder.name}"


def _check_name(run: str, *, given: bool) -> None:
    if not NAME.fullmatch(run) or OWN_RUN.fullmatch(run):
        raise CostarError(
            "--name" if given else "--model",
            found=f"the name {run!r}" + (", which is that of a suite's run" if OWN_RUN.fullmatch(run) else ""),
            expected="a name of letters, digits, '.', '_' and '-' that no run has",
            mend="give it with --name",
        )


def print_response(workspace: Workspace, run: str) -> None:
    """Means by perturbation and level of draw 0, a column for each of the main measures that there is."""
    connection = open_manifest(workspace)
    try:
        query = "select perturbation, level, probe, metric, variant, n, mean from external_response where run = ?"
        rows = connection.execute(f"{query} order by all", [run]).fetchall()
        gaps = connection.execute("select count(*) from external_gaps where run = ?", [run]).fetchall()[0][0]
    finally:
        connection.close()
    order = list(SHOWN)
    rows = sorted((row for row in rows if SHOWN.get(row[2]) == row[3]), key=lambda row: (order.index(row[2]), row[4]))
    columns = list(dict.fromkeys((metric, variant) for _, _, _, metric, variant, _, _ in rows))
    cells: dict[tuple[str, int], dict[Any, Any]] = {}
    for perturbation, level, _, metric, variant, count, mean in rows:
        values = cells.setdefault((perturbation, level), {"records": count})
        values[(metric, variant)] = round(-mean if metric == "ll_byte" else mean, 3)
    titles = ["nats/byte" if m == "ll_byte" else f"{m} {v.split('=')[-1]}".strip() for m, v in columns]
    table = [
        (*key, values["records"], *(values.get(column) for column in columns)) for key, values in sorted(cells.items())
    ]
    console.table(("perturbation", "copies", "records", *titles), table, numeric=range(1, 3 + len(columns)))
    if gaps:
        console.say(f"{gaps:,} records or measures have no value: from external_gaps says why")
