"""The adapter to lm-evaluation-harness: its numbers are those of the harness's Hugging Face one."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import commands
import lm_eval as harness
import pytest
import ruler_samples
from fake_engine import FakeContext

import star_jax
from star_jax import Answer, Engine, Star, make_mesh, models
from star_jax.generate.sampling import GREEDY
from star_jax.lm_eval import __main__ as command
from star_jax.lm_eval.arguments import Arguments
from star_jax.lm_eval.generation import Generation
from star_jax.lm_eval.model import StarJax
from star_jax.text.tokenizer import Tokenizer

# What the harness and its libraries import is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

CHECKPOINT = commands.REPOSITORY / "checkpoints" / "needle"
TASKS = ["needle_choice", "needle_generate", "needle_rolling"]
FOLDER = commands.REPOSITORY / "tests" / "lm_eval_tasks"
DOCS, CONTEXTS, CHOICES, TOKENS = 3, 2, 4, 200


def docs() -> list[dict[str, Any]]:
    """Needles in noise; the last two documents have one context."""
    tokenizer = Tokenizer.from_pretrained(CHECKPOINT)
    assert tokenizer is not None
    keys = (CHECKPOINT / "keys.txt").read_text().split()
    made = []
    for index in range(DOCS):
        sample = ruler_samples.make(
            "niah_multikey_2",
            length=TOKENS,
            index=min(index, CONTEXTS - 1),
            count_tokens=tokenizer.count,
            max_new_tokens=12,
            keys=keys,
        )
        answer = sample.outputs[0]
        choices = [answer, answer[::-1], answer[:3] + "0000", answer + "1"]
        made.append(
            {"context": sample.context, "query": sample.query, "answer": answer, "choices": choices}
        )
    return made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A folder with the documents of the tasks; it is the current one."""
    folder = tmp_path_factory.mktemp("lm_eval")
    (folder / "docs.json").write_text("\n".join(map(json.dumps, docs())))
    with contextlib.chdir(folder):
        yield folder


@functools.cache
def engine() -> Engine:
    return Engine.from_pretrained(
        CHECKPOINT, mesh=make_mesh(), attention=Star(block_size=256), dtype="float32"
    )


def evaluate(model: Any) -> dict[str, list[Any]]:
    """What a model answers to each request of each task; a likelihood comes as a pair."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    found = harness.simple_evaluate(model, tasks=TASKS, task_manager=manager, bootstrap_iters=0)
    return {
        task: [answer for sample in found["samples"][task] for (answer,) in sample["resps"]]
        for task in TASKS
    }


@functools.cache
def theirs(max_length: int | None = None) -> dict[str, list[Any]]:
    """What the harness's own adapter to `transformers` answers, on the CPU in float32."""
    from lm_eval.models.huggingface import HFLM

    return evaluate(HFLM(str(CHECKPOINT), device="cpu", dtype="float32", max_length=max_length))


