"""A sample as a line of JSON, and back: the same sample, with the same token ids.

The fields are those of the published files (index, input_context, input_query, outputs, length),
and what else a sample has: needles, facts, what a user's line had given, and which parts of a text
a template wrote. Parts are kept as [characters, whether a template's], one after the other; a text
that has none is a user's.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from star_jax import json_files
from star_jax.runs.sample import Sample
from star_jax.text.prompt import Prompt, Text


def fields(sample: Sample) -> dict[str, Any]:
    """All of a sample, as JSON has it: tuples are lists."""
    found = {
        "index": sample.index,
        "input_context": str(sample.context),
        "input_query": str(sample.query),
        "outputs": sample.outputs,
        "length": sample.length,
        "needles": sample.needles,
        "facts": dict(sample.facts),
        "given": dict(sample.given),
        **_parts("context_parts", sample.context),
        **_parts("query_parts", sample.query),
    }
    return json.loads(json.dumps(found))


def parse(text: bytes) -> Sample:
    """The sample of a line.

    Raises:
      ValueError: it is no such line. It begins with "not".
    """
    line = json_files.parse(text, limit=len(text))
    try:
        return Sample(
            index=line["index"],
            context=_text(line["input_context"], line.get("context_parts")),
            query=_text(line["input_query"], line.get("query_parts")),
            outputs=tuple(line["outputs"]),
            needles=tuple((start, end) for start, end in line["needles"]),
            length=line["length"],
            facts=line["facts"],
            given=line["given"],
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"not a prepared question ({type(e).__name__}: {e})") from e


def _parts(name: str, text: Text) -> dict[str, Any]:
    if not isinstance(text, Prompt):
        return {}
    return {name: [[len(part), is_template] for part, is_template in text.parts]}


def _text(text: str, parts: Sequence[Sequence[Any]] | None) -> Text:
    if parts is None:
        return text
    if sum(length for length, _ in parts) != len(text):
        raise ValueError(f"{parts=} in a text of {len(text)} characters")
    starts = itertools.accumulate((length for length, _ in parts), initial=0)
    cut = zip(starts, parts, strict=False)
    return Prompt(tuple((text[start : start + length], kind) for start, (length, kind) in cut))
