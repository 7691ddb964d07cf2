"""The model `star_jax` of lm-evaluation-harness: its requests, answered in two phases.

Token ids are those of the whole string, tokenised once; special tokens that it spells are those
tokens. The harness's Hugging Face adapter has the same, so with exact attention all numbers are
that adapter's, wherever `cut` cuts a prompt in two. Requests on one context are asked together, and
it is encoded once. Conventions are the harness's:

- Likelihoods are sums over the tokens that a continuation adds to its context. Spaces at the
  context's end count as the continuation's; an empty context is BOS. Greedy: each token is the
  likeliest. The cut lies within the context, so that its last token is part of the query.
- Rolling: a document falls into windows of `max_length` tokens behind BOS or the token before; the
  last reaches back to be as long. Each token is given all before it in its window; of these,
  phase 1 has encoded all up to the last multiple of 1024.
- Generating: a prompt that leaves no room for the answer in `max_length` loses its beginning. An
  answer keeps the space before its first word, which SentencePiece's tokenizers lose over there.
"""

import dataclasses
import functools
import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jinja2
import lm_eval.models  # the harness registers its own only where it finds none
import lm_eval.utils
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from scipy.special import log_softmax
from tqdm import tqdm

from star_jax.cache.context import ContextBatch
from star_jax.engine import Engine
from star_jax.lm_eval.arguments import Arguments, check_requests
from star_jax.lm_eval.cut import TAIL, query_start
from star_jax.lm_eval.generation import MAX_GEN_TOKS, Generation, defaults_of
from star_jax.runtime import mesh as mesh_lib
from star_jax.sizes import shown
from star_jax.text.prompt import Prompt

AT_ONCE = 32  # questions of one context
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Question:
    """A context and a query, as bytes of int32 ids, and the requests that they answer."""

    context: bytes
    query: bytes
    requests: list[int]


