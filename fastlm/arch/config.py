"""Reading a config.json: typed, bounded, and complete (a key that nobody read is an error)."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import TypeVar

from fastlm.arch.spec import Activation
from fastlm.errors import ModelFormatError, UnsupportedError

# Bounds of csrc/model/spec_read.h.
MAX_WIDTH = 1 << 22
MAX_VOCAB = 1 << 24
MAX_CONTEXT = 1 << 27
MAX_HEADS = 1 << 14
MAX_HEAD_DIM = 1 << 12
MAX_LAYERS = 1 << 14
MAX_EXPERTS = 1 << 12
MAX_BUCKETS = 1 << 16
MIN_NUMBER = 1e-30  # and 1e30 at most: float32 holds it and its square root

ACTIVATIONS = {
    "relu": Activation.RELU,
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_accurate": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_python_tanh": Activation.GELU_TANH,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}

# Keys that do not change what the model computes: bookkeeping, training, labels, token ids and generation defaults
# (both read elsewhere), and how transformers is to run it.
_IGNORED = re.compile(
    r"""architectures|model_type|transformers_version|(torch_)?dtype|_?name_or_path|_commit_hash|auto_map|tokenizer_class
    |.*dropout(_prob|_rate)?|.*_pdrop|layerdrop|initializer_(range|factor)|init_std|gradient_checkpointing
    |.*_token_id|unk_token|prefix|task_specific_params|sentence_transformers|finetuning_task|problem_type
    |id2label|label2id|_?num_labels|output_(past|attentions|hidden_states|scores|logits|router_logits)|sbert_ce_default_activation_function
    |return_dict|return_dict_in_generate|use_return_dict|torchscript|use_bfloat16
    |use_cache|_?attn_implementation(_autoset|_internal)?|_flash_attn_2_enabled|use_flash_attn|use_flash_attention
    |_?experts_implementation|chunk_size_feed_forward|pretraining_tp|is_decoder|is_llama_config|tf_legacy_loss
    |router_aux_loss_coef|router_jitter_noise|unsloth_\w+|model_max_length|max_sequence_length|transformers\.js_config
    |max_length|max_new_tokens|min_length|min_new_tokens|early_stopping|do_sample|num_beams|num_beam_groups|temperature
    |top_[kp]|min_p|typical_p|repetition_penalty|diversity_penalty|length_penalty|(encoder_)?no_repeat_ngram_size
    |bad_words_ids|num_return_sequences|remove_invalid_values|exponential_decay_length_penalty|(begin_)?suppress_tokens
    |cache_implementation|epsilon_cutoff|eta_cutoff|renormalize_logits""",
    re.VERBOSE,
)

# Keys that no family here reads, with the value that leaves the computation as it is.
_NEUTRAL: dict[str, object] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "is_encoder_decoder": False,
    "mlp_bias": False,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_bidirectional_attention": False,
    "use_mrope": False,
}

T = TypeVar("T")


def show(value: object) -> str:
    """A short text for anything that JSON can hold."""
    try:
        return "null" if value is None else reprlib.repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return "a number too long to print"


class Config:
    """One JSON object. Every getter names file and key in its errors; `finish` refuses keys that were not read.

    JSON null counts as absent only for the `_or_none` getters, `section` and `only`.
    """

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self.where = where
        self._values = values
        self._used: set[str] = set()
        self._sections: dict[str, Config] = {}
        self._aliases: dict[str, str] = {}

    def alias(self, **names: str) -> None:
        """`alias(n_embd="hidden_size")`: in this file hidden_size may be written n_embd."""
        for theirs, ours in names.items():
            if theirs in self._values and ours in self._values and self._values[theirs] != self._values[ours]:
                raise self.bad(theirs, f"contradicts {ours}: {show(self._values[theirs])}, {show(self._values[ours])}")
            if theirs in self._values:
                self._aliases[ours] = theirs
                self._used.add(ours)

    @property
    def architecture(self) -> str:
        """The class that wrote the checkpoint, such as BertForMaskedLM; "" where the file does not say."""
        names = self.items("architectures", str)
        return names[0] if names else ""

    def n_labels(self, default: int = 2) -> int:
        """How many labels the classes of the file's model have; most of transformers' have two unless told."""
        named = self._take("id2label", None)
        if isinstance(named, Mapping) and named:
            return len(named)
        return self.count_or_none("num_labels", default, MAX_VOCAB) or default

    def name(self, key: str) -> str:
        """How the file writes `key`."""
        return self._aliases.get(key, key)

    def bad(self, key: str, why: str) -> ModelFormatError:
        return ModelFormatError(f"{self.where}: {self.name(key)}: {why}")

    def unsupported(self, key: str, value: object, hint: str = "") -> UnsupportedError:
        hint = hint and f" ({hint})"
        return UnsupportedError(f"{self.where}: {self.name(key)} = {show(value)} is not supported{hint}")

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(self.name(key)) is not None

    def states(self, key: str) -> bool:
        """Whether the key is there, and be it null."""
        return self.name(key) in self._values

    def keys(self) -> tuple[str, ...]:
        return tuple(self._values)

    def value(self, key: str) -> object:
        """Whatever it is; None when absent."""
        return self._take(key, None)

    def is_text(self, key: str) -> bool:
        return isinstance(self._values.get(self.name(key)), str)

    def _take(self, key: str, default: T) -> object | T:
        name = self.name(key)
        self._used.add(name)
        return self._values.get(name, default)

    def count(self, key: str, default: int, most: int, least: int = 1) -> int:
        """An integer from `least` to `most`."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.bad(key, f"expected an integer from {least} to {most}, found {show(value)}")
        return value

    def count_or_none(self, key: str, default: int | None, most: int, least: int = 1) -> int | None:
        if self._take(key, default) is None:
            return None
        return self.count(key, default or least, most, least)

    def number(self, key: str, default: float | None, most: float = 1e30) -> float:
        """A finite number above 0 and up to `most`; default None: it must be there."""
        return self._number(key, self._take(key, default), most)

    def _number(self, key: str, value: object, most: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_NUMBER <= value <= most:
            raise self.bad(key, f"expected a number above 0 and up to {most:g}, found {show(value)}")
        return float(value)

    def number_or_none(self, key: str, default: float | None, most: float = 1e30) -> float | None:
        return None if self._take(key, default) is None else self.number(key, default, most)

    def numbers(self, key: str, length: int) -> list[float]:
        """A list of exactly `length` positive numbers."""
        values = self._take(key, None)
        if not isinstance(values, list) or len(values) != length:
            found = f"{len(values)} values" if isinstance(values, list) else show(values)
            raise self.bad(key, f"expected a list of {length} numbers, found {found}")
        return [self._number(key, value, 1e30) for value in values]

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.bad(key, f"expected true or false, found {show(value)}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self.bad(key, f"expected a string, found {show(value)}")
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self._take(key, None) is None else self.text(key, "")

    def texts(self) -> dict[str, str]:
        """Everything in the object, which must be strings."""
        return {key: self.text(key, "") for key in self._values}

    def items(self, key: str, kind: type[T]) -> list[T] | None:
        """A list whose items are all of one type; None when absent or null."""
        values = self._take(key, None)
        if values is None:
            return None
        if not isinstance(values, list) or any(type(value) is not kind for value in values):
            raise self.bad(key, f"expected a list of {kind.__name__} values, found {show(values)}")
        return values

    def words(self, key: str, *known: str) -> set[str]:
        """Some of the known words, in a list or in one string with | between them; none where it is absent or null."""
        value = self._take(key, None)
        listed = value.lower().split("|") if isinstance(value, str) else self.items(key, str) or []
        found = {word.strip() for word in listed} - {""}
        if unknown := found - set(known):
            raise self.unsupported(key, min(unknown), "known: " + ", ".join(known))
        return found

    def activation(self, key: str, default: str) -> Activation:
        value = self.text(key, default)
        if value not in ACTIVATIONS:
            raise self.unsupported(key, value, "known: " + ", ".join(ACTIVATIONS))
        return ACTIVATIONS[value]

    def section(self, key: str) -> Config | None:
        """A nested object; None when absent, null or empty."""
        value = self._take(key, None)
        if value is None or value == {}:
            return None
        if not isinstance(value, Mapping):
            raise self.bad(key, f"expected an object, found {show(value)}")
        return self._sections.setdefault(key, Config(value, f"{self.where}: {self.name(key)}"))

    def only(self, key: str, *values: object) -> None:
        """Refuse any value but these (and null): the others are features that are not here."""
        value = self._take(key, None)
        if value is not None and value not in values:
            raise self.unsupported(key, value, "only " + ", ".join(map(show, values)))

    def ignore(self, *keys: str) -> None:
        """Keys without effect in this family."""
        self._used.update(keys)

    def finish(self) -> None:
        """Refuse keys that were not read: they might change the result."""
        for key, value in self._values.items():
            if key in self._used or value is None or _IGNORED.fullmatch(key):
                continue
            if key in _NEUTRAL:
                self.only(key, _NEUTRAL[key])
                continue
            if key == "quantization_config":
                raise self.unsupported(key, value, "take the model that it was made of, and give a dtype")
            raise UnsupportedError(
                f"{self.where}: unknown key {show(key)} (value {show(value)}) might change the result; "
                "remove it from the file if it does not"
            )
        for section in self._sections.values():
            section.finish()
