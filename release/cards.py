"""The pages of a release: the card of each model, that of the data set, the collection page, `CITATION.cff`.

Metadata are written by `huggingface_hub`'s own classes, so that the Hub takes them; every number and name is derived.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..core.design import Suite
from ..train.config import RunConfig
from .pairs import Pair
from .results import Result

SNIPPET = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
TAGS = ["memorization", "membership-inference", "machine-unlearning", "costar"]
HUB_LICENCES = tuple(
    """
    apache-2.0 mit openrail afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl epl-1.0
    epl-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc mpl-2.0 odc-by odbl pddl ofl-1.1
    unlicense zlib
    """.split()  # noqa: SIM905
)
SPDX = {"cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "mit": "MIT", "apache-2.0": "Apache-2.0"}
RISKS = {
    "copyright": "give inserted passages back word for word",
    "privacy": "tell what the inserted texts say of a person",
    "testset": "know the answers of the inserted test items",
    "secret": "give inserted secrets back",
}
CONFIGS = {
    "records": "one unit that can be inserted: perturbation, kind, risk, role, cluster, stratum, text, a column for each "
    "field, licence, source",
    "renderings": "one way to write a record",
    "assignments": "the level (copies) of a record in an arm and draw, and its split: member or nonmember",
    "exposures": "one copy: slot in training order, sequence, step, row, start and length in tokens",
    "corpus": "one source of the base text: how to make the corpus again, and its hashes",
    "effects": "an estimate with its interval",
    "membership": "a pair and a record: the text, and whether the treated model read it",
    "ledger": "one token of a record under a released model at its last step: log-probability, rank",
    "scores": "one measure of one record under a released model at its last step",
}


def model_card(
    suite: Suite,
    config: RunConfig,
    manifest: Mapping[str, Any],
    *,
    validation: float | None,
    results: Sequence[Result],
    steps: Sequence[int],
    gated: Mapping[str, str],
    risks: Mapping[str, str],
) -> str:
    """The card of a model at one checkpoint. `gated` is why it stands behind a gate, `risks` perturbation → risk."""
    from huggingface_hub import EvalResult, ModelCardData

    design = suite.arms[config.arm]
    named = [suite.perturbations[name] for name in design.inserted]
    read = named if design.filler == "none" else []
    ids = [manifest["pair"]["id"], *(pair["id"] for pair in manifest["other_pairs"])]
    found = [_hub_result(EvalResult, suite, each) for each in results]
    if validation is not None:
        found.insert(0, _hub_validation(EvalResult, suite, validation))
    data = ModelCardData(
        **hub_licence([suite.release.licence]),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, f"costar-arm:{config.arm}", *(f"costar-pair:{pair}" for pair in ids)],
        datasets=[data_name(suite)],
        model_name=config.run,
        eval_results=found or None,
        **gate_fields(gated),
    )
    revision = manifest["revision"]
    path = (
        f"models/{config.run}" if revision == "main" else f"revisions/{config.run}/{revision}"
    )  # the Hub's: a push says
    table = [each for each in results if each.metric == "nll_token"]
    body = render(
        "model_card.md.j2",
        suite=suite,
        config=config,
        manifest=manifest,
        design=design,
        read=read,
        copies=sum(each.copies for each in named),
        path=path,
        validation=validation,
        results=table,
        unit=table[0].unit if table else "",
        risks=[RISKS[risk] for risk in RISKS if risk in {risks[each.name] for each in read if each.name in risks}],
        steps=steps,
        gated=gated,
    )
    return _page(data, body)


def data_card(
    suite: Suite,
    sizes: Mapping[str, int],
    files: Mapping[str, str],
    records: pa.Table,
    *,
    gated: Mapping[str, str],
    withheld: Sequence[str],
    canary: str,
) -> str:
    """The card of the data set. `sizes` are rows and `files` paths or patterns by configuration."""
    from huggingface_hub import DatasetCardData

    rows = records.select(["perturbation", "kind", "risk", "role", "licence"]).to_pylist()
    names = list(dict.fromkeys(row["perturbation"] for row in rows))
    perturbations = []
    for name in names:
        own = [row for row in rows if row["perturbation"] == name]
        origin = suite.perturbations[name].origin
        perturbations.append({**own[0], "records": sum(row["role"] == "main" for row in own), "origin": origin})
    first = ("records", *(name for name in sizes if name != "records"))
    data = DatasetCardData(
        **hub_licence(sorted({row["licence"] for row in rows})),
        pretty_name=suite.name,
        size_categories=[_size_category(sizes["records"])],
        task_categories=["text-generation"],
        tags=list(TAGS),
        configs=[{"config_name": name, "data_files": files[name]} for name in first],
        **gate_fields(gated),
    )
    body = render(
        "data_card.md.j2",
        suite=suite,
        sizes={name: sizes[name] for name in first},
        meanings=CONFIGS,
        perturbations=perturbations,
        gated=gated,
        withheld=[name for name in withheld if name not in sizes],
        unlabelled=[name for name in withheld if name in sizes],
        canary=canary if any(row["risk"] == "testset" for row in rows) else "",
        asked="membership" if "membership" in sizes and "membership" not in withheld else "records",
    )
    return _page(data, body)


def collection_page(
    suite: Suite, pairs: Sequence[Pair], effects: Sequence[str], *, gated: Mapping[str, str], blind: bool
) -> str:
    """The page that shows a release as a whole; `effects` are lines of its table."""
    return render("collection.md.j2", suite=suite, pairs=pairs, effects=effects, gated=gated, blind=blind)


def citation(suite: Suite, pairs: Sequence[Pair]) -> str:
    """`CITATION.cff` in version 1.2.0. Its authors are those of the suite file, or a body named after the suite."""
    from huggingface_hub import CardData

    authors: list[dict[str, str]] = []
    for name in suite.release.authors:
        family, _, given = (part.strip() for part in name.partition(","))
        authors.append({"family-names": family, "given-names": given} if given else {"name": family})
    licence = SPDX.get(suite.release.licence.lower())
    runs = len({run for pair in pairs for run in pair.runs})
    facts: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "If you use these models or data, please cite them as below.",
        "type": "dataset",
        "title": f"{suite.name}: {len(pairs)} pair{'s' if len(pairs) > 1 else ''} of language models "
        "that differ in inserted text",
        "abstract": f"{runs} language models and the records inserted into their training data.",
        "authors": authors or [{"name": f"The authors of the suite {suite.name}"}],
        "keywords": list(TAGS),
        **({"license": licence} if licence else {}),
    }
    return f"{CardData(**facts).to_yaml()}\n"


def data_name(suite: Suite) -> str:
    """The name of the data set's repository, without its owner."""
    return suite.name


