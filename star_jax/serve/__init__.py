"""The OpenAI protocol over an engine: `python -m star_jax.serve`."""
