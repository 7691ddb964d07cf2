"""What a task asks of an answer: the harness's generation_kwargs, for `Engine.generate`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from star_jax.generate.sampling import Sampling
from star_jax.sizes import shown, whole

MAX_GEN_TOKS = 256  # as the harness's own adapters have it, where a task does not say
_MOST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DRAWS = ("top_k", "top_p", "min_p", "repetition_penalty")


@dataclasses.dataclass(frozen=True)
class Generation:
    """How long an answer may be, where it ends, and how it is drawn."""

    max_new_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling

    @classmethod
    def of(cls, given: Mapping[str, Any], *, eos: str) -> "Generation":
        """From generation_kwargs; `eos` is a stop word, too.

        As in the harness, nothing is drawn unless `do_sample` says so, or `temperature` where
        `do_sample` is not given.

        Raises:
          ValueError: one is unknown or cannot be.
        """
        left = {name: value for name, value in given.items() if value is not None}
        most = [left.pop(name) for name in _MOST if name in left] or [MAX_GEN_TOKS]
        until = left.pop("until", [])
        temperature = left.pop("temperature", 0.0)
        if not left.pop("do_sample", temperature != 0):
            temperature = 0.0
        how = {name: left.pop(name) for name in _DRAWS if name in left}
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
