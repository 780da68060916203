"""Models from elsewhere: the suite's own export gives the suite's numbers, other models and tokenizers what they give alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow.compute as pc
import pytest
import torch
from costar.core.errors import CostarError
from costar.core.suite import load_suite
from costar.core.workspace import Workspace
from costar.corpus.tokenizer import Tokenizer
from costar.eval.context import SuiteContext
from costar.eval.external import ExternalModel, is_external, measure_external
from costar.eval.hf_reader import HfReader, load_model, longest_input
from costar.eval.probes import Request, membership
from costar.eval.questions import question_of, requests_of_all
from costar.eval.recoded import recoded
from costar.eval.stored import damaged_files, ledger_in
from costar.manifests.catalogue import build_manifest
from costar.manifests.sql import ask, open_manifest
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.eval.test_parity import ask_harness, found_of
from tests.small import costar

RUN, STEP = "perturbed.nano.d0", 96
VOCABULARY = 320
SIZES: dict[str, dict[str, int]] = {
    "GPT2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128},
    "GPTNeoX": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    },
    "Llama": {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    },
}


def write_tokenizer(folder: Path, *, lowercase: bool = False, bos: bool = False) -> None:
    """Byte-level BPE with another end of texts, which joins digits; with `bos` it puts BOS before a text."""
    tokenizer = HfTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    numbers = " ".join(f"{n:02d}" for n in range(100)) + " "
    tokenizer.train_from_iterator([numbers * 40, *[topics[name] for name in sorted(topics)[:3]]], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def write_model(
    folder: Path, architecture: str = "Llama", *, lowercase: bool = False, bos: bool = False, **sizes: int
) -> Path:
    """A random model with its tokenizer; unless `sizes` say otherwise, eight of its outputs have no token."""
    import transformers

    torch.manual_seed(7)
    config = getattr(transformers, f"{architecture}Config")
    given = {"vocab_size": VOCABULARY, **SIZES.get(architecture, {}), **sizes}
    model = transformers.AutoModelForCausalLM.from_config(
        config(bos_token_id=0, eos_token_id=1, pad_token_id=1, **given)
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6  # logits far from uniform
    model.save_pretrained(folder)
    write_tokenizer(folder, lowercase=lowercase, bos=bos)
    return folder


def measured(build: Path, model: Path, name: str | None = None) -> dict[str, Any]:
    torch.set_num_threads(1)
    return measure_external(load_suite(build / "suite.toml"), Workspace(build), str(model), name)


def manifest_of(build: Path) -> duckdb.DuckDBPyConnection:
    build_manifest(load_suite(build / "suite.toml"), Workspace(build))
    return open_manifest(Workspace(build))


def test_the_suites_own_export_has_the_ledger_of_its_run(built_copy: Path) -> None:
    workspace = Workspace(built_copy)
    facts = measured(built_copy, workspace.run(RUN) / "hf" / f"step-{STEP:06d}", "export")
    assert facts["packs"]
    own, theirs = ledger_in(workspace.ledger(RUN, STEP)), ledger_in(workspace.external("export") / "ledger")
    keys = ("record_id", "rendering", "context", "position", "token_id", "n_bytes")

    def rows(table: Any) -> dict[Any, dict[str, Any]]:
        return {tuple(row[key] for key in keys): row for row in table.to_pylist()}

    first, second = rows(own), rows(theirs)
    assert first.keys() == second.keys()
    for name in ("logp", "mean_logp", "var_logp", "lse_top40"):
        assert max(abs(first[key][name] - second[key][name]) for key in first) < 1e-4, name
    connection = manifest_of(built_copy)
    query = f"""
        select count(*), max(abs(e.value - s.value)) from external_scores e
        join scores s using (record_id, rendering, probe, variant, metric)
        where e.run = 'export' and s.run = '{RUN}' and s.step = {STEP} and metric in ('nll_token', 'll_byte', 'margin')
    """
    count, largest = connection.execute(query).fetchall()[0]
    assert count > 100
    assert largest < 1e-3
    both = "select count(*) from external_scores full join (from scores where run = ? and step = ?) s "
    both += "using (record_id, rendering, probe, variant, metric) where external_scores.run is null or s.run is null"
    assert connection.execute(both, [RUN, STEP]).fetchall() == [(0,)]
    connection.close()


@pytest.mark.parametrize("architecture", ["GPT2", "GPTNeoX", "Llama"])
def test_other_models_and_tokenizers_are_measured_by_their_own_ids(
    built_copy: Path, tmp_path: Path, architecture: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_model(tmp_path / "other", architecture)
    facts = measured(built_copy, folder)
    assert facts["packs"]
    assert facts["vocab_size"] == VOCABULARY - 8
    connection = manifest_of(built_copy)
    named = connection.execute("select run, source, architecture, parameters from external").fetchall()
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert named == [("other", "other", type(model).__name__, sum(p.numel() for p in model.parameters()))]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    query = """
        select s.value, ren.text from external_scores s
        join renderings ren using (record_id, rendering)
        where s.run = 'other' and s.metric = 'll_byte' order by s.record_id
    """
    rows = connection.execute(query).fetchall()
    assert len(rows) > 60
    for value, text in rows[::9]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) != len(text.encode())
        with torch.no_grad():
            logits = model(torch.tensor([[0, *ids[:-1]]])).logits[0, :, : VOCABULARY - 8].double()
        total = torch.log_softmax(logits, -1)[torch.arange(len(ids)), ids].sum()
        assert value * len(text.encode()) == pytest.approx(float(total), abs=1e-3)
    reasons = connection.execute("select distinct record_id, reason from external_gaps where probe = ''").fetchall()
    assert reasons
    assert all("secret" in reason for _, reason in reasons)  # its tokens join digits
    connection.close()


def test_the_manifest_keeps_external_models_apart_and_a_recipe_joins_them(built_copy: Path, tmp_path: Path) -> None:
    measured(built_copy, write_model(tmp_path / "other"))
    connection = manifest_of(built_copy)
    assert connection.execute("select count(*) from scores where run = 'other'").fetchall() == [(0,)]
    names, rows = ask(connection, "external")
    assert {"other", RUN} <= set(names)
    assert any(row[names.index("other")] is not None and row[names.index(RUN)] is not None for row in rows)
    levels = connection.execute(
        "select level, n from external_response where perturbation = 'passages' and metric = 'll_byte' order by 1"
    ).fetchall()
    assert levels == [(0, 20), (1, 12), (14, 12)]
    assert connection.execute("select count(*) from external_ledger").fetchall()[0][0] > 1000
    connection.close()
    data = (built_copy / "manifest.duckdb").read_bytes()
    assert str(tmp_path).encode() not in data


def test_texts_longer_than_the_model_reads_are_scored_whole_and_other_measures_are_gaps(
    built_copy: Path, tmp_path: Path
) -> None:
    measured(built_copy, write_model(tmp_path / "short", "GPT2", n_positions=20))
    connection = manifest_of(built_copy)
    query = "select count(*) from external_scores where metric = ? and record_id like 'passages%'"
    assert connection.execute(query, ["nll_token"]).fetchall()[0][0] == 44
    assert connection.execute(query, ["extracted"]).fetchall()[0][0] == 0
    positions = "select count(*) = max(position) + 1 from external_ledger where rendering = 'text' group by record_id"
    assert set(connection.execute(positions).fetchall()) == {(True,)}
    gaps = connection.execute("select probe, reason from external_gaps where probe != ''").fetchall()
    assert {"extraction", "choice"} <= {probe for probe, _ in gaps}
    assert all("the model reads at most 20" in reason for probe, reason in gaps if probe == "extraction")
    connection.close()


def test_a_tokenizer_that_cannot_give_the_texts_back_leaves_gaps_only(built_copy: Path, tmp_path: Path) -> None:
    measured(built_copy, write_model(tmp_path / "lower", lowercase=True))
    connection = manifest_of(built_copy)
    reasons = connection.execute("select reason from external_gaps where record_id like 'passages%'").fetchall()
    assert reasons
    assert all("decoding gives" in reason for (reason,) in reasons)
    connection.close()


def test_the_prefix_of_recall_begins_with_bos_where_a_model_has_it(built_copy: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "other", bos=True, max_position_embeddings=1024)
    measured(built_copy, folder)
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    external = ExternalModel(folder, "other", "other", workspace.external("other"))
    assert (external.begin, external.reader.begin, external.reader.end) == (0, 0, 1)
    context, _ = recoded(suite, workspace.corpus, SuiteContext(suite, workspace).shared, external.tokenizer)
    recall = ledger_in(workspace.external("other") / "ledger").filter(pc.field("context") == "recall").to_pylist()
    assert recall
    first = replace(context, first=0, length=1024)
    asked = {r.key: r for r in membership.requests(first) if r.context == "recall"}
    for key, request in list(asked.items())[::9]:
        rows = torch.tensor([[*request.before, *request.ids]])
        assert request.before[0] == 0
        logp = external.reader.logits(external.reader.states(rows))[0].log_softmax(-1)
        place = len(request.before)
        expected = logp[range(place - 1, rows.shape[1] - 1), rows[0, place:]].tolist()
        theirs = [
            (row["position"], row["logp"])
            for row in recall
            if (row["record_id"], row["rendering"], row["context"]) == key
        ]
        assert [value for _, value in sorted(theirs)] == pytest.approx(expected, abs=1e-3)


def test_another_end_of_texts_is_another_model(built_copy: Path, tmp_path: Path) -> None:
    """Also where only `special_tokens_map.json` names it, which is no configuration."""
    folder = write_model(tmp_path / "other")
    config, named = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    names = json.loads(config.read_text())
    ends = [names.pop("eos_token"), "<s>"]
    config.write_text(json.dumps(names))
    found = []
    for end in ends:
        named.write_text(json.dumps({"bos_token": "<s>", "eos_token": end}))
        external = ExternalModel(folder, "other", "other", Workspace(built_copy).external("other"))
        found.append((external.tokenizer.eos_id, external.identity))
    assert [eos for eos, _ in found] == [1, 0]
    assert found[0][1] != found[1][1]


def test_a_model_that_was_measured_is_not_measured_again(built_copy: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "other")
    measured(built_copy, folder)
    place = Workspace(built_copy).external("other")
    times = {path: path.stat().st_mtime_ns for path in place.rglob("*.*")}
    measured(built_copy, folder)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.*")} == times
    damaged = next((place / "ledger").glob("*.parquet"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9] + b"x" + whole[-8:])
    assert any(str(damaged) in problem for problem in damaged_files(Workspace(built_copy)))
    measured(built_copy, folder)
    assert damaged.read_bytes() == whole


def test_a_name_stands_for_one_model(built_copy: Path, tmp_path: Path) -> None:
    measured(built_copy, write_model(tmp_path / "one"), "name")
    other = write_model(tmp_path / "two", "GPT2")
    with pytest.raises(CostarError, match="other weights than those measured under this name"):
        measured(built_copy, other, "name")
    for name in (RUN, "late.60m.d3", "a/b", ".."):
        with pytest.raises(CostarError, match="that no run has"):
            measured(built_copy, other, name)


def without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_nan(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update({"model.norm.weight": torch.full((32,), float("nan"))}))


def with_a_missing_weight(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.__delitem__("model.norm.weight"))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_code(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "mine.Model"}}
    path.write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('code of the folder was run')")


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (without("config.json"), "config"),
        (pickled, "weights as pickle only: pytorch_model.bin"),
        (without("model.safetensors"), "no weights"),
        (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
        (with_nan, "values that are not numbers .* model.norm.weight"),
        (with_a_missing_weight, "no weights for model.norm.weight"),
        (cut, "Error"),
        (with_code, "mine|code|trust_remote_code"),
    ],
)
def test_bad_folders_are_refused_with_what_is_wrong(
    built_copy: Path, tmp_path: Path, damage: Callable[[Path], None], found: str
) -> None:
    folder = write_model(tmp_path / "bad")
    damage(folder)
    with pytest.raises(CostarError, match=found) as error:
        measured(built_copy, folder)
    assert str(folder) in str(error.value)
    assert error.value.exit_code == 2


def test_nothing_is_downloaded_offline_and_a_missing_folder_is_named(
    built_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    with pytest.raises(CostarError, match="no model hub:nobody/nothing-of-that-name"):
        measure_external(suite, workspace, "hub:nobody/nothing-of-that-name")
    with pytest.raises(CostarError, match=r"no folder \./nowhere"):
        measure_external(suite, workspace, "./nowhere")


def test_a_repository_of_the_hub_is_measured_from_the_cache_and_named_by_its_commit(
    built_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    repository = tmp_path / "hub" / "models--someone--tiny"
    write_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "step8").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    suite, workspace = load_suite(built_copy / "suite.toml"), Workspace(built_copy)
    facts = measure_external(suite, workspace, "hub:someone/tiny@step8")
    assert (facts["run"], facts["source"]) == ("tiny", f"hub:someone/tiny@{commit}")


def test_presets_and_models_of_the_suite_stay_what_they_were() -> None:
    assert [is_external(model) for model in (None, "nano", "tiny", "./nano", "hub:a/b", "/models/x")] == [
        *[False] * 3,
        *[True] * 3,
    ]
    with pytest.raises(CostarError, match="a name for nano"):
        is_external("nano", "mine")


def test_the_verb_prints_the_dose_response(built_copy: Path) -> None:
    folder = built_copy.parent.parent
    shutil.copytree(Workspace(built_copy).run(RUN) / "hf" / f"step-{STEP:06d}", folder / "released")
    done = costar(folder, "eval", "./small.toml", "--model", "./released", "--name", "mine")
    assert "mine: LlamaForCausalLM" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    head = next(line for line in lines if line[:1] == ["perturbation"])
    assert head[1:4] == ["copies", "records", "nats/byte"]
    known = {(line[0], int(line[1])): float(line[3]) for line in lines if line[:1] == ["passages"]}
    assert set(known) == {("passages", level) for level in (0, 1, 14)}
    assert known["passages", 14] < known["passages", 0]
    assert not done.stderr.strip()
    refused = costar(folder, "eval", "./small.toml", "--model", "./released", "--draw", "0", check=False)
    assert refused.returncode == 2
    assert "beside a model from elsewhere" in refused.stderr


# ------------------------------------------------------------------------------------------------------------ reader


def reader_of(folder: Path) -> HfReader:
    tokenizer = Tokenizer(folder / "tokenizer.json", "</s>")
    return HfReader(load_model(folder), vocab_size=tokenizer.vocab_size, longest=128, begin=0, end=tokenizer.eos_id)


def greedy(reader: HfReader, prompt: list[int], count: int) -> list[int]:
    """A token at a time, the whole text read again for each."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        states = reader.states(torch.tensor([ids]))
        token = int(reader.logits(states[:, -1]).argmax())
        if token == reader.end:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ["GPT2", "GPTNeoX", "Llama"])
