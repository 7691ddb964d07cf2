"""What is kept of a context: a layer's cache, which device holds which token, and what it is of."""

from star_jax.cache.context import Context, ContextBatch
from star_jax.cache.layer import LayerCache, Plain
from star_jax.cache.sharded import Cache, Shards

__all__ = ["Cache", "Context", "ContextBatch", "LayerCache", "Plain", "Shards"]
