"""RULER as two published sets of scripts make it: `data.compat` = ruler and star.

The wording, the distributions and the way to find a length are the scripts'. Their very samples
cannot be made again: the search for a length draws from the same random numbers as the samples.
See `scripts.Scripts` for what the two do, and `star_jax.eval.ruler.modes` for what differs still.
"""
