"""Our engine on a real language model, held to `transformers`."""

import json
import pathlib

import numpy as np
import pytest
import torch
import transformers

import star_jax
from star_jax.engine import Engine
from tools import demo_language, smollm2

TOLERANCE = 1e-4  # of max(1, max|logit|), in float32

TEXTS = [
    "Alice was beginning to get very tired of sitting by her sister on the bank.\n\n",
    "def double(x: int) -> int:\n\treturn 2 * x  # 1024, 65,536 and 3.14159\n",
    "In  1872, at No. 7;   12345 67\t890\n\n\n 1",
    "naïve façade, Ελλάδα, 日本語, 👩‍👩‍👧 and \x00\ufeff",
    " leading and trailing ",
    "She said 'I don't know', and they'll HAVEN'T 'Tis",
    "<|im_start|>user\nHello<|im_end|>\n<|endoftext|>",
    "",
]
QUESTIONS = ["What colour were the rabbit's eyes?", "What is the capital of France? ¿2+2?"]


@pytest.fixture(scope="module")
def directory() -> pathlib.Path:
    try:
        return smollm2.make()
    except smollm2.Unavailable as e:
        # No network is no defect of ours; the end of the run says loudly what was not tested.
        pytest.skip(f"NOT TESTED: SmolLM2-135M-Instruct: {e}")


@pytest.fixture(scope="module")
def tokenizer(directory: pathlib.Path) -> transformers.PreTrainedTokenizerBase:
    """What `transformers` makes of the GGUF file itself."""
    return transformers.AutoTokenizer.from_pretrained(directory, gguf_file=smollm2.GGUF)


@pytest.fixture(scope="module")
def model(directory: pathlib.Path) -> transformers.LlamaForCausalLM:
    """`tests/large` holds its weights to what `transformers` reads from the GGUF file."""
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def engine(directory: pathlib.Path) -> Engine:
    """Dense, on one device: most of this file's time is compiling 30 layers."""
    mesh = star_jax.make_mesh(context=1)
    return Engine.from_pretrained(directory, mesh=mesh, attention=star_jax.Dense(), dtype="float32")


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_text_are_those_of_the_file(
    directory: pathlib.Path, tokenizer: transformers.PreTrainedTokenizerBase, text: str
) -> None:
    ours = transformers.AutoTokenizer.from_pretrained(directory)
    expected = tokenizer(text)["input_ids"]
    assert ours(text)["input_ids"] == expected
    assert ours.decode(expected) == tokenizer.decode(expected)


@pytest.mark.parametrize("question", QUESTIONS)
def test_ids_of_chat_are_those_of_the_file(
    engine: Engine,
    directory: pathlib.Path,
    tokenizer: transformers.PreTrainedTokenizerBase,
    question: str,
) -> None:
    """`transformers` leaves the file's template unread: that of the directory serves both."""
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    assert engine.tokenizer is not None
    document = "The White Rabbit had pink eyes.\n"
    context, query = demo_language.prompt(engine.tokenizer, document, question)
    expected = tokenizer.apply_chat_template(
        [{"role": "user", "content": document + question}],
        chat_template=settings["chat_template"],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert context + query == expected


@pytest.fixture(scope="module")
def asked(engine: Engine) -> tuple[list[int], list[int]]:
    """A document's ids, and a question's."""
    assert engine.tokenizer is not None
    document = demo_language.DOCUMENT.read_text()[:1200]
    question = "Of what shall the Congress consist?"
    return demo_language.prompt(engine.tokenizer, document, question)


@pytest.fixture(scope="module")
def greedy(model: transformers.LlamaForCausalLM, asked: tuple[list[int], list[int]]) -> list[int]:
    """What `transformers` answers, with the token that ends it if there is one."""
    whole = torch.tensor([asked[0] + asked[1]])
    with torch.no_grad():
        tokens = model.generate(whole, max_new_tokens=8, do_sample=False)
    return tokens[0, whole.shape[1] :].tolist()


def test_logits_and_greedy_tokens_are_those_of_transformers(
    engine: Engine,
    model: transformers.LlamaForCausalLM,
    asked: tuple[list[int], list[int]],
    greedy: list[int],
) -> None:
    """Those of the question and of the answer at once: of 30 layers each program costs."""
    context_ids, query_ids = asked
    query_ids = query_ids + greedy[:-1]
    with torch.no_grad():
        theirs = model(torch.tensor([context_ids + query_ids])).logits[0, len(context_ids) :]
    logits = np.asarray(engine.score(engine.prefill(context_ids), query_ids))
    assert np.abs(logits - theirs.numpy()).max() < TOLERANCE * max(1, np.abs(theirs.numpy()).max())
    assert logits[-len(greedy) :].argmax(axis=-1).tolist() == greedy
    assert engine.tokenizer is not None
    assert "United States" in engine.tokenizer.decode(greedy)  # it reads


@pytest.mark.long
def test_an_answer_has_the_greedy_tokens(
    engine: Engine, asked: tuple[list[int], list[int]], greedy: list[int]
) -> None:
    context_ids, query_ids = asked
    answer = engine.generate(engine.prefill(context_ids), query_ids, max_new_tokens=8)
    assert isinstance(answer, star_jax.Answer)
    assert answer.tokens == [token for token in greedy if token not in engine.eos_token_ids]
