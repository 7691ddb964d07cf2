"""What files and hashes know of the kinds of layer cache: their arrays, and what these are of.

An array's axes are letters: B rows, S keys, K heads, H features. Kinds that compress keys a group
at a time have G groups of S keys each.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.array_typing import Array
from star_jax.attention.compressed import DTYPES
from star_jax.cache.compressed import KINDS, Compressed
from star_jax.cache.layer import LayerCache, Plain


class Form(NamedTuple):
    """An array of a layer cache. dtype: its name; None: the model's."""

    axes: str
    dtype: str | None = None


def _in_8_bits(name: str) -> dict[str, Form]:
    small, scale = Form("BGSKH", np.dtype(DTYPES[name]).name), Form("BGSK")
    return {"k": small, "v": small, "k_scale": scale, "v_scale": scale, "feature": Form("BGKH")}


# By the kind, and the names of its arrays.
FORMS: dict[type[LayerCache], dict[str, Form]] = {
    Plain: {"k": Form("BSKH"), "v": Form("BSKH")},
    **{kind: _in_8_bits(name) for name, kind in KINDS.items()},
}


def arrays(layer: LayerCache) -> dict[str, Array | np.ndarray]:
    """The arrays of a layer, by the names that files have for them; on devices or the host."""
    return {name: getattr(layer, name) for name in FORMS[type(layer)]}


def by_key(layer: LayerCache) -> list[Array]:
    """All that a layer keeps of its keys, one after another: [B, S, K, some] each.

    Keys that were compressed together each have what they have in common. Inside a program.
    """
    if isinstance(layer, Plain):
        return [layer.k, layer.v]
    if not isinstance(layer, Compressed):
        raise NotImplementedError(f"the keys of a {type(layer).__name__}, one by one")
    feature = jnp.broadcast_to(layer.feature[:, :, None], layer.k.shape)
    scales = (layer.k_scale[..., None], layer.v_scale[..., None])
    return [jax.lax.collapse(x, 1, 3) for x in (layer.k, layer.v, *scales, feature)]


def keys(layer: LayerCache) -> int:
    """How many keys it has room for, on all devices together."""
    shape, axes = arrays(layer)["k"].shape, FORMS[type(layer)]["k"].axes
    return math.prod(shape[1 : axes.index("K")])
