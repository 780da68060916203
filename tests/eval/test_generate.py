from __future__ import annotations

import numpy as np
import pytest
import torch
from costar.core.models import ModelShape
from costar.eval.generate import generate
from costar.eval.reader import OwnReader
from costar.train.export import hf_config
from costar.train.init import init_weights
from costar.train.model import Llama

SHAPE = ModelShape(layers=2, hidden=64, heads=4, kv_heads=2, ffn=96, vocab_size=128, tied=False)
VOCABULARY = 90  # the other outputs are padding


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.set_num_threads(1)
    model = Llama(SHAPE)
    init_weights(model, 3, 0)
    for parameter in model.parameters():
        parameter.data *= 4  # logits far from uniform
    model.lm_head.weight.data[VOCABULARY:] *= 50  # padding that would win if it were looked at
    return model.eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = np.random.default_rng(0)
    lengths = [1, 17, 5, 5, 30, 2, 11, 17, 1, 24]
    return [generator.integers(1, VOCABULARY, length).tolist() for length in lengths]


def made_by_transformers(model: Llama, prompt: list[int], new_tokens: int, end: int) -> list[int]:
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**hf_config(SHAPE, 64, 0))).eval()
    theirs.load_state_dict(model.state_dict())
    ids = torch.tensor([prompt])
    made = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
        suppress_tokens=list(range(VOCABULARY, SHAPE.vocab_size)),
    )
    ids_made = made[0, len(prompt) :].tolist()
    return ids_made[: ids_made.index(end)] if end in ids_made else ids_made


@pytest.mark.parametrize("new_tokens", [1, 20])
def test_greedy_continuations_are_those_of_transformers(
    model: Llama, prompts: list[list[int]], new_tokens: int
) -> None:
    """Prompts of mixed lengths side by side, one of them ending early, against one at a time."""
    free = generate(model, VOCABULARY, prompts, new_tokens, -1)
    assert {len(ids or ()) for ids in free} == {new_tokens}
    end = (free[4] or [])[new_tokens // 2]
    made = generate(model, VOCABULARY, prompts, new_tokens, end)
    assert made == [made_by_transformers(model, prompt, new_tokens, end) for prompt in prompts]
    assert min(len(ids or ()) for ids in made) < new_tokens


def test_where_logits_are_no_numbers_there_is_no_continuation() -> None:
    """The embedding of one id is no number, of an id that no output is made of: the prompt without it goes on."""
    model = Llama(SHAPE)
    init_weights(model, 3, 0)
    with torch.no_grad():
        model.model.embed_tokens.weight[VOCABULARY] = torch.nan
    broken, sound = generate(model.eval(), VOCABULARY, [[5, VOCABULARY], [5, 6]], 3, -1)
    assert broken is None
    assert sound is not None


def test_a_continuation_depends_on_its_prompt_only(
    model: Llama, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = generate(model, VOCABULARY, prompts, 12, 0)
    assert generate(model, VOCABULARY, prompts[::-1], 12, 0) == together[::-1]
    monkeypatch.setattr("costar.eval.generate.BATCH", 1)
    assert generate(model, VOCABULARY, prompts, 12, 0) == together


def test_nothing_is_made_of_no_prompts_or_no_tokens(model: Llama, prompts: list[list[int]]) -> None:
    reader = OwnReader(model, vocab_size=VOCABULARY, longest=64, eos=0)
    assert reader.generate([], 5) == []
    assert reader.generate(prompts, 0) == [[] for _ in prompts]
