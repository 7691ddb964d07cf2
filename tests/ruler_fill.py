"""How well samples fill their length, with a real byte-level tokenizer trained here."""

import dataclasses
import random
import re
import time

import tokenizers
from ruler_samples import TASKS, make, words
from tokenizers import decoders, models, pre_tokenizers, trainers

from star_jax.eval import ruler

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)


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


@dataclasses.dataclass
class Fill:
    """What the samples of one task at one length fill: shares of the length, counts per sample."""

    least: float
    mean: float
    most: float
    counts: float
    seconds: float


def measure(tokenizer: tokenizers.Tokenizer, task: str, length: int, samples: int) -> Fill:
    calls = 0

    def count_tokens(text: str) -> int:
        nonlocal calls
        calls += 1
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    began = time.process_time()
    shares = []
    for index in range(samples):
        sample = make(
            task,
            length=length,
            index=index,
            seed=0,
            count_tokens=count_tokens,
            max_new_tokens=ruler.TASKS[task].max_new_tokens,
            wrap=ruler.TEMPLATES["llama3"],
        )
        assert sample.length is not None
        shares.append(sample.length / length)
    seconds = (time.process_time() - began) / samples
    return Fill(min(shares), sum(shares) / samples, max(shares), calls / samples, seconds)


def bound(task: str, length: int) -> float:
    """The share that must be filled: 97%, or all but the task's unit."""
    line = {"niah_single_1": 26, "niah_multikey_2": 40, "niah_multikey_3": 100, "vt": 26}
    return min(0.97, 1 - line.get(task, 0) / length)


if __name__ == "__main__":
    trained = train()
    for name in TASKS:
        for size in LENGTHS:
            print(name, size, measure(trained, name, size, 200), flush=True)
