"""Where a prompt is cut in two: into the context of phase 1 and the query of phase 2.

The harness hands over one string. The question in it should see all of the context, and so belongs
into the query. It begins at the first of these places that leaves a query which is short:

1. what RULER's and other tasks ask with, or a line that begins with a label like `Question:`; of
   each such pattern, its last match;
2. the last line that is more than a cue for the answer. Cues are lines without a word, lines that
   end in a colon, an option of a choice like `(B) ...` or `- ...`, `Answer with ...`, and in a chat
   template all of the answer's turn: its header, and what the answer is made to begin with.

Where neither is short, the last `TAIL` tokens are the query. RULER's patterns: NOTICE.
"""

import re

MOST = 4000  # characters of a short query, which is also at most half of the text
TAIL = 64  # tokens

_QUESTIONS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"What (?:is|are all) the special magic",  # RULER
        r"Question: Find all variables that are assigned the value",
        r"Question: What are the 10 most common words in the above list\?",
        r"Question: Do not provide any explanation\.",
        r"Answer the question based on the given (?:documents|passages)\.",  # and LongBench
        r"^Which funtion has deliberate error\?",  # InfiniteBench spells it so
        r"^The following is an abstract\.|^下面是一个摘要",  # LongBench
        r"^What is the correct answer to this question:",  # LongBench v2
        r"^(?:Question|Query|Q|Dialogue|问题|新闻内容) ?[:\uff1a]",
    )
)
_CUE = re.compile(
    r"(?:\W*|.*[:\uff1a])\s*(?:<\S+>\w*|\[/\w+\])?"
    r"|(?:\([A-J]\)|[A-J][.):]|[-*\u2022]) .*"  # an option
    r"|Answer (?:with|by|in|using)\b.*"
)
_TAG = r"<[^<>\s]{1,40}>"
_ANSWERS_TURN = re.compile(
    rf"(?:{_TAG}\s*(?:assistant|model)\b(?:{_TAG})?|<[^<>\s]{{0,9}}assistant[^<>\s]{{0,9}}>|\[/INST\])"
    rf"(?:(?!{_TAG}|\[INST\]).){{0,{MOST}}}\Z",
    re.DOTALL,
)


def query_start(text: str, *, patterns: bool) -> int | None:
    """The index of the query's first character; None where no place leaves a short query.

    patterns: whether rule 1 applies.
    """
    matches = (list(question.finditer(text)) for question in _QUESTIONS if patterns)
    places = [found[-1].start() for found in matches if found]
    most = min(MOST, len(text) // 2)
    return next((at for at in (*places, _last_line(text)) if 0 < len(text) - at <= most), None)


def _last_line(text: str) -> int:
    """Where the last line begins that is more than a cue; 0 if there is none."""
    turn = _ANSWERS_TURN.search(text, max(len(text) - 2 * MOST, 0))
    end = len(text) if turn is None else turn.start()
    while end > 0:
        start = text.rfind("\n", 0, end) + 1
        if end - start > MOST or not _CUE.fullmatch(text[start:end].strip()):
            return start
        end = start - 1
    return 0
