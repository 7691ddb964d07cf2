"""Which tokens of a prompt are its context, and which its query.

The rule looks at the length of the prompt alone, and never at what is stored: an answer does not
depend on what was asked before, or on what is asked beside it.

A short prompt is all query. Of a long one, the context is as many whole units of `query` tokens as
leave at least `query` tokens for the query. So two prompts that begin with the same document, and
end in questions of fewer than `query` tokens, have contexts that hold nothing of the questions,
and differ in whole units, if at all: the second finds the first one's.

A query attends to everything exactly. Star Attention approximates only within the context.
"""

SHORT = 4  # times the tokens of a query


def context_tokens(length: int, *, query: int) -> int:
    """How many of a prompt's `length` tokens are its context; 0 for a short prompt.

    query: the least number of tokens at the end that are asked exactly, and the unit of contexts.
    """
    return 0 if length < SHORT * query else (length - query) // query * query
