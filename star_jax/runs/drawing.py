"""How the answers of a run are drawn, and where they end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from star_jax.generate.sampling import Sampling
from star_jax.runs import limits


@dataclasses.dataclass
class GenerationConfig:
    """How answers are drawn, by `star_jax.Sampling`, and where they end.

    max_new_tokens: at most so many an answer; 0: the task's own.
    stop: a comma list of stop words.
    ignore_eos: go on after EOS.
    temperature: 0: the likeliest token, always.
    top_k: draw from the k likeliest; 0: from all.
    top_p: draw from the likeliest with this share.
    min_p: at least this probable, next to the likeliest.
    repetition_penalty: of tokens that were there before; 1: none.
    seed: of the draws, together with a question's index. A record has the seed of its answer.
    """

    max_new_tokens: int = 0
    stop: str = ""
    ignore_eos: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0


def stop_words(stop: Any, *, field: str = "generation.stop") -> tuple[str, ...]:
    """The stop words of a comma list, spaces kept; a config file may also give a tuple.

    A comma at the end is ignored, as the reference does. `field` is how errors call it.

    Raises:
      ValueError: it is none of these, or has an empty stop word.
    """
    given = stop
    if isinstance(stop, str):
        stop = stop.rstrip(",").split(",") if stop.strip(",") else ()
    if not isinstance(stop, Sequence) or not all(isinstance(word, str) for word in stop):
        raise ValueError(f"{field}={given!r} is no comma list of stop words")
    found = tuple(stop)
    if not all(found):
        raise ValueError(f"{field}={given!r} has an empty stop word, which would end every answer")
    return found


def sampling(generation: GenerationConfig, indices: Sequence[int] = ()) -> Sampling:
    """How the answers to the questions with these indices are drawn."""
    if not 0 <= generation.seed < 2**32:
        raise ValueError(f"generation.seed={generation.seed} must be from 0 to 2**32 - 1")
    fields = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    for name in fields:
        limits.check_finite(f"generation.{name}", getattr(generation, name))
    for name in ("top_k", "top_p", "min_p"):
        value = getattr(generation, name)
        if generation.temperature == 0 and value != getattr(Sampling(), name):
            raise ValueError(f"generation.{name}={value} needs a generation.temperature above 0")
    seeds = tuple(generation.seed * 2**32 + index % 2**32 for index in indices)
    try:
        return Sampling(**{name: getattr(generation, name) for name in fields}, seed=seeds or 0)
    except ValueError as e:
        raise ValueError(f"generation.{e}") from e
