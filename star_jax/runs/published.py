"""Lines of RULER's own scripts, which have one text: it is cut into context and query here.

A line is {"index", "input", "outputs", "length", "answer_prefix"?}; since 2025-05 what the answer
begins with stands in a field of its own, and before that at the end of the text. The query begins
where the last question begins: before it, context may have an example with its question.
"""

import re
from collections.abc import Mapping
from typing import Any

# How the question of each task begins, and then how its answer does: RULER's wording.
_TASKS = {
    "niah": (r"What (?:is|are all) the special magic", r"The special magic"),
    "vt": (r"Question: Find all variables that are assigned the value", r"Answer:"),
    "cwe": (r"Question: What are the 10 most common words in the above list\?", r"Answer:"),
    "fwe": (r"Question: Do not provide any explanation\.", r"Answer:"),
    "qa": (r"Answer the question based on the given documents\.", r"Answer:"),
}


def is_whole(fields: Mapping[str, Any]) -> bool:
    """Whether a line has one text, and is to be cut."""
    return "input_context" not in fields and "input" in fields


def cut(text: str, answer_prefix: str | None) -> tuple[str, str, str]:
    """Context, query and the answer's prefix.

    answer_prefix: None where the text has it.

    Raises:
      ValueError: no question of RULER's tasks is in it, or nothing stands before the question.
    """
    found = {task: list(re.finditer(question, text)) for task, (question, _) in _TASKS.items()}
    last = {matches[-1]: task for task, matches in found.items() if matches}
    if not last:
        raise ValueError(
            "'input' has no question of RULER's tasks, before which it could be cut: give "
            "'input_context' and 'input_query'"
        )
    match = max(last, key=lambda one: one.start())
    context, query = text[: match.start()], text[match.start() :]
    if not context.strip():
        raise ValueError("'input' has no context before its question")
    if answer_prefix is not None:
        return context, query, answer_prefix
    answer = re.compile(rf" ?{_TASKS[last[match]][1]}").search(text, match.end())
    if answer is None:
        return context, query, ""
    return context, text[match.start() : answer.start()], text[answer.start() :]
