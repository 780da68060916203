"""A minimal tree of Hydra files under open-unlearning's names: only the groups and keys that its entries compose from."""

from __future__ import annotations

from pathlib import Path

FILES = {
    "unlearn": """
defaults:
  - model: other
  - trainer: GradAscent
  - data: unlearn
  - collator: DataCollatorForSupervisedDataset
  - eval: other
  - hydra: default
  - paths: default
  - experiment: null
  - _self_
trainer: {args: {remove_unused_columns: false}}
mode: unlearn
task_name: ???
""",
    "eval": """
# @package _global_
defaults:
  - _self_
  - model: other
  - eval: other
  - paths: default
  - hydra: eval
  - experiment: null
model: {model_args: {device_map: cuda}}
mode: eval
task_name: ???
seed: 0
""",
    "model/other": "model_args: {pretrained_model_name_or_path: some/model, attn_implementation: flash_attention_2}",
    "trainer/finetune": "{handler: FinetuneTrainer, args: {optim: paged_adamw_32bit, report_to: wandb, learning_rate: 1e-5}}",
    "trainer/GradAscent": "{defaults: [finetune], handler: GradAscent}",
    "trainer/NPO": "{defaults: [finetune], handler: NPO, method_args: {beta: 0.1, alpha: 1.0, gamma: 1.0}}",
    "trainer/SimNPO": "{defaults: [finetune], handler: SimNPO, method_args: {delta: 0.0, beta: 4.5}}",
    "data/unlearn": """
defaults:
  - datasets@forget: OTHER
  - datasets@retain: OTHER
anchor: forget
""",
    "data/datasets/OTHER": "OTHER: {handler: QADataset, args: {max_length: 512}}",
    "collator/DataCollatorForSupervisedDataset": """
DataCollatorForSupervisedDataset: {handler: DataCollatorForSupervisedDataset, args: {padding_side: right}}
""",
    "collator/DataCollatorForSupervisedDatasetwithIndex": """
DataCollatorForSupervisedDataset: {handler: DataCollatorForSupervisedDataset, args: {padding_side: right, index: index}}
""",
    "generation/default": "{do_sample: false, max_new_tokens: 200, use_cache: true}",
    "eval/other": """
# @package eval.other
handler: OtherEvaluator
""",
    "paths/default": "{root_dir: ., output_dir: 'saves/${mode}/${task_name}'}",
    "hydra/default": "{run: {dir: '${paths.output_dir}'}, output_subdir: null}",
    "hydra/eval": "{run: {dir: '${paths.output_dir}'}, output_subdir: null}",
}

ENTRY = """
import json
import sys
from pathlib import Path

import hydra
from omegaconf import OmegaConf

CONFIGS, OUT = sys.argv.pop(1), Path(sys.argv.pop(1))


@hydra.main(version_base=None, config_path=CONFIGS, config_name="unlearn.yaml")
def main(cfg):
    OUT.write_text(json.dumps(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)))


main()
"""


def write_tree(folder: Path) -> Path:
    """Write the tree; its `configs`."""
    for name, text in FILES.items():
        path = folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"))
    return folder / "configs"
