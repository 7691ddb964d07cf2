"""One attention function, and the table of its implementations."""

from collections.abc import Callable

from jax.sharding import Mesh

from star_jax.array_typing import Keys, PerRow, PrefixKeys, PrefixValues, Queries, Values
from star_jax.attention import reference, xla
from star_jax.attention.partial import Partial

IMPLEMENTATIONS: dict[str, Callable[..., Partial]] = {
    "reference": reference.partial_attention,
    "xla": xla.partial_attention,
}


def resolve(implementation: str | None, mesh: Mesh) -> str:
    """The implementation to use on the devices of `mesh`; None picks the best one there is.

    A named one is never replaced by another.
    """
    if implementation is None:
        return "xla"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{implementation=} is not one of {sorted(IMPLEMENTATIONS)}")
    return implementation


def partial_attention(
    q: Queries,
    k: Keys,
    v: Values,
    *,
    causal: bool,
    q_offset: PerRow | None = None,
    kv_length: PerRow | None = None,
    prefix_k: PrefixKeys | None = None,
    prefix_v: PrefixValues | None = None,
    prefix_length: PerRow | None = None,
    scale: float,
    implementation: str,
) -> Partial:
    """Attention of q over the keys [prefix | k], as a partial.

    Args:
      q: [B, T, N, H]; N is a multiple of the number K of key/value heads.
      k, v: [B, S, K, H].
      causal: query i sees key j of `k` only if j <= i + q_offset. The prefix is not causal.
      q_offset: [B], in keys; 0 if None.
      kv_length: [B], how many keys of `k` are valid; all if None.
      prefix_k, prefix_v: [B, S', K, H], a second segment, read where it lies; or None.
      prefix_length: [B], how many keys of the prefix are valid; all if None.
      scale: what scores are multiplied with.
      implementation: a name from `IMPLEMENTATIONS`; see `resolve`.

    Returns:
      `Partial` in float32. A query that sees no key gets (0, -inf).
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{implementation=} is not one of {sorted(IMPLEMENTATIONS)}")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads are not a multiple of {k.shape[2]} key heads")
    if (prefix_k is None) != (prefix_v is None):
        raise ValueError("prefix_k and prefix_v come together or not at all")
    if prefix_k is None and prefix_length is not None:
        raise ValueError("prefix_length without a prefix")
    return IMPLEMENTATIONS[implementation](
        q,
        k,
        v,
        causal=causal,
        q_offset=q_offset,
        kv_length=kv_length,
        prefix_k=prefix_k,
        prefix_v=prefix_v,
        prefix_length=prefix_length,
        scale=scale,
    )
