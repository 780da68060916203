"""Runs lm-evaluation-harness, in its own environment: `python harness.py ASKED FOLDER ANSWERS`, all of it JSON.

ASKED has requests of each type and, under `task`, the items of a multiple-choice task; FOLDER is a model of transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(asked_path: Path, folder: str, answers_path: Path) -> None:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    asked = json.loads(asked_path.read_text(encoding="utf-8"))
    model = HFLM(pretrained=folder, dtype="float32", softmax_dtype="float32", batch_size=1, device="cpu")

    def requests(kind: str) -> list[Any]:
        return [
            Instance(request_type=kind, doc={}, arguments=tuple(arguments), idx=0) for arguments in asked.get(kind, [])
        ]

    answers: dict[str, Any] = {}
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        if asked.get(kind):
            answers[kind] = getattr(model, kind)(requests(kind))
    if asked.get("task"):
        answers["task"] = ask_task(model, asked["task"], asked_path.with_suffix(".items.jsonl"))
    answers_path.write_text(json.dumps(answers), encoding="utf-8")


def ask_task(model: Any, items: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The samples of a multiple-choice task over items of question, choices and answer, in their order."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    task = ConfigurableTask(
        config={
            "task": "costar_parity",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(path)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_mutual_info")],
        }
    )
    results = evaluate(lm=model, task_dict={"costar_parity": task}, log_samples=True, bootstrap_iters=0)
    samples = sorted(results["samples"]["costar_parity"], key=lambda sample: sample["doc_id"])
    names = ("acc", "acc_norm", "acc_mutual_info")
    return [{name: s[name] for name in names} | {"results": [r[0] for r in s["resps"]]} for s in samples]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
