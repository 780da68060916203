"""Causal language models of transformers as readers, in float32: what they can do is tried when they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CostarError, shorten
from ..train.identity import pick_device

AT_ONCE = 32  # prompts of one length that are continued together
CLOSE = 1e-4  # how far logits of two computations may lie apart, in parts of the largest of them
DEFAULT_LONGEST = 2048  # where neither model nor tokenizer says, as in lm-evaluation-harness
UNLIMITED = 10**12  # what transformers writes where a tokenizer has no limit is larger
WEIGHTS = "*.safetensors"


class HfReader:
    """`vocab_size` cuts off outputs that have no token. `packs` says that masks and positions are obeyed, so that several
    texts can share a sequence."""

    def __init__(self, model: Any, *, vocab_size: int, longest: int, begin: int, end: int):
        self.module: nn.Module = model.eval()
        self.longest, self.begin, self.end = longest, begin, end
        self._model, self._head = model, model.get_output_embeddings()
        self._outputs = self.vocab_size = int(self._run(torch.tensor([[begin]])).shape[-1])
        self.vocab_size = min(vocab_size, self._outputs)
        self._has_states = self._gives_states()
        if not self._is_causal():
            raise CostarError(
                type(model).__name__,
                found="a model whose predictions change with the tokens that follow",
                expected="a causal language model: it predicts each token from those before it",
                mend="name another model",
            )
        self.packs = self._obeys_masks()

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @torch.no_grad()
    def states(self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The last hidden states, or, where the head does more than it shows, the logits themselves."""
        given: dict[str, Any] = {}
        if positions is not None:
            given["position_ids"] = positions.expand(ids.shape)
        if mask is not None:
            given["attention_mask"] = (mask if mask.dim() == 4 else mask[None, None]).expand(ids.shape[0], 1, -1, -1)
        if not self._has_states:
            return self._run(ids, **given)
        states = self._model.base_model(input_ids=ids, use_cache=False, **given)[0]
        assert isinstance(states, Tensor)
        return states

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        logits = self._head(states) if self._has_states else states
        assert isinstance(logits, Tensor)
        return logits[..., : self.vocab_size].float()

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int] | None]:
        """Prompts of one length are continued together, so that nothing is padded."""
        from transformers import GenerationConfig

        end = self.end
        cut = list(range(self.vocab_size, self._outputs))
        config = GenerationConfig(
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=end, pad_token_id=end, suppress_tokens=cut or None
        )
        self._model.generation_config = config  # the model's own would fill in what is not said here
        by_length: dict[int, list[int]] = {}
        for number, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(number)
        found: list[list[int] | None] = [[] for _ in prompts]
        for length, numbers in by_length.items():
            for first in range(0, len(numbers), AT_ONCE):
                part = numbers[first : first + AT_ONCE]
                ids = torch.tensor([list(prompts[number]) for number in part], device=self.device)
                made = self._model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
                )
                real = self.logits(self.states(ids)[:, -1]).isfinite().all(1).tolist()
                for number, row, is_real in zip(part, made[:, length:].tolist(), real, strict=True):
                    found[number] = (row[: row.index(end)] if end in row else row) if is_real else None
        return found

    @torch.no_grad()
    def _run(self, ids: Tensor, **given: Any) -> Tensor:
        logits = self._model(input_ids=ids.to(self.device), use_cache=False, **given).logits
        assert isinstance(logits, Tensor)
        return logits

    def _sample(self, count: int, stride: int) -> list[int]:
        return [(self.begin + stride * i) % self.vocab_size for i in range(count)]

    def _gives_states(self) -> bool:
        """Whether the head, on the last hidden states, gives the model's own logits."""
        self._has_states = True
        ids = torch.tensor([self._sample(min(8, self.longest), 7)], device=self.device)
        try:
            own = self.logits(self.states(ids))
        except Exception:  # whatever a model raises that has no such head
            return False
        return _agree(own, self._run(ids)[..., : self.vocab_size].float())

    def _is_causal(self) -> bool:
        """Whether what it predicts does not depend on what comes after."""
        ids = self._sample(min(6, self.longest), 5)
        other = [*ids[:-1], (ids[-1] + 1) % self.vocab_size]
        one, two = (self.logits(self.states(torch.tensor([each], device=self.device)))[0, :-1] for each in (ids, other))
        return len(ids) < 2 or _agree(one, two)

    def _obeys_masks(self) -> bool:
        """Whether two texts in one sequence, kept apart by mask and positions, get the logits they get alone."""
        count = min(6, self.longest // 2)
        first, second = self._sample(count, 3), self._sample(count, 11)
        if count < 2:
            return False
        text = torch.arange(2 * count, device=self.device) // count
        apart = (text[:, None] == text).tril()
        positions = torch.arange(count, device=self.device).repeat(2)
        try:
            both = self.logits(self.states(torch.tensor([first + second], device=self.device), positions, apart))[0]
        except Exception:  # whatever a model raises that knows no such arguments
            return False
        alone = [self.logits(self.states(torch.tensor([ids], device=self.device)))[0] for ids in (first, second)]
        return _agree(both, torch.cat(alone))


def _agree(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= CLOSE * other.abs().max())


def longest_input(config: Any, tokenizer_limit: int | None) -> int:
    """How many ids a model reads at once, found as lm-evaluation-harness finds it."""
    for part in (getattr(config, "text_config", None), config):
        for name in ("n_positions", "max_position_embeddings", "n_ctx"):
            value = getattr(part, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return tokenizer_limit if tokenizer_limit and tokenizer_limit < UNLIMITED else DEFAULT_LONGEST


def check_folder(folder: Path) -> None:
    """What can be seen of a model's folder without loading anything.

    Raises:
        CostarError: no configuration, or no weights that are safe to read.
    """
    if not (folder / "config.json").is_file():
        raise CostarError(
            str(folder),
            found="no config.json",
            expected="a folder of a causal language model as transformers saves it",
            mend="name the folder that holds config.json, model.safetensors and tokenizer.json",
        )
    if not list(folder.glob(WEIGHTS)):
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        raise CostarError(
            str(folder),
            found=f"weights as pickle only: {', '.join(others[:3])}" if others else "no weights",
            expected="*.safetensors: pickle can run code and is never read",
            mend="save the model again with save_pretrained of transformers",
        )


def load_model(folder: Path) -> Any:
    """The model of a folder in float32: from safetensors only, without code from the folder.

    Raises:
        CostarError: it is no causal language model of transformers, or weights are missing or no numbers.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    check_folder(folder)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds for folders that it cannot load
        raise CostarError(
            str(folder),
            found=f"{type(error).__name__}: {shorten(error, 200)}",
            expected="a causal language model that transformers loads without code from the folder",
            mend="check that config.json and the weights belong together and that transformers knows the architecture",
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(info["missing_keys"])
    if missing:
        raise CostarError(
            str(folder),
            found=f"no weights for {', '.join(missing[:3])}" + (f" and {len(missing) - 3} more" if missing[3:] else ""),
            expected="every weight of the model: others would be random",
            mend="save the model again, whole",
        )
    unreal = [name for name, each in model.named_parameters() if not bool(torch.isfinite(each).all())]
    if unreal:
        raise CostarError(
            str(folder),
            found=f"values that are not numbers (NaN or infinite) in {', '.join(unreal[:3])}",
            expected="finite weights",
            mend="check how the model was trained and saved",
        )
    return model.to(pick_device())
