"""Digests of what `transformers.Trainer` feeds its model, and a collator for rows of L + 1 ids.

transformers is imported when a callback is made: nothing else of training needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import CostarError
from .digest import DigestRecorder


def collate_ids(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch of rows [L + 1] for a causal model of transformers, which moves labels on by one itself: L targets a row."""
    ids = torch.stack(list(rows))
    return {"input_ids": ids, "labels": ids}


def trainer_callback(path: str | Path, *, arm: str, draw: int = 0) -> Any:
    """A `transformers.TrainerCallback` that writes the digests of the rows its model is really fed.

    It looks at the model's inputs, not at the data set: what a loader shuffles, drops, pads or repeats shows. The batch is
    that of the Trainer: per device × accumulation × processes. A resumed training continues the file.
    """
    from transformers import TrainerCallback

    class DigestCallback(TrainerCallback):
        """The recorder lives from the beginning of a training to its end."""

        def __init__(self) -> None:
            self.recorder: DigestRecorder | None = None
            self.hook: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
            if args.n_gpu > 1:
                raise CostarError(
                    "Trainer",
                    found=f"one process over {args.n_gpu} devices",
                    expected="one process a device",
                    mend="start it with torchrun or accelerate launch, or show it one device",
                )
            if self.hook is not None:  # a training before this one ended in an error
                self.hook.remove()
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            self.recorder = DigestRecorder(path, arm=arm, draw=draw, batch=batch, start=state.global_step)
            disable: Any = torch.compiler.disable  # a compiled model calls the hook, and does not compile it
            self.hook = model.register_forward_pre_hook(disable(self._fed), with_kwargs=True)

        def _fed(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module.training and self.recorder is not None:
                self.recorder.add(*fed_rows(args, kwargs))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert self.recorder is not None
            self.recorder.end_step()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.hook.remove()
            self.hook = self.recorder = None

    return DigestCallback()


def fed_rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """What a causal model of transformers was called with: rows of ids, and labels where they are moved on already.

    Raises:
        CostarError: no ids, or labels that make the model learn something else than its inputs.
    """
    ids = kwargs.get("input_ids", args[0] if args else None)
    if not isinstance(ids, Tensor):
        raise CostarError("model", found="a call without input_ids", expected="input_ids", mend="feed the ids")
    if kwargs.get("shift_labels") is not None:
        return ids, kwargs["shift_labels"]
    labels = kwargs.get("labels")
    if labels is not None and not torch.equal(labels, ids):
        raise CostarError(
            "model",
            found="labels that differ from input_ids: masked, padded or moved on",
            expected="the same ids: a causal model of transformers moves them on by one itself",
            mend="use costar.collate_ids as data_collator",
        )
    return ids, None
