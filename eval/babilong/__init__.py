"""BABILong: facts of the bAbI tasks among the sentences of a long text, and a question.

BABILong (Kuratov et al., 2024, arXiv 2406.10149; github.com/booydar/babilong, Apache-2.0) hides
bAbI's facts (Weston et al., 2015, arXiv 1502.05698; BSD) in books. Tasks, layout of the prompt
and comparison of answers are its own. Instructions and examples are written here, so scores are
not comparable to published ones to the digit; prepared files have the published ones.
"""
