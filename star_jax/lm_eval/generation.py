"""What a task asks of an answer: the harness's generation_kwargs, for `Engine.generate`.

What they do not say is as the checkpoint's generation_config.json has it, which `transformers`
follows unasked: Qwen 2.5 penalises repetition there, and so answers otherwise.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from star_jax import json_files
from star_jax.generate.sampling import Sampling
from star_jax.sizes import shown, whole

MAX_GEN_TOKS = 256  # as the harness's own adapters have it, where a task does not say
_MOST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DRAWS = ("top_k", "top_p", "min_p", "repetition_penalty")
# What else of a generation_config.json changes answers, and the values that do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ([], {}),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "stop_strings": ([],),
}
_OF_DRAWING = {"typical_p": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,)}


@dataclasses.dataclass(frozen=True)
class Generation:
    """How long an answer may be, where it ends, and how it is drawn."""

    max_new_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling

    @classmethod
    def of(
        cls, given: Mapping[str, Any], *, eos: str, defaults: Mapping[str, Any] | None = None
    ) -> "Generation":
        """From generation_kwargs; `eos` is a stop word, too.

        As in the harness, nothing is drawn unless `do_sample` says so, or `temperature` where
        `do_sample` is not given. `defaults` are of generation_config.json.

        Raises:
          ValueError: one is unknown or cannot be.
          NotImplementedError: a default changes answers in a way that is not supported.
        """
        left = {name: value for name, value in given.items() if value is not None}
        most = [left.pop(name) for name in _MOST if name in left] or [MAX_GEN_TOKS]
        until = left.pop("until", [])
        temperature, draws = left.pop("temperature", 0.0), left.pop("do_sample", None)
        if draws and temperature == 0:
            raise ValueError(f"generation_kwargs={shown(given)}: do_sample needs a temperature")
        if draws is False:
            temperature = 0.0
        usual = {name: value for name, value in (defaults or {}).items() if name not in left}
        _check(usual, draws=temperature != 0)
        how = {name: usual[name] for name in _DRAWS if usual.get(name) is not None}
        how |= {name: left.pop(name) for name in _DRAWS if name in left}
        if left.pop("num_beams", 1) != 1 or left:
            raise ValueError(
                f"generation_kwargs={shown(given)}: not supported; there is until, "
                f"do_sample, temperature, {', '.join((*_MOST, *_DRAWS))}"
            )
        stop = [until] if isinstance(until, str) else until
        return cls(
            whole("max_gen_toks", most[0]),
            tuple(dict.fromkeys(word for word in (*stop, eos) if word)),
            Sampling(temperature=temperature, **how),
        )


def defaults_of(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's generation_config.json; empty without one."""
    path = os.path.join(directory, "generation_config.json")
    return json_files.read(path) if json_files.is_there(path) else {}


def _check(defaults: Mapping[str, Any], *, draws: bool) -> None:
    """Raises NotImplementedError if one of them changes answers, and is not supported."""
    for name, neutral in (_NEUTRAL | (_OF_DRAWING if draws else {})).items():
        value = defaults.get(name)
        if value is not None and value not in neutral:
            raise NotImplementedError(
                f"generation_config.json: {name}={shown(value)} is not supported; "
                f"without it answers would not be those of transformers"
            )
