"""Model shapes and presets, free of torch so that planning can count parameters and FLOP."""

from __future__ import annotations

from dataclasses import dataclass

MULTIPLE = 128  # vocabularies are padded to a multiple of it, so that the head's products have whole tiles


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The numbers that define a Llama model. `hidden` is divisible by `heads`, `heads` by `kv_heads`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab_size: int
    tied: bool
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def block_parameters(self) -> int:
        """Parameters of one block: attention, feed-forward and its two norms."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.kv_heads * self.head_size
        return attention + 3 * self.hidden * self.ffn + 2 * self.hidden

    @property
    def parameters(self) -> int:
        embeddings = self.vocab_size * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.block_parameters + self.hidden

    def flops_per_token(self, sequence_length: int) -> int:
        """Training FLOP per token: 6 per parameter that multiplies, plus attention, not halved for causality.

        The embedding table is a look-up and does not multiply; the output head does, tied or not
        (PaLM, appendix B; arXiv 2204.02311).
        """
        multiplying = self.layers * self.block_parameters + self.vocab_size * self.hidden
        return 6 * multiplying + 12 * self.layers * self.hidden * sequence_length


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    """A shape that still waits for the vocabulary of its corpus; its width divides by its heads."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    tied: bool = True

    def shape(self, vocabulary: int) -> ModelShape:
        """The shape for a tokenizer of so many ids. No text has the ids that padding adds."""
        return ModelShape(
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            ffn=self.ffn,
            tied=self.tied,
            vocab_size=padded(vocabulary),
        )


def padded(vocabulary: int) -> int:
    """The size of a model's tables for a tokenizer of so many ids: 50,304 for 50,280."""
    return -(-vocabulary // MULTIPLE) * MULTIPLE


def parameter_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Every parameter by its Hugging Face name, sorted by name; a tied head is the embedding table and has no name."""
    hidden, kv_size = shape.hidden, shape.kv_heads * shape.head_size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, hidden)}
    for number in range(shape.layers):
        block = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv_size, hidden),
            "self_attn.v_proj": (kv_size, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (shape.ffn, hidden),
            "mlp.up_proj": (shape.ffn, hidden),
            "mlp.down_proj": (hidden, shape.ffn),
        }
        found |= {f"model.layers.{number}.{name}.weight": size for name, size in block.items()}
    found["model.norm.weight"] = (hidden,)
    if not shape.tied:
        found["lm_head.weight"] = (shape.vocab_size, hidden)
    return dict(sorted(found.items()))


def presets() -> dict[str, ModelPreset]:
    """The named models. The three of 1 B and the one of 8 B have the shapes of Hubble's published configurations."""
    return {
        "tiny": ModelPreset(layers=4, hidden=160, heads=5, kv_heads=5, ffn=448),
        "15m": ModelPreset(layers=6, hidden=384, heads=6, kv_heads=6, ffn=1024),
        "60m": ModelPreset(layers=10, hidden=640, heads=10, kv_heads=10, ffn=1728),
        "160m": ModelPreset(layers=12, hidden=1024, heads=16, kv_heads=16, ffn=2560),
        "1b": ModelPreset(layers=16, hidden=2048, heads=32, kv_heads=8, ffn=8192, tied=False),
        "8b": ModelPreset(layers=36, hidden=4096, heads=32, kv_heads=8, ffn=14336, tied=False),
        "1b-shallow": ModelPreset(layers=8, hidden=2880, heads=32, kv_heads=8, ffn=11520, tied=False),
        "1b-deep": ModelPreset(layers=32, hidden=1536, heads=32, kv_heads=8, ffn=6144, tied=False),
    }
