"""The Hydra files of an overlay for open-unlearning: path → (package, value), written below `configs/`.

Names of groups and handlers are theirs (locuslab/open-unlearning at d3d7cf9). Paths follow the environment: COSTAR_RELEASE
is the release folder; COSTAR_MODELS, where given, is what stands before the name of a run: `OWNER/<suite>-` on the Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = dict[str, Any]
Configs = dict[str, tuple[str, Config]]
MODELS = "${oc.env:COSTAR_MODELS,${oc.env:COSTAR_RELEASE}/models/}"
COLLATOR = {"../../collator@collators": "DataCollatorForSupervisedDatasetwithIndex"}
RETAIN_LOGS = "${eval.costar.retain_logs_path}"
FORGET, KEEP, HOLDOUT, RETAIN, WRITTEN = (
    f"COSTAR_{name}" for name in ("forget", "keep", "holdout", "retain", "forget_continued")
)
SCOPES = ("all", "half")


def overlay_configs(folder: str, treated: str, control: str, length: int, new_tokens: int) -> Configs:
    """Every file of the overlay of a pair whose data lie in `release/<folder>/data`."""
    data = f"${{oc.env:COSTAR_RELEASE}}/{folder}/data"
    gold = f"${{oc.env:COSTAR_RELEASE}}/{folder}/gold/${{costar_scope}}/MUSE_EVAL.json"
    return (
        _models({"treated": treated, "control": control})
        | _datasets(data, length)
        | _metrics(new_tokens)
        | _evaluations()
        | _experiments(gold)
    )


def _models(runs: Mapping[str, str]) -> Configs:
    tags = {"user_start_tag": "Question: ", "user_end_tag": "\n", "asst_start_tag": "Answer: ", "asst_end_tag": "\n\n"}
    found: Configs = {}
    for role, run in runs.items():
        path = f"{MODELS}{run}"
        found[f"model/costar_{role}"] = (
            "",
            {
                "model_args": {
                    "pretrained_model_name_or_path": path,
                    "attn_implementation": "sdpa",
                    "torch_dtype": "float32",
                },
                "tokenizer_args": {"pretrained_model_name_or_path": path},
                "template_args": {"apply_chat_template": False, **tags},
            },
        )
    return found


def _datasets(data: str, length: int) -> Configs:
    files = {
        FORGET: "forget_${costar_scope}",
        KEEP: "keep_half",
        HOLDOUT: "holdout",
        RETAIN: "retain",
        WRITTEN: "forget_${costar_scope}_continued",
    }
    entries = {name: _dataset(f"{data}/{file}.jsonl", length) for name, file in files.items()}
    found: Configs = {f"data/datasets/{name}": ("", {name: entry}) for name, entry in entries.items()}
    attacked = {
        f"COSTAR_MIA_{key}": {"access_key": key} | entries[name]
        for key, name in (("forget", FORGET), ("holdout", HOLDOUT))
    }
    return found | {"data/datasets/COSTAR_MIA": ("", attacked)}


def _dataset(path: str, length: int) -> Config:
    return {
        "handler": "CompletionDataset",
        "args": {
            "hf_args": {"path": "json", "data_files": path, "split": "train"},
            "prefix_key": "prefix",
            "text_key": "text",
            "max_length": length,
        },
    }


def _metrics(new_tokens: int) -> Configs:
    def scored(handler: str, dataset: str, **more: Any) -> Config:
        return {
            "defaults": [{"../../data/datasets@datasets": dataset}, COLLATOR],
            "handler": handler,
            "batch_size": 8,
            **more,
        }

    def compared(handler: str, metric: str, **more: Any) -> Config:
        return {
            "defaults": [{f".@pre_compute.{metric}": metric}],
            "pre_compute": {metric: {"access_key": "forget"}},
            "reference_logs": {
                "retain_model_logs": {"path": RETAIN_LOGS, "include": {metric: {"access_key": "retain"}}}
            },
            "handler": handler,
            **more,
        }

    written = scored("rouge", WRITTEN, rouge_type="rougeL_f1")
    written["defaults"].append({"../../generation@generation_args": "default"})
    written |= {
        "datasets": {WRITTEN: {"args": {"predict_with_generate": True}}},
        "collators": {"DataCollatorForSupervisedDataset": {"args": {"padding_side": "left"}}},
        "generation_args": {"max_new_tokens": new_tokens},
    }
    metrics = {
        "extraction_strength": scored("extraction_strength", FORGET),
        "exact_memorization": scored("exact_memorization", FORGET),
        "forget_verbmem_ROUGE": written,
        "mia_min_k": scored("mia_min_k", "COSTAR_MIA", k=0.4),
        "privleak": compared("privleak", "mia_min_k", ref_value=0.5),
        "forget_quality_es": compared("ks_test", "extraction_strength"),
        "keep_extraction_strength": scored("extraction_strength", KEEP),
        "keep_exact_memorization": scored("exact_memorization", KEEP),
        "retain_exact_memorization": scored("exact_memorization", RETAIN),
    }
    return {f"eval/costar_metrics/{name}": (f"eval.costar.metrics.{name}", value) for name, value in metrics.items()}


def _evaluations() -> Configs:
    names = [path.rpartition("/")[2] for path in _metrics(1)]
    found: Configs = {}
    for scope in SCOPES:
        own = [name for name in names if scope == "half" or not name.startswith("keep_")]
        found[f"eval/costar_{scope}"] = (
            "eval.costar",
            {
                "defaults": [{"costar_metrics": own}],
                "handler": "MUSEEvaluator",
                "output_dir": "${paths.output_dir}",
                "metrics": {},
                "overwrite": True,
                "retain_logs_path": "${retain_logs_path}",
            },
        )
    return found


def _experiments(gold: str) -> Configs:
    found: Configs = {}
    for scope in SCOPES:
        shared = {"costar_scope": scope, "retain_logs_path": gold, "task_name": "???"}
        found[f"experiment/unlearn/costar/{scope}"] = (
            "_global_",
            {
                "defaults": [
                    {"override /model": "costar_treated"},
                    {"override /trainer": "NPO"},
                    {"override /data": "unlearn"},
                    {"override /data/datasets@data.forget": FORGET},
                    {"override /data/datasets@data.retain": RETAIN},
                    {"override /eval": f"costar_{scope}"},
                ],
                **shared,
                "data": {"anchor": "forget"},
                "trainer": {
                    "args": {
                        "optim": "adamw_torch",
                        "report_to": "none",
                        "learning_rate": 1e-5,
                        "lr_scheduler_type": "constant",
                        "num_train_epochs": 10,
                        "per_device_train_batch_size": 4,
                        "gradient_accumulation_steps": 8,
                    }
                },
            },
        )
        found[f"experiment/eval/costar/{scope}"] = (
            "_global_",
            {"defaults": [{"override /model": "costar_treated"}, {"override /eval": f"costar_{scope}"}], **shared},
        )
    return found
