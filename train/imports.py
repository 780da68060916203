"""Weights of a Llama model in the layout of Hugging Face: found, checked before any training, read in ranges of rows.

A folder has `config.json` and one or several safetensors files, several with `model.safetensors.index.json`. Nothing
here executes what a checkpoint holds: files that are pickle are refused. Only `StartWeights.rows` needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import CostarError, shorten
from ..core.models import ModelPreset, ModelShape, parameter_shapes

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
HUB = "hub:"
SIZES = {"F32": 4, "BF16": 2, "F16": 2}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
AT_ONCE = 1 << 24
SHOWN = 3
MEND = "give a checkpoint in the layout of Hugging Face: config.json and safetensors, whole"


@dataclass(frozen=True)
class Piece:
    """Where a tensor lies: bytes [begin, end) of a file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class StartWeights:
    """The tensors of a folder, by name. Opening it reads headers only and checks them against the sizes of the files."""

    def __init__(self, folder: Path):
        """
        Raises:
            CostarError: no safetensors, a missing or cut file, or a tensor of another type than float32, float16, bfloat16.
        """
        self.folder = folder
        self.pieces: Mapping[str, Piece] = _read_pieces(folder)

    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self.pieces)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.pieces[name].shape

    def rows(self, name: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of a tensor, of a vector its entries, in float32. Only these rows are read."""
        import torch
        from safetensors import safe_open

        with safe_open(self.pieces[name].path, framework="pt") as file:
            part: Tensor = file.get_slice(name)[first:last]
        return part.to(torch.float32)

    def sha256(self) -> str:
        """A hash of names, types, shapes and values: the same however they are divided among files."""
        total = hashlib.sha256()
        for name, piece in sorted(self.pieces.items()):
            total.update(f"{name} {piece.dtype} {piece.shape}\n".encode())
            with piece.path.open("rb") as file:
                file.seek(piece.begin)
                for at in range(piece.begin, piece.end, AT_ONCE):
                    total.update(file.read(min(AT_ONCE, piece.end - at)))
        return total.hexdigest()


def find_checkpoint(init: str, folders: Sequence[Path], place: str, *, fetch: bool) -> Path | None:
    """The folder that an arm's `init` means: a path below one of the folders, or `hub:owner/name`, `hub:owner/name@revision`.

    Of a name on the Hub a folder `owner/name` below one of the folders comes first, then the cache of huggingface_hub,
    then, with `fetch`, a download; without it, what is not here is None.

    Raises:
        CostarError: it names nothing, there is no such folder, or no way to the Hub; `place` is named.
    """
    on_hub = init.startswith(HUB)
    name, _, revision = init.removeprefix(HUB).partition("@") if on_hub else (init, "", "")
    if not all(name.partition("/")[::2] if on_hub else [name]):
        expected = "a folder, or hub:owner/name"
        raise CostarError(place, found=shorten(repr(init)), expected=expected, mend="name a checkpoint, or remove init")
    for folder in folders:
        if "\0" not in name and (folder / name).is_dir():
            return folder / name
    if on_hub:
        return _snapshot(name, revision or None, place, fetch=fetch)
    raise CostarError(
        place,
        found=f"{shorten(init)}: no such folder",
        expected=f"a folder below {', '.join(dict.fromkeys(map(str, folders)))}, or hub:owner/name",
        mend="correct the path, or set `data` in machine.toml",
    )


def _snapshot(name: str, revision: str | None, place: str, *, fetch: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["config.json", "tokenizer.json", "*.safetensors", INDEX]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=not fetch))
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError, OSError, ValueError) as error:
        if not fetch and isinstance(error, LocalEntryNotFoundError):
            return None
        raise CostarError(
            place,
            found=f"no such model, or no way to it ({shorten(error, 100)})",
            expected="a model on the Hub as hub:owner/name",
            mend="check the name and the network, or put a copy below `data` of machine.toml",
        ) from None


def check_checkpoint_folder(
    folder: Path, preset: ModelPreset, model: str, place: str
) -> tuple[ModelShape, StartWeights]:
    """The shape and the weights of a checkpoint that fits a model of the suite.

    Layers, widths and heads must be the preset's; rotary base, norm epsilon, tied head and vocabulary are the checkpoint's.

    Raises:
        CostarError: another architecture, another shape with every difference named, or tensors that are not the shape's.
    """
    shape = read_shape(folder)
    differing = [
        f"{key} {getattr(shape, key):,} against {getattr(preset, key):,}"
        for key in ("layers", "hidden", "heads", "kv_heads", "ffn")
        if getattr(shape, key) != getattr(preset, key)
    ]
    if differing:
        raise CostarError(
            place,
            found=f"{folder}: {', '.join(differing)}",
            expected=f"the shape of model {model!r}",
            mend="name another checkpoint or model, or add a table [model.x] with the checkpoint's shape",
        )
    weights = StartWeights(folder)
    _check_tensors(weights, shape)
    return shape, weights


def check_vocabulary(folder: Path, shape: ModelShape, tokenizer: Path, vocabulary: int, place: str) -> None:
    """A checkpoint has a row for each of the tokenizer's ids, and where it brings its own tokenizer, ids mean the same.

    Raises:
        CostarError: it does not.
    """
    mend = 'use the checkpoint\'s own: [corpus] tokenizer = { file = "tokenizer.json" }'
    if shape.vocab_size < vocabulary:
        found, expected = f"{folder}: a vocabulary of {shape.vocab_size:,}", f"at least the tokenizer's {vocabulary:,}"
        raise CostarError(place, found=found, expected=expected, mend=mend)
    if not (folder / "tokenizer.json").is_file():
        return
    ours, theirs = _token_ids(tokenizer), _token_ids(folder / "tokenizer.json")
    unused = theirs.get(_pad_token(folder))  # an export of costar's may pad with the id of a byte that no text has
    other = [token for token, number in ours.items() if theirs.get(token) != number and number != unused]
    if other:
        raise CostarError(
            place,
            found=f"{folder / 'tokenizer.json'}: {len(other):,} tokens have another id, such as {shorten(other[0], 30)!r}",
            expected="the tokenizer that the weights were trained with",
            mend=mend,
        )


def _pad_token(folder: Path) -> str:
    """The pad token that a checkpoint's tokenizer names."""
    try:
        raw = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = raw.get("pad_token") or ""
        return str(named.get("content") or "") if isinstance(named, dict) else str(named)
    except (OSError, ValueError, AttributeError):
        return ""


def _token_ids(path: Path) -> dict[str, int]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        added = {each["content"]: int(each["id"]) for each in raw.get("added_tokens") or []}
        return {str(token): int(number) for token, number in raw["model"]["vocab"].items()} | added
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CostarError(
            str(path),
            found=f"no vocabulary ({shorten(error, 60)})",
            expected="a tokenizer.json with a map of tokens to ids",
            mend="remove it from the checkpoint, or mend it",
        ) from None


def read_shape(folder: Path) -> ModelShape:
    """The shape that `config.json` of a Llama model states, with what it leaves out as transformers fills it in.

    Raises:
        CostarError: no such file, another architecture, or a variant that costar has not: biases, scaled rotary
            positions, another activation, head size or quantization.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else shorten(error, 80)
        raise CostarError(str(path), found=found, expected="a model's config.json", mend=MEND) from None
    kind = raw.get("model_type") if isinstance(raw, dict) else None
    if kind != "llama":
        found = f"model_type {shorten(json.dumps(kind), 40)}"
        raise CostarError(str(path), found=found, expected='"llama"', mend="name a Llama model")
    numbers = {
        key: _number(path, raw, key, int)
        for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    }
    heads, hidden = numbers["num_attention_heads"], numbers["hidden_size"]
    kv_heads = _number(path, raw, "num_key_value_heads", int, heads)
    rotary = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    theta = rotary if "rope_theta" in rotary else raw
    unlike = {
        "attention_bias": (raw.get("attention_bias", False), False),
        "mlp_bias": (raw.get("mlp_bias", False), False),
        "hidden_act": (raw.get("hidden_act", "silu"), "silu"),
        "rope_type": (rotary.get("rope_type", rotary.get("type", "default")), "default"),
        "partial_rotary_factor": (rotary.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1)), 1),
        "head_dim": (hidden / heads if raw.get("head_dim") is None else raw["head_dim"], hidden / heads),
        "num_attention_heads % num_key_value_heads": (heads % kv_heads, 0),
        "quantization_config": (raw.get("quantization_config"), None),
    }
    wrong = [f"{key} {shorten(value, 40)}" for key, (value, plain) in unlike.items() if value != plain]
    if wrong:
        raise CostarError(
            str(path),
            found=", ".join(wrong),
            expected="a Llama model without biases, with plain rotary positions and SwiGLU",
            mend="name another checkpoint",
        )
    return ModelShape(
        layers=numbers["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        ffn=numbers["intermediate_size"],
        vocab_size=numbers["vocab_size"],
        tied=bool(raw.get("tie_word_embeddings", False)),
        rope_theta=float(_number(path, theta, "rope_theta", float, 10_000.0)),
        norm_eps=float(_number(path, raw, "rms_norm_eps", float, 1e-6)),
    )


def _number(path: Path, raw: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = default if raw.get(key) is None else raw[key]
    kinds = (int,) if kind is int else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < math.inf:
        found = f"{key} = {shorten(json.dumps(value), 40)}"
        raise CostarError(str(path), found=found, expected="a number above 0", mend=MEND)
    return value


def _check_tensors(weights: StartWeights, shape: ModelShape) -> None:
    """The tensors are the parameters of the shape. Tables that older versions saved beside them are passed over."""
    expected = parameter_shapes(shape)
    known = {*expected, "lm_head.weight"}
    extra = [name for name in weights.names() if name not in known and not name.endswith("rotary_emb.inv_freq")]
    wrong = [f"no {name}" for name in expected if name not in weights.pieces]
    wrong += [f"{name}, which a Llama model lacks" for name in extra]
    wrong += [
        f"{name} of shape {list(weights.shape(name))} instead of {list(size)}"
        for name, size in expected.items()
        if name in weights.pieces and weights.shape(name) != size
    ]
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        found = ", ".join(wrong[:SHOWN]) + more
        raise CostarError(str(weights.folder), found=found, expected="the tensors that config.json states", mend=MEND)


def _read_pieces(folder: Path) -> dict[str, Piece]:
    """Every tensor of a folder, from the headers of its files."""
    listed = _read_index(folder / INDEX) if (folder / INDEX).is_file() else None
    files = sorted(set(listed.values())) if listed is not None else _single_file(folder)
    found: dict[str, Piece] = {}
    for file in files:
        path = folder / file
        if not path.is_file():
            raise CostarError(str(path), found="no such file", expected=f"a file that {INDEX} names", mend=MEND)
        for name, piece in _read_header(path).items():
            if name in found:
                raise CostarError(str(path), found=f"{name} again", expected="each tensor once", mend=MEND)
            found[name] = piece
    for name, file in (listed or {}).items():
        if name not in found or found[name].path.name != file:
            raise CostarError(str(folder / file), found=f"no {name}", expected=f"what {INDEX} names", mend=MEND)
    return found


def _single_file(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(files) == 1:
        return files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if files:
        found, expected = f"{len(files)} safetensors files without an index", INDEX
    elif pickles:
        found, expected = f"{pickles[0]}, which is pickle and could run anything", "safetensors"
    else:
        found, expected = "no weights", "model.safetensors"
    mend = "save the model as safetensors (save_pretrained of transformers does)" if pickles else MEND
    raise CostarError(str(folder), found=found, expected=expected, mend=mend)


def _read_index(path: Path) -> dict[str, str]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        listed = {str(name): str(file) for name, file in raw.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "a weight_map of tensors to files"
        raise CostarError(str(path), found=shorten(repr(error), 80), expected=expected, mend=MEND) from None
    outside = [file for file in listed.values() if Path(file).name != file or not file.endswith(".safetensors")]
    if outside or not listed:
        found = shorten(outside[0], 60) if outside else "no tensors"
        raise CostarError(str(path), found=found, expected="names of safetensors files in this folder", mend=MEND)
    return listed


def _read_header(path: Path) -> dict[str, Piece]:
    """The tensors of a safetensors file, whose places must fill it exactly."""

    def fail(found: str) -> CostarError:
        return CostarError(str(path), found=found, expected="a whole safetensors file", mend=MEND)

    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise fail(f"{size:,} bytes that begin with no header")
        text = file.read(length)
    try:
        raw = json.loads(text)
        raw.pop("__metadata__", None)
        pieces = {
            str(name): Piece(
                path,
                str(each["dtype"]),
                tuple(int(n) for n in each["shape"]),
                8 + length + int(each["data_offsets"][0]),
                8 + length + int(each["data_offsets"][1]),
            )
            for name, each in raw.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise fail(f"a damaged header ({shorten(repr(error), 60)})") from None
    end = 8 + length
    for name, piece in sorted(pieces.items(), key=lambda item: item[1].begin):
        if piece.dtype not in SIZES:
            raise fail(f"{name} of type {shorten(piece.dtype, 20)}; {', '.join(SIZES)} can be read")
        if piece.begin != end or piece.end - piece.begin != math.prod(piece.shape) * SIZES[piece.dtype]:
            raise fail(f"{name}: places that do not follow each other")
        end = piece.end
    if end != size:
        raise fail(f"{size:,} bytes instead of {end:,}")
    return pieces