@register_model("star_jax")
class StarJax(TemplateLM):
    """An engine behind the harness's interface."""

    def __init__(
        self,
        engine: Engine,
        *,
        directory: str,
        batch_size: Any = 1,
        max_length: Any = None,
        cut: Any = "auto",
        enable_thinking: Any = None,
    ):
        """Wraps an engine; the harness makes one of --model_args, by `create_from_arg_obj`.

        directory: of the checkpoint, where its chat template is. The others: see the command's
          help.
        """
        super().__init__()
        check_requests(batch_size, max_length, cut)
        self.engine, self.directory, self.cut = engine, directory, cut
        self.template_args = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self.batch_size = max(batch_size, engine.mesh.shape[mesh_lib.DATA])
        self.max_length = max_length or engine.config.max_position_embeddings
        self.max_gen_toks = MAX_GEN_TOKS

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "StarJax":
        given = lm_eval.utils.simple_parse_args_string(arg_string)
        return cls.create_from_arg_obj(given, additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "StarJax":
        """Of the command's other settings, only --batch_size counts: a text, or None."""
        size = (additional_config or {}).get("batch_size") or 1
        size = int(size) if isinstance(size, str) and size.isdecimal() else size
        # The harness adds trust_remote_code for its data sets; a checkpoint's code is never run.
        told = {name: value for name, value in arg_dict.items() if name != "trust_remote_code"}
        given = Arguments.of({"batch_size": size, **told})
        engine, directory = given.load()
        names = ("batch_size", "max_length", "cut", "enable_thinking")
        return cls(engine, directory=directory, **{name: getattr(given, name) for name in names})

    @property
    def eot_token_id(self) -> int:
        found = self.engine.tokenizer.eos_token_id
        return self.engine.eos_token_ids[0] if found is None else found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        found = self.engine.tokenizer.bos_token_id
        return self.eot_token_id if found is None else found

    @property
    def tokenizer_name(self) -> str:
        return self.directory.replace("/", "__")

    @functools.cached_property
    def tokenizer(self) -> Any:
        """That of `transformers`, for its chat template alone."""
        from transformers import AutoTokenizer  # slow to import

        return AutoTokenizer.from_pretrained(self.directory, local_files_only=True)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a dialogue; without its system message where the template refuses one."""
        how = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
            **self.template_args,
        }
        turns = chat_history
        while True:
            try:
                return self.tokenizer.apply_chat_template(turns, **how)
            except jinja2.exceptions.TemplateError as e:
                fewer = [turn for turn in turns if turn["role"] != "system"]
                if len(fewer) == len(turns):
                    raise ValueError(f"the chat template refuses a prompt: {e}") from e
                _log.warning("the chat template refuses a system message, so none is said: %s", e)
                turns = fewer

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        text, tokenizer = Prompt.template(string), self.engine.tokenizer
        added = tokenizer.count_added(text) if add_special_tokens is False else 0
        return tokenizer.encode_context(text)[added:]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        questions: dict[tuple[bytes, bytes], Question] = {}
        for i, ((prompt, continuation), before, after) in enumerate(requests):
            if not after:
                raise ValueError(f"{continuation=} has no tokens whose likelihood there could be")
            if len(after) > self.max_length:
                raise ValueError(
                    f"a continuation has {len(after)} tokens, above max_length={self.max_length}: "
                    f"it begins with {shown(continuation)}"
                )
            ids = [*(before or [self.prefix_token_id]), *after][:-1]
            start = self._start(prompt.rstrip(), len(before))
            halves = self._cut(ids, start, room=self.max_length, least=len(after))
            questions.setdefault(halves, Question(*halves, [])).requests.append(i)
        found: dict[int, tuple[float, bool]] = {}
        for context, rows in self._asked([*questions.values()], "loglikelihood", disable_tqdm):
            last = max(len(requests[i][2]) for question in _flat(rows) for i in question.requests)
            logits = self.engine.score(context, _queries(rows), last=last)
            for question, one in zip(_flat(rows), _flat(logits), strict=True):
                for i in question.requests:
                    found[i] = _likelihood(one, requests[i][2])
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
        return [found[i] for i in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        windows: list[tuple[int, list[int], int]] = []  # request, ids, how many are scored
        for i, request in enumerate(requests):
            for before, after in lm_eval.utils.get_rolling_token_windows(
                self.tok_encode(*request.args), self.prefix_token_id, self.max_length, context_len=1
            ):
                windows.append((i, [*before, after[-1]], len(after)))
        found = [0.0] * len(requests)
        with tqdm(total=len(windows), desc="rolling", disable=disable_tqdm) as progress:
            for first in range(0, len(windows), self.batch_size):
                some = windows[first : first + self.batch_size]
                with warnings.catch_warnings():  # a window's last token is not asked about
                    warnings.filterwarnings("ignore", "star_jax: a context of .* is beyond")
                    scores = self.engine.score_document([ids for _, ids, _ in some])
                for (i, _, count), one in zip(some, scores, strict=True):
                    found[i] += float(one.logprobs[-count:].sum(dtype=np.float64))
                progress.update(len(some))
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What is drawn follows from --seed, and from a request's place among the others."""
        seeds = np.random.randint(2**32, size=len(requests), dtype=np.uint64).tolist()
        eos = self.engine.tokenizer.decode([self.eot_token_id])
        defaults = defaults_of(self.directory)
        questions: dict[Generation, list[Question]] = {}
        for i, (prompt, given) in enumerate(request.args for request in requests):
            how = Generation.of(given, eos=eos, defaults=defaults)
            if (room := self.max_length - how.max_new_tokens) < 1:
                raise ValueError(
                    f"{given=} leaves no room for a prompt in {self.max_length} tokens"
                )
            ids = self.tok_encode(prompt) or [self.prefix_token_id]
            halves = self._cut(ids, self._start(prompt, len(ids)), room=room, least=0)
            questions.setdefault(how, []).append(Question(*halves, [i]))
        found: dict[int, str] = {}
        for how, some in questions.items():
            for context, rows in self._asked(some, "generate", disable_tqdm):
                order = [i for question in _flat(rows) for i in question.requests]
                seed = tuple(seeds[i] for i in order)
                answers = self.engine.generate(
                    context,
                    _queries(rows),
                    max_new_tokens=how.max_new_tokens,
                    stop=how.stop,
                    sampling=dataclasses.replace(how.sampling, seed=seed),
                )
                for i, answer in zip(order, _flat(answers), strict=True):
                    found[i] = answer.text or ""
                    self.cache_hook.add_partial("generate_until", requests[i].args, found[i])
        return [found[i] for i in range(len(requests))]

    def _start(self, text: str, count: int) -> int:
        """Which of a text's `count` tokens is the query's first."""
        if isinstance(self.cut, int):
            return count - self.cut
        at = query_start(text, patterns=self.cut == "auto")
        behind = [] if at is None else [(at, len(text))]
        spans = self.engine.tokenizer.spans(Prompt.template(text), behind)
        return spans[0][0] if spans else count - TAIL

    def _cut(self, ids: list[int], start: int, *, room: int, least: int) -> tuple[bytes, bytes]:
        """The last `room` tokens, cut in two before token `start` of all.

        The query gets `least` tokens at least; and the context one, if there is one for it.
        """
        if (dropped := max(len(ids) - room, 0)) > 0:
            _log.warning("a request is too long: its first %d tokens are dropped", dropped)
        kept = np.asarray(ids[dropped:], np.int32)
        start = min(max(start - dropped, 1), max(len(kept) - least, 0))
        return kept[:start].tobytes(), kept[start:].tobytes()

    def _asked(
        self, questions: Sequence[Question], doing: str, quiet: bool
    ) -> Iterator[tuple[ContextBatch, list[list[Question]]]]:
        """Contexts, each encoded once, with what is to be asked of each."""
        of_context: dict[bytes, list[Question]] = {}
        for question in questions:
            of_context.setdefault(question.context, []).append(question)
        few = [c for c, row in of_context.items() if c and len(row) <= AT_ONCE]
        batches = [few[i : i + self.batch_size] for i in range(0, len(few), self.batch_size)]
        batches += [[c] for c, row in of_context.items() if not c or len(row) > AT_ONCE]
        with tqdm(total=len(questions), desc=doing, disable=quiet) as progress:
            for batch in batches:
                of_batch = [of_context[c] for c in batch]
                if batch == [b""]:  # a query that begins the text sees itself alone
                    context = self.engine.prefill([[self.prefix_token_id]]).cut(0)
                else:
                    context = self.engine.prefill([_ids(c) for c in batch])
                for first in range(0, max(map(len, of_batch)), AT_ONCE):
                    rows = [row[first : first + AT_ONCE] for row in of_batch]
                    yield context, rows
                    progress.update(sum(map(len, rows)))


def _ids(data: bytes) -> list[int]:
    return np.frombuffer(data, np.int32).tolist()


def _queries(rows: list[list[Question]]) -> list[list[list[int]]]:
    return [[_ids(question.query) for question in row] for row in rows]


def _flat(rows: Iterable[Iterable[Any]]) -> Iterator[Any]:
    return itertools.chain.from_iterable(rows)


def _likelihood(logits: np.ndarray, ids: Sequence[int]) -> tuple[float, bool]:
    """How likely these tokens are after the last logits, and whether each is the likeliest."""
    last = logits[-len(ids) :].astype(np.float64)
    logprobs = log_softmax(last, axis=-1)[np.arange(len(ids)), ids]
    return float(logprobs.sum()), bool((last.argmax(-1) == np.asarray(ids)).all())
