"""Stand-ins for the files that RULER reads: essays, SQuAD and HotpotQA, small and made up."""

import functools
import json
import pathlib
import random
import tempfile
from typing import Any

from star_jax.eval.ruler import sources

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def _name(rng: random.Random) -> str:
    return "".join(rng.sample(_SYLLABLES, 3)).capitalize()


def _prose(rng: random.Random, sentences: int) -> list[str]:
    """Sentences of four to nine words; some end in a question mark, or within quotes."""
    found = []
    for _ in range(sentences):
        words = ["".join(rng.sample(_SYLLABLES, rng.randint(1, 3))) for _ in range(6)]
        text = " ".join(words[: rng.randint(4, 6)]).capitalize()
        found.append(rng.choice([f"{text}.", f"{text}?", f'Said {text}: "{words[0]}."']))
    return found


def essays() -> dict[str, Any]:
    """Some 2400 words."""
    rng = random.Random("essays")
    return {"text": "\n\n".join("  ".join(_prose(rng, 40)) for _ in range(10))}


def squad(articles: int = 12) -> dict[str, Any]:
    """Articles of four paragraphs, each with a question, and one that has no answer."""
    rng, data = random.Random("squad"), []
    for _ in range(articles):
        paragraphs = []
        for _ in range(4):
            place, keeper = _name(rng), f"{_name(rng)} {_name(rng)}"
            before, after = (" ".join(_prose(rng, 2)) for _ in range(2))
            context = f"{before} The keeper of {place} is {keeper}. {after}"
            start = context.index(keeper)
            asked = {
                "question": f"Who is the keeper of {place}?",
                "is_impossible": False,
                "answers": [
                    {"text": keeper, "answer_start": start},
                    {"text": keeper.split()[0], "answer_start": start},
                ],
            }
            unknown = {"question": f"Who built {place}?", "is_impossible": True, "answers": []}
            paragraphs.append({"context": context, "qas": [unknown, asked]})
        data.append({"title": _name(rng), "paragraphs": paragraphs})
    return {"version": "v2.0", "data": data}


def hotpotqa(questions: int = 40) -> list[dict[str, Any]]:
    """Two paragraphs say it together, eight do not; every fourth question is a yes or no."""
    rng, found = random.Random("hotpotqa"), []
    for i in range(questions):
        person, town, river = _name(rng), _name(rng), f"{_name(rng)} Water"
        context = [
            [person, [f"{person} was born in {town}.", " " + _prose(rng, 1)[0]]],
            [town, [_prose(rng, 1)[0], f" The {river} flows through {town}."]],
            *([_name(rng), _prose(rng, 2)] for _ in range(8)),
        ]
        rng.shuffle(context)
        question = f"Which water flows through the town where {person} was born?"
        found.append(
            {
                "question": f"Was {person} born in {town}?" if i % 4 == 3 else question,
                "answer": "yes" if i % 4 == 3 else river,
                "supporting_facts": [[person, 0], [town, 1]],
                "context": context,
            }
        )
    return found


def write(directory: pathlib.Path, questions: int = 40) -> pathlib.Path:
    """All three files, as `data.sources` wants them, with so many questions each, or a few more."""
    for name, content in (
        ("PaulGrahamEssays.json", essays()),
        ("squad.json", squad(questions // 4 + 2)),
        ("hotpotqa.json", hotpotqa(questions)),
    ):
        (directory / name).write_text(json.dumps(content))
    return directory


@functools.cache
def read(questions: int = 40) -> sources.Sources:
    """What the library reads from them."""
    with tempfile.TemporaryDirectory() as directory:
        return sources.read(str(write(pathlib.Path(directory), questions)), "", sources.NEEDED)
