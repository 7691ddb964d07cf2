"""InfiniteBench: books, dialogues, code, numbers and needles of 100K tokens and more.

Tasks, metrics and numbers of new tokens are those of InfiniteBench (Zhang et al., 2024, arXiv
2402.13718; github.com/OpenBMB/InfiniteBench, MIT). Its shorter prompts are used in the wording
that it has for open models, cut into context, question and the answer's first words; En.Dia,
Code.Debug, Code.Run and Math.Calc are asked in our own words. So scores are not comparable to
published ones to the digit.

On purpose different: of a context that is too long the middle is left out, and never of the
question; space at a question's end is dropped; questions about one context see the same part of
it, whichever is longest.
"""
