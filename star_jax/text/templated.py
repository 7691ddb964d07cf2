"""The methods of a tokenizer that put texts into the model's chat template."""

from typing import Any

from star_jax.text import chat, dialogue
from star_jax.text.prompt import Prompt, Text

# What is no str, or no messages, is refused by name, and not by its annotation.
Str = Any
Messages = Any


class Templated:
    """Texts in the chat template of a tokenizer."""

    _names: dict[str, str]  # tokens that have a role: `bos_token` and so on
    _chat_template: str | None
    _contents: frozenset[str]  # special tokens, which users cannot spell

    @property
    def has_chat_template(self) -> bool:
        return bool(self._chat_template)

    def chat(
        self,
        context: Str,
        query: Str,
        *,
        answer_prefix: Text = "",
        system: Str | None = None,
        date_string: Str | None = None,
    ) -> tuple[Prompt, Prompt]:
        """Context and query as one message in the model's chat template, cut between them.

        The template's special tokens are special; what the texts spell is not. Templates like
        Llama 3.1's show a date: `date_string`, or else today.

        Returns:
          What is to be encoded as context, and as query: this ends with the header of the
          assistant's answer and with `answer_prefix`, with which the answer begins. Together
          they are the template, rendered whole.

        Raises:
          ValueError: there is no template, it refuses a system message, does not show a user's
            message as it is, or is stopped: it runs for seconds, or makes text without end.
        """
        texts = {"context": context, "query": query, "system": system, "date_string": date_string}
        for name, text in texts.items():
            if not isinstance(text, str) and (text is not None or name in ("context", "query")):
                raise ValueError(f"chat takes {name} as one text (str), not {type(text).__name__}")
            Prompt.of(text or "", f"chat({name}=...)")
        prefix = Prompt.of(answer_prefix, "chat(answer_prefix=...)")
        before, after = chat.cut(
            self._chat_template,
            context,
            query,
            system=system,
            variables=self._names | ({} if date_string is None else {"date_string": date_string}),
            special=self._contents,
        )
        return before, after + prefix

    def dialogue(
        self, messages: Messages, *, system: Str | None = None, **variables: Any
    ) -> Prompt:
        """A whole dialogue in the model's chat template, up to the header of the next answer.

        The template's special tokens are special; what the messages spell is not.

        Args:
          messages: a list of {"role": "system", "user" or "assistant", "content": a text}.
          system: the system message, where the messages have none.
          variables: what else the template reads, like `date_string` or `enable_thinking`.

        Raises:
          ValueError: these are no messages, there is no template, it refuses them, or it changes
            (space around them aside), drops or repeats a message, which is named by its number;
            or a variable spells a special token.
        """
        whole = dialogue.check(messages, system)
        return dialogue.render(self._chat_template, whole, self._given(variables))

    def turn(self, query: Str, *, system: Str | None = None, **variables: Any) -> Prompt:
        """What the template puts behind an answer, if a user asks `query` next.

        It is the end of the answer's turn, the next question, and the header of its answer. With
        it, a dialogue goes on where an answer has ended: its tokens stay as they were generated,
        and only what is new is encoded. `dialogue(...) + answer + turn(query)` is what `dialogue`
        makes of all messages, unless the template rewrites what was said before.

        Raises:
          ValueError: see `dialogue`.
        """
        Prompt.of(query, "turn")
        return dialogue.turn(
            self._chat_template, query, system=system, variables=self._given(variables)
        )

    def _given(self, variables: dict[str, Any]) -> dict[str, Any]:
        dialogue.check_variables(variables, names=self._names, special=self._contents)
        return self._names | variables