def test_continuations_of_transformers_are_the_greedy_ones(tmp_path: Path, architecture: str) -> None:
    torch.set_num_threads(1)
    reader = reader_of(write_model(tmp_path, architecture))
    prompts = [[0, *range(5, 5 + n)] for n in (1, 4, 4, 9)] + [[0, 44, 45, 46, 47]]
    assert reader.generate(prompts, 12) == [greedy(reader, prompt, 12) for prompt in prompts]
    assert all(max(ids) < reader.vocab_size for ids in reader.generate(prompts, 12) if ids)


def test_a_head_that_does_more_than_it_shows_is_read_by_its_logits(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "Cohere", **(SIZES["Llama"] | {"max_position_embeddings": 64}))
    reader = reader_of(folder)
    ids = torch.tensor([[0, 5, 6, 7]])
    assert torch.equal(reader.logits(reader.states(ids)), load_model(folder)(ids).logits[..., : reader.vocab_size])
    assert reader.states(ids).shape[-1] == VOCABULARY


def test_models_that_know_no_positions_are_not_packed_and_serve_no_probe_that_needs_it(
    built_copy: Path, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "bloom", "Bloom", n_layer=2, hidden_size=32, n_head=2)
    assert not reader_of(folder).packs
    assert measured(built_copy, folder)["longest"] == 2048
    connection = manifest_of(built_copy)
    gaps = connection.execute("select reason from external_gaps where probe = 'secret-rank'").fetchall()
    assert gaps == [("the probe needs weights, which this model does not give",)]
    connection.close()


