"""Special tokens that nobody can spell: how a user's text stays text."""

import json
import random
import re
from collections.abc import Iterable

import tokenizers

from star_jax.text import files
from star_jax.text.prompt import Prompt

_FIRST = range(0xF0000, 0xFFFFE)  # for private use, like the next
_REST = range(0x100000, 0x10FFFE)


class Unspellable:
    """A tokenizer whose special tokens have other names, which nobody can guess.

    So text that spells one is tokenised as text, by whatever means a tokenizer may come upon a
    token: as an added one, as a piece of its vocabulary, after normalisation. In a template's
    parts the tokens are put under their new names. Those are as long as the old ones: what stands
    where in a text stays.
    """

    def __init__(self, file: tokenizers.Tokenizer, special: Iterable[str]):
        longest_first = sorted(special, key=len, reverse=True)
        draw = random.SystemRandom()
        firsts = draw.sample(_FIRST, len(longest_first))
        self._names = {
            token: chr(first) + "".join(chr(draw.choice(_REST)) for _ in token[1:])
            for token, first in zip(longest_first, firsts, strict=True)
        }
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._file = tokenizers.Tokenizer.from_str(_renamed(file.to_str(), self._names))

    def encode(self, prompt: Prompt) -> tokenizers.Encoding:
        """The tokens of a prompt, nothing added."""
        text = "".join(
            self._spelled.sub(lambda found: self._names[found[0]], text) if is_template else text
            for text, is_template in prompt.parts
        )
        return files.encode(self._file, text)


def _renamed(file: str, names: dict[str, str]) -> str:
    """A tokenizer.json with some of its tokens under other names. Ids stay."""
    fields = json.loads(file)
    for token in fields["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = fields["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    else:  # of a unigram model: with scores, at the places of their ids
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [
            [a, b] for a, b in model["merges"] if names.keys().isdisjoint((a, b, a + b))
        ]
    fields["post_processor"] = None  # it may name them, and nothing is to be added
    return json.dumps(fields)