def check(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> None:
    assert ours["needle_generate"] == theirs["needle_generate"]
    likely = [value for value, _ in theirs["needle_choice"]]
    assert [value for value, _ in ours["needle_choice"]] == pytest.approx(
        likely, abs=1e-4, rel=2e-6
    )
    assert [g for _, g in ours["needle_choice"]] == [g for _, g in theirs["needle_choice"]]
    # Sums over some 200 tokens; theirs is one in float32.
    assert ours["needle_rolling"] == pytest.approx(theirs["needle_rolling"], rel=1e-6)


def test_the_harness_own_adapter_answers(here: pathlib.Path) -> None:
    """So the equalities below are of something."""
    found = theirs()
    answers = [f": {doc['answer']}" for doc in docs()]
    assert found["needle_generate"] == answers
    assert len(found["needle_choice"]) == 2 * DOCS * CHOICES
    assert {greedy for _, greedy in found["needle_choice"]} == {True, False}
    assert all(value < -500 for value in found["needle_rolling"])
    assert found["needle_rolling"] != theirs(128)["needle_rolling"]


@pytest.mark.long
def test_star_in_one_block_is_dense_and_encodes_each_context_once(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[list[int]] = []
    prefill = Engine.prefill

    def counted(self: Engine, context_ids: Any) -> Any:
        encoded.extend(context_ids)
        return prefill(self, context_ids)

    monkeypatch.setattr(Engine, "prefill", counted)
    check(evaluate(StarJax(engine(), directory=str(CHECKPOINT))), theirs())
    # To generate, for the choices, for the choices without a context; and each document.
    assert len(encoded) == CONTEXTS + CONTEXTS + 1 + DOCS
    assert len(set(map(tuple, encoded))) == CONTEXTS + 1 + CONTEXTS


def test_the_commands_dense_numbers_are_those_of_the_harness_own_adapter(
    here: pathlib.Path,
) -> None:
    """Without PyTorch: the command's environment has none."""
    result = commands.run(
        here,
        "star_jax.lm_eval",
        *("run", "--model=star_jax", f"--include_path={FOLDER}", f"--tasks={','.join(TASKS)}"),
        f"--model_args=pretrained={CHECKPOINT},attention=dense,dtype=float32",
        *("--output_path=out", "--log_samples"),
    )
    assert result.code == 0, result.stderr
    found: dict[str, list[Any]] = {}
    for task in TASKS:
        (file,) = (here / "out").rglob(f"samples_{task}_*.jsonl")
        answers = [x for line in file.open() for (x,) in json.loads(line)["resps"]]
        if task == "needle_choice":  # as text, all of it
            answers = [(float(value), {"True": True, "False": False}[g]) for value, g in answers]
        found[task] = [float(x) for x in answers] if task == "needle_rolling" else answers
    check(found, theirs())
    (file,) = (here / "out").rglob("results_*.json")
    scores = json.loads(file.read_text())["results"]
    assert scores["needle_generate"]["exact_match,number"] == 1
    assert scores["needle_choice"]["acc,none"] == 1
    assert "|needle_rolling " in result.stdout


@pytest.mark.long
def test_requests_that_are_too_long_lose_what_they_lose_in_the_harness_own_adapter(
    here: pathlib.Path,
) -> None:
    ours = StarJax(engine(), directory=str(CHECKPOINT), max_length=128, cut=3, batch_size=2)
    check(evaluate(ours), theirs(128))


class Recorder(Engine):
    """Writes down what it is asked; an answer is its query's text, a logit the token after it."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_pretrained(CHECKPOINT)
        self.eos_token_ids = (2,)
        self.asked: list[tuple[list[list[int]], list[list[list[int]]], dict[str, Any]]] = []

    @property
    def mesh(self) -> Any:
        return make_mesh()

    @property
    def config(self) -> Any:
        return models.read(str(CHECKPOINT))

    def prefill(self, context_ids: Any) -> Any:
        return FakeContext(context_ids)

    def generate(self, context: Any, query_ids: Any, **how: Any) -> Any:
        self.asked.append((context.tokens, query_ids, how))
        return [
            [Answer(ids, self.tokenizer.decode(context[-2:] + ids), "eos") for ids in queries]
            for context, queries in zip(context.tokens, query_ids, strict=True)
        ]


def ask(prompts: list[str], given: Any = None, **settings: Any) -> tuple[Recorder, list[str]]:
    from lm_eval.api.instance import Instance

    recorder = Recorder()
    kwargs = {"until": ["."], "max_gen_toks": 5} if given is None else given
    requests = [
        Instance("generate_until", {}, (prompt, kwargs), i) for i, prompt in enumerate(prompts)
    ]
    ours = StarJax(recorder, directory=str(CHECKPOINT), **settings)
    return recorder, ours.generate_until(requests, disable_tqdm=True)


NOISE = "The grass is green. The sky is blue.\n" * 9


@pytest.mark.parametrize("cut", ["auto", "line", 1, 7, 10**6])
@pytest.mark.parametrize(
    "prompt", [f"{NOISE}What is the special magic number?", "What", f"<s>{NOISE}a</s>"]
)
def test_context_and_query_have_the_ids_of_transformers(prompt: str, cut: Any) -> None:
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    expected = theirs(prompt, add_special_tokens=not prompt.startswith("<s>"))["input_ids"]
    recorder, _ = ask([prompt], cut=cut)
    (((context,), ((query,),), _),) = recorder.asked
    assert context + query == expected
    assert len(context) == max(len(expected) - cut, 1) if isinstance(cut, int) else context
    if "special" in prompt and cut in ("auto", "line"):
        assert theirs.decode(query) == "What is the special magic number?"


def test_answers_come_in_the_order_of_the_requests_whatever_is_asked_together() -> None:
    """Forty questions of one context, two of another, and one of a third, in turns."""
    prompts = [f"{NOISE}What is the special magic number {i}?" for i in range(40)]
    prompts[5:5] = [
        f"{NOISE * 2}What is the special magic number?",
        f"{NOISE * 3}What is the special magic uuid?",
    ]
    prompts[17:17] = [f"{NOISE * 2}What is the magic number?"]
    recorder, answers = ask(prompts, batch_size=3)
    assert answers == [f".\n{prompt.rpartition(chr(10))[2]}" for prompt in prompts]
    together = [[len(row) for row in queries] for _, queries, _ in recorder.asked]
    assert together == [[2, 1], [32], [8]]
    seeds = [seed for _, _, how in recorder.asked for seed in how["sampling"].seed]
    assert len(set(seeds)) == len(prompts)


@pytest.mark.parametrize(
    ("given", "most", "stop", "temperature"),
    [
        ({}, 256, ("</s>",), 0),
        ({"until": "\n", "max_new_tokens": 3}, 3, ("\n", "</s>"), 0),
        ({"until": ["a", "", "</s>"], "do_sample": False, "temperature": 1}, 256, ("a", "</s>"), 0),
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.9}, 256, ("</s>",), 0.5),
        ({"temperature": 0.5, "max_tokens": 2}, 2, ("</s>",), 0.5),
        ({"temperature": 0, "do_sample": None}, 256, ("</s>",), 0),
    ],
)
def test_generation_kwargs_mean_what_they_mean_in_the_harness(
    given: dict[str, Any], most: int, stop: tuple[str, ...], temperature: float
) -> None:
    recorder, _ = ask([NOISE], given)
    how = recorder.asked[0][2]
    assert (how["max_new_tokens"], how["stop"]) == (most, stop)
    assert how["sampling"].temperature == temperature
    assert how["sampling"].top_p == given.get("top_p", 1)


@pytest.mark.parametrize(
    "given",
    [
        *({"num_beams": 2}, {"penalty_alpha": 1}, {"max_gen_toks": 0}, {"max_gen_toks": 4096}),
        *({"do_sample": True}, {"do_sample": True, "temperature": 0.0, "top_p": 0.9}),
    ],
)
def test_generation_kwargs_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        ask([NOISE], given)


def test_what_generation_kwargs_do_not_say_is_as_the_checkpoint_has_it() -> None:
    penalty = {"repetition_penalty": 1.1, "top_k": 20, "temperature": 0.7, "do_sample": True}
    how = Generation.of({}, eos="</s>", defaults=penalty).sampling
    assert (how.temperature, how.repetition_penalty) == (0, 1.1)
    how = Generation.of({"temperature": 0.5, "top_k": 3}, eos="</s>", defaults=penalty).sampling
    assert (how.temperature, how.repetition_penalty, how.top_k) == (0.5, 1.1, 3)
    how = Generation.of({"repetition_penalty": 1.0}, eos="</s>", defaults=penalty).sampling
    assert how.repetition_penalty == 1
    for defaults in (
        {"no_repeat_ngram_size": 3},
        {"num_beams": 4},
        {"suppress_tokens": [7]},
        {"forced_eos_token_id": 2},
    ):
        with pytest.raises(NotImplementedError, match=f"json: {next(iter(defaults))}=.* is not"):
            Generation.of({}, eos="</s>", defaults=defaults)
    drawn: dict[str, Any] = {
        "typical_p": 0.9,
        "bad_words_ids": None,
        "num_beams": 1,
        "suppress_tokens": [],
    }
    assert Generation.of({}, eos="</s>", defaults=drawn).sampling == GREEDY
    assert Generation.of({"num_beams": 1}, eos="", defaults={"num_beams": 4}).sampling == GREEDY
    with pytest.raises(NotImplementedError, match="typical_p"):
        Generation.of({"temperature": 1}, eos="</s>", defaults=drawn)


def test_a_penalty_in_the_checkpoint_counts_as_in_the_harness_own_adapter(
    tmp_path: pathlib.Path,
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    directory = tmp_path / "penalty"
    shutil.copytree(CHECKPOINT, directory)
    given: dict[str, Any] = {"until": [], "max_gen_toks": 16}
    (request,) = [Instance("generate_until", {}, ("The sky is", given), 0)]
    ours = StarJax(engine(), directory=str(directory))
    (plain,) = ours.generate_until([request], disable_tqdm=True)
    path = directory / "generation_config.json"
    defaults = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(defaults | {"repetition_penalty": 20.0, "top_k": 5}))
    theirs = HFLM(str(directory), device="cpu", dtype="float32").generate_until([request])
    assert ours.generate_until([request], disable_tqdm=True) == theirs != [plain]


def test_a_chat_template_is_that_of_transformers(tmp_path: pathlib.Path) -> None:
    shutil.copytree(CHECKPOINT, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    ours = StarJax(Recorder(), directory=str(tmp_path / "chat"))
    chat = [{"role": "user", "content": "What is blue?"}]
    text = ours.apply_chat_template(chat)
    assert text == "<s>[user]What is blue?\n[assistant]"
    assert ours.tok_encode(text).count(1) == 1  # one BOS
    begun = [*chat, {"role": "assistant", "content": "The sky"}]
    text = ours.apply_chat_template(begun, add_generation_prompt=False)
    assert text == "<s>[user]What is blue?\n[assistant]The sky"
    assert "[{{ m.role }}]" in (ours.chat_template(True) or "")


def test_a_template_that_refuses_a_system_message_gets_none(tmp_path: pathlib.Path) -> None:
    """As in the harness's own adapter: it says a task's description as one."""
    shutil.copytree(CHECKPOINT, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% elif m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ m.content }}|{% endfor %}{{ enable_thinking }}"
    )
    user = {"role": "user", "content": "Hi"}
    system = {"role": "system", "content": "Be brief."}
    for thinks, said in ((None, ""), (False, "False"), (True, "True")):
        ours = StarJax(Recorder(), directory=str(tmp_path / "chat"), enable_thinking=thinks)
        assert ours.apply_chat_template([system, user]) == f"Hi|{said}"
    for role in ("tool", "system"):
        with pytest.raises(ValueError, match="the chat template refuses a prompt: no tools"):
            ours.apply_chat_template([{**system, "role": role}, {**user, "role": "tool"}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("attention=star,block_size=8", "pretrained is missing"),
        ("pretrained=x", "attention is missing"),
        ("pretrained=x,attention=stern", "attention='stern' must be one of dense, ring"),
        ("pretrained=x,attention=star", "attention=star needs a block_size"),
        ("pretrained=x,attention=star,block_size=8,anchor_size=9", "anchor_size=9 is above"),
        ("pretrained=x,attention=dense,blok_size=8", "unknown blok_size; there is pretrained"),
        ("pretrained=x,attention=dense,dtype=int8", "dtype='int8' must be one of bfloat16"),
        ("pretrained=x,attention=dense,cut=first", "cut='first' must be auto, line, or a number"),
        ("pretrained=x,attention=dense,cut=0", "cut=0 must be"),
        ("pretrained=x,attention=dense,max_length=0", "max_length=0 must be at least 1"),
        ("pretrained=x,attention=dense,batch_size=auto", "batch_size='auto' must be an integer"),
        ("pretrained=x,attention=dense,context=99", "context=99"),
        ("pretrained=x,attention=dense,enable_thinking=no", "enable_thinking='no' must be True"),
        ("pretrained=/nowhere,attention=dense,trust_remote_code=True", "/nowhere"),
        ("pretrained=/nowhere,attention=dense", "/nowhere"),
    ],
)
def test_model_args_that_cannot_be_are_refused_before_a_model_is_loaded(
    arguments: str, message: str
) -> None:
    with pytest.raises((ValueError, OSError)) as raised:
        StarJax.create_from_arg_string(arguments, {"batch_size": "1", "device": "cuda:0"})
    assert message in str(raised.value)


@pytest.mark.parametrize("value", [["x"], {"x": 1}, 1.5])
@pytest.mark.parametrize("name", ["attention", "dtype", "cut"])
def test_model_args_may_be_of_any_type(name: str, value: Any) -> None:
    """A dictionary of them, which the harness takes in Python and from a file, holds anything."""
    given = {"pretrained": "/nowhere", "attention": "dense", name: value}
    with pytest.raises(ValueError, match=re.escape(f"{name}={value} must be")):
        StarJax.create_from_arg_obj(given)


def test_a_continuation_that_is_too_long_is_refused_by_its_length() -> None:
    from lm_eval.api.instance import Instance

    ours = StarJax(Recorder(), directory=str(CHECKPOINT), max_length=8)
    request = Instance("loglikelihood", {}, ("What is blue?", " sky" * 99), 0)
    with pytest.raises(ValueError, match=r"a continuation has \d\d+ tokens, above max_length=8: "):
        ours.loglikelihood([request], disable_tqdm=True)


def test_the_command_says_what_is_wrong_in_one_line(here: pathlib.Path) -> None:
    result = commands.run(here, "star_jax.lm_eval", "run", "--config=nowhere.yaml")
    assert "nowhere.yaml" in result.error


def test_the_commands_help_tells_the_model_args(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["lm_eval", "--help"])
    with pytest.raises(SystemExit):
        command.main(["--help"])
    help = capsys.readouterr().out
    assert "Run the evaluation harness" in help
    for field in dataclasses.fields(Arguments):
        assert f"  {field.name}" in help or f", {field.name}" in help or f"--{field.name}" in help
    command.main(["--version"])
    assert capsys.readouterr().out == f"star_jax {star_jax.__version__}\n"


def test_without_the_harness_the_command_says_how_to_get_it(here: pathlib.Path) -> None:
    code = (
        "import importlib.util, runpy\n"
        "find = importlib.util.find_spec\n"
        "hide = lambda name, *a: None if name == 'lm_eval' else find(name, *a)\n"
        "importlib.util.find_spec = hide\n"
        "runpy.run_module('star_jax.lm_eval', run_name='__main__')\n"
    )
    result = commands.run(here, "", code=code)
    assert "pip install 'star-jax[lm_eval]'" in result.error