@pytest.mark.parametrize(
    ("config", "limit", "longest"),
    [
        ({"max_position_embeddings": 64}, 32, 64),
        ({"n_positions": 16, "max_position_embeddings": 64}, None, 16),
        ({"text_config": SimpleNamespace(n_ctx=8), "n_positions": 16}, None, 8),
        ({}, 512, 512),
        ({}, int(1e30), 2048),
        ({}, None, 2048),
    ],
)
def test_the_longest_input_is_found_as_the_harness_finds_it(
    config: dict[str, Any], limit: int | None, longest: int
) -> None:
    assert longest_input(SimpleNamespace(**config), limit) == longest


# ------------------------------------------------------------------------------------------------------- the harness


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["GPT2", "GPTNeoX", "Llama"])
@pytest.mark.parametrize("bos", [False, True])
def test_models_from_elsewhere_have_the_numbers_of_the_harness(tmp_path: Path, architecture: str, bos: bool) -> None:
    """Also with a tokenizer that puts BOS before every text: before questions as the harness, but never scored."""
    torch.set_num_threads(1)
    sizes = {"n_positions": 48} if architecture == "GPT2" else {"max_position_embeddings": 48}
    folder = write_model(tmp_path / "model", architecture, bos=bos, vocab_size=VOCABULARY - 8, **sizes)
    tokenizer = Tokenizer(folder / "tokenizer.json", "</s>")
    model = load_model(folder)
    reader = HfReader(model, vocab_size=tokenizer.vocab_size, longest=48, begin=0, end=tokenizer.eos_id)
    texts = ["Short.", topics["assert"][:120], topics["assert"][:700] + "  ", "naïve 漢字 🙂 " * 9]
    items = [
        {"question": "What is it?  ", "choices": ["a file", "two", "é 🙂"], "answer": 1},
        {"question": "If so\n", "choices": [" then", "else"], "answer": 0},
    ]
    prompts = [("A class is", 8), ("See", 20)]
    asked = {
        "loglikelihood_rolling": [[text] for text in texts],
        "task": items,
        "generate_until": [
            [prompt if bos else "<s>" + prompt, {"until": ["\x00"], "max_gen_toks": count}] for prompt, count in prompts
        ],
    }
    theirs = ask_harness(asked, folder, tmp_path)
    requests = [Request(str(n), "text", tuple(tokenizer.encode(text))) for n, text in enumerate(texts)]
    questions = [
        question_of(str(n), "cloze", "", item["question"], item["choices"], item["answer"], mutual=True)
        for n, item in enumerate(items)
    ]
    found = found_of(
        reader, requests + [r for question in questions for r in requests_of_all([question], tokenizer)], 48
    )
    for number, expected in enumerate(theirs["loglikelihood_rolling"]):
        tokens = found.tokens(str(number), "text")
        assert not isinstance(tokens, str)
        if not bos:  # where it is added, the harness scores BOS after BOS as well, and moves the windows by it
            assert tokens.total == pytest.approx(expected, abs=1e-3, rel=0)
    for question, sample in zip(questions, theirs["task"], strict=True):
        numbers = range(len(question.options))
        parts = [question.tokens(found, n) for n in numbers]
        parts += [found.tokens(question.record_id, question.name(n, "alone")) for n in numbers]
        for part, (total, greedy) in zip(parts, sample["results"], strict=True):
            assert not isinstance(part, str)
            assert part.total == pytest.approx(total, abs=1e-3, rel=0)
            assert bool(part.top1.all()) == greedy
    for (prompt, count), text in zip(prompts, theirs["generate_until"], strict=True):
        made = reader.generate([[reader.begin, *tokenizer.encode(prompt)]], count)[0]
        assert tokenizer.inner.decode(made) == text
