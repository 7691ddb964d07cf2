"""Questions of one context are asked together, and it is encoded once."""

from typing import Any

import pytest
import tiny
from test_generate import engine

from star_jax import Engine, Sampling
from star_jax.runs.ask import Held, ask

A, B, C = (tiny.ids(n) for n in (100, 70, 90))
QUERIES = [tiny.ids(n, seed=n) for n in (5, 9, 3, 7)]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The contexts that engines were given."""
    found: list[Any] = []
    prefill = Engine.prefill

    def noted(self: Engine, context_ids: Any) -> Any:
        found.append(context_ids)
        return prefill(self, context_ids)

    monkeypatch.setattr(Engine, "prefill", noted)
    return found


def test_answers_are_in_the_order_of_questions(encoded: list[Any]) -> None:
    """Drawn ones, each with a seed of its own: as each question would have alone."""
    e, contexts = engine(), [A, B, A, B]
    draws = Sampling(temperature=2.0, seed=(1, 2, 3, 4))
    found, _ = ask(e, contexts, QUERIES, held=Held(), max_new_tokens=6, sampling=draws)
    assert encoded == [[A, B]]
    for i, answer in enumerate(found):
        one = Sampling(temperature=2.0, seed=i + 1)
        alone, _ = ask(
            e, contexts[i : i + 1], QUERIES[i : i + 1], held=Held(), max_new_tokens=6, sampling=one
        )
        assert [answer] == alone
        assert answer.seed == i + 1


def test_consecutive_questions_encode_a_document_once(encoded: list[Any]) -> None:
    e, held = engine(), Held()
    for context, query in zip([A, A, A, C, A], [*QUERIES, QUERIES[0]], strict=True):
        found, seconds = ask(e, [context], [query], held=held, max_new_tokens=3)
        again, _ = ask(e, [context], [query], held=Held(), max_new_tokens=3)
        assert found == again
        assert seconds["time_prefill"] >= 0
    once = [contexts for i, contexts in enumerate(encoded) if i in (0, 4, 6)]
    assert once == [[A], [C], [A]]
    assert len(encoded) == 3 + 5  # and each time that nothing was held


def test_other_engines_encode_anew(encoded: list[Any]) -> None:
    e, held = engine(), Held()
    other = e.with_attention(e.attention)
    for one in (e, other, e):
        ask(one, [A], QUERIES[:1], held=held, max_new_tokens=1)
    assert encoded == [[A]] * 3
    held.let_go()
    ask(e, [A], QUERIES[:1], held=held, max_new_tokens=1)
    assert encoded == [[A]] * 4
