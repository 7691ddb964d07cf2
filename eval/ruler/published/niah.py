"""Needles in a haystack, as published: one order and forty depths for all samples."""

import dataclasses
import random

from star_jax.eval.ruler import niah
from star_jax.eval.ruler.draft import Draft, Request
from star_jax.eval.ruler.published.scripts import Scripts, damaged, shuffled

_DEPTHS = [round(i * 100 / 39) / 100 for i in range(40)]  # shares of the sentences


def draft(
    rng: random.Random, request: Request, *, scripts: Scripts, haystack: str, kind: str
) -> Draft:
    """One needle among lines; see `niah.draft`, whose lines are the published ones."""
    found = niah.draft(rng, request, haystack=haystack, kind=kind)
    return _fitted(found, request, scripts, 25 if request.length >= 4096 else 5)


def in_essays(
    rng: random.Random,
    request: Request,
    *,
    scripts: Scripts,
    kind: str,
    keys: int,
    values: int,
    queries: int,
) -> Draft:
    """Needles between the sentences of essays; see `niah.in_essays`."""
    needles = niah.draw(rng, request, kind=kind, keys=keys, values=values, queries=queries)
    order = shuffled(range(len(needles.sentences)), request.seed)
    depths = sorted(rng.sample(_DEPTHS, len(order)))
    found = niah.hidden(needles, request, order=order, depths=depths, gaps=True)
    essays = request.sources.essays
    most = None if scripts.repeats or essays is None else len(essays.words)
    return _fitted(found, request, scripts, 500, most)


def _fitted(
    draft: Draft, request: Request, scripts: Scripts, step: int, most: int | None = None
) -> Draft:
    steps = scripts.steps(step, answer=" ".join(draft.outputs), most=most)
    before = None
    if scripts.damages and draft.question.startswith("What is "):
        before = damaged(request.wrap[0])
    return dataclasses.replace(draft, steps=steps, before=before)