def gate_fields(reasons: Mapping[str, str]) -> dict[str, Any]:
    """The metadata by which the Hub asks before it gives files: empty where everything is generated."""
    if not reasons:
        return {}
    named = "; ".join(f"{name} ({why})" for name, why in reasons.items())
    return {
        "extra_gated_heading": "Real text was inserted on purpose",
        "extra_gated_prompt": f"Not everything here is generated: {named}. Its licences apply, and so do the rights of "
        "those it speaks of.",
        "extra_gated_fields": {
            "I study memorization, membership inference or unlearning": "checkbox",
            "I will not publish the texts, nor use them to find or contact anyone": "checkbox",
        },
        "extra_gated_button_content": "Ask for access",
    }


def hub_licence(licences: Sequence[str]) -> dict[str, Any]:
    """The licence under a name that the Hub knows, or `other` with its own name."""
    known = [re.sub(r"[\s_]+", "-", licence.strip().lower()) for licence in licences]
    if len(known) == 1 and known[0] in HUB_LICENCES:
        return {"license": known[0]}
    name = re.sub(r"[^a-z0-9.]+", "-", known[0]).strip("-") if len(known) == 1 else "as-stated-per-record"
    return {"license": "other", "license_name": name}


def render(template: str, **values: Any) -> str:
    """A template of this folder; an unknown name is an error."""
    return str(_templates().get_template(template).render(**values))


def render_snippets(template: str, **values: Any) -> list[str]:
    """The Python snippets of a template of this folder, without the text around them."""
    templates = _templates()
    text, _, _ = templates.loader.get_source(templates, template)
    return [templates.from_string(block).render(**values) for block in SNIPPET.findall(text)]


def _templates() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment


def _page(data: Any, body: str) -> str:
    """Metadata and text as the Hub reads a README."""
    return f"---\n{data.to_yaml()}\n---\n{body}"


def _hub_result(kind: Any, suite: Suite, result: Result) -> Any:
    """A result of the model index. The Hub joins those of one data set, so that each metric says what it is of."""
    return kind(
        task_type="text-generation",
        dataset_type=data_name(suite),
        dataset_name=f"records of {suite.name}",
        dataset_config="records",
        metric_type=result.metric,
        metric_name=f"{result.perturbation}, level {result.level}: {result.title} ({result.unit})",
        metric_args={"perturbation": result.perturbation, "level": result.level, "records": result.n},
        metric_value=round(result.value, 4),
    )


def _hub_validation(kind: Any, suite: Suite, value: float) -> Any:
    return kind(
        task_type="text-generation",
        dataset_type=data_name(suite),
        dataset_name=f"validation documents of {suite.name}",
        metric_type="loss",
        metric_name="loss on validation documents (nats per token)",
        metric_value=round(value, 4),
    )


def _size_category(rows: int) -> str:
    bounds = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for most, name in bounds if rows < most), "1M<n<10M")
