"""How well samples fill their length, with tokenizers of several kinds, and what else must hold.

    PYTHONPATH=.:tests python tests/ruler_fill.py MODE TOKENIZER SAMPLES LENGTH...

prints a line for each task and length, and stops where something does not hold. The whole of what
is asked of RULER's tasks is mode exact, 200 samples, and 4096 to 131072 tokens: some 45 minutes of
one core for each tokenizer. All of it held with three of them, needle, smollm2 and trained.
"""

import dataclasses
import pathlib
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable

import ruler_sources
import tokenizer_files
import tokenizers
from ruler_samples import QA_TASKS, TASKS, make, read, words
from tokenizers import decoders, models, pre_tokenizers, trainers

from star_jax.eval import ruler
from star_jax.eval.ruler import niah
from star_jax.runs.sample import Sample
from star_jax.text.tokenizer import Tokenizer
from tools import smollm2

LENGTHS = (1024, 2048, 4096, 8192, 16384)
NEEDLE = pathlib.Path(__file__).parents[1] / "checkpoints" / "needle"


def train(merges: int = 2000) -> tokenizers.Tokenizer:
    """Byte-level BPE, digits in threes as Llama 3 has them, trained on samples of all tasks."""
    digits = pre_tokenizers.Split(tokenizers.Regex(r"[0-9]{1,3}"), "isolated")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = re.findall(r"<\|\w+\|>", "".join(ruler.TEMPLATES["llama3"]))
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=sorted(set(special)),
        show_progress=False,
    )
    written = ["niah_multikey_2", "vt", *["cwe"] * 6]  # the others have no words to learn
    texts = [make(t, length=16384, index=i, seed=1).context for i, t in enumerate(written * 4)]
    random.Random(0).shuffle(texts)
    tokenizer.train_from_iterator(texts, trainer)
    assert words(tokenizer.decode(tokenizer.encode(texts[0]).ids)) == words(texts[0])
    return tokenizer


def _trained() -> Callable[[str], int]:
    tokenizer = train()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _of(directory: pathlib.Path | str) -> Callable[[str], int]:
    tokenizer = Tokenizer.from_pretrained(directory)
    assert tokenizer is not None
    return tokenizer.count


def _sentencepiece() -> Callable[[str], int]:
    """Pieces of one or two letters, mostly, and a dummy prefix, as Llama 2 has it."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer_files.save(pathlib.Path(directory), "dummy prefix")
        return _of(directory)


KINDS: dict[str, Callable[[], Callable[[str], int]]] = {
    "trained": _trained,
    "needle": lambda: _of(NEEDLE),
    "smollm2": lambda: _of(smollm2.make()),
    "sentencepiece": _sentencepiece,
}


@dataclasses.dataclass
class Fill:
    """What the samples of one task at one length fill: shares of the length, counts per sample.

    counts: of whole contexts; those of a word or a line cost nothing.
    """

    least: float
    mean: float
    most: float
    counts: float
    seconds: float


def measure(
    count_tokens: Callable[[str], int], task: str, length: int, samples: int, mode: str = "exact"
) -> Fill:
    calls = 0

    def counted(text: str) -> int:
        nonlocal calls
        tokens = count_tokens(text)
        calls += tokens > length // 2
        return tokens

    chosen = ruler.MODES[mode].tasks[task]

    def maker() -> ruler.Maker:
        return ruler.maker(
            task,
            mode,
            length=length,
            seed=0,
            count_tokens=counted,
            max_new_tokens=chosen.max_new_tokens,
            wrap=ruler.TEMPLATES["llama3"],
            sources=ruler_sources.read(max(samples, 40)),
        )

    made = maker()
    seconds, shares = 0.0, []
    for index in range(samples):
        began = time.process_time()
        sample = made.sample(index)
        seconds += time.process_time() - began
        assert sample.length is not None
        shares.append(sample.length / length)
        check(task, sample, chosen.metric.score)
    seconds /= samples
    fill = Fill(min(shares), sum(shares) / samples, max(shares), calls / samples, seconds)
    assert maker().sample(samples - 1) == sample, "the seed does not reproduce it"
    return fill


def check(task: str, sample: Sample, score: Callable[[str, Sample], float]) -> None:
    """A reader of the context answers, an empty answer is none, and answers stand where said."""
    assert score(read(task, sample), sample) == 1
    assert score("", sample) == 0
    found = [sample.context[start:end] for start, end in sample.needles]
    if task.startswith("niah"):
        for text, value in zip(found, sample.outputs, strict=True):
            assert re.fullmatch(rf"One of the .* is: {value}\.", text)
    elif task in QA_TASKS and sample.outputs != ("yes",):
        assert set(found) == {sample.outputs[0]}


def bound(count_tokens: Callable[[str], int], task: str, length: int) -> float:
    """The share that must be filled: 97%, or all but the task's unit."""
    uuid = "0b1f6fa8-9b0f-4a3b-8d3b-0b1f6fa89b0f"
    files = ruler_sources.read()
    assert files.squad and files.hotpotqa
    units = {
        "niah_single_1": [niah.NOISE],
        "vt": [niah.NOISE],
        "niah_multikey_2": [niah.NEEDLE.format(kind="number", key="a-b" * 8, value=1234567)],
        "niah_multikey_3": [niah.NEEDLE.format(kind="uuid", key=uuid, value=uuid)],
        "qa_1": [f"Document 12: {text}" for text in files.squad.documents],
        "qa_2": [f"Document 12: {text}" for text in files.hotpotqa.documents],
    }
    unit = max(map(count_tokens, units.get(task, [""])))
    return min(0.97, 1 - 1.2 * unit / length)


def main(mode: str, kind: str, samples: int, lengths: list[int]) -> None:
    count_tokens = KINDS[kind]()
    for length in lengths:
        for task in TASKS:
            fill = measure(count_tokens, task, length, samples, mode)
            print(mode, kind, task, length, fill, flush=True)
            assert mode != "exact" or bound(count_tokens, task, length) <= fill.least
            assert fill.most <= 1 or (mode, task) == ("star", "fwe")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(length) for length in sys.argv[4:]])
