"""The letters of array axes, declared once, and names for the shapes that recur.

    B  batch                      D  model width (hidden size)
    T  query length               F  feed-forward width
    S  key length                 V  vocabulary
    N  query heads                H  head dimension
    K  key/value heads            C  devices on the mesh axis `context`
    R  rows that are generated: one or more samples for each of the batch
    E  experts                    X  experts that a token is sent to

`G = N / K` query heads share one key/value head. Inside `shard_map` the letters mean
the sizes on one device.
"""

from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

Tokens = Int[Array, "B T"]
Positions = Int[Array, "B T"]
Hidden = Float[Array, "B T D"]
Queries = Float[Array, "B T N H"]
Keys = Float[Array, "B S K H"]
Values = Float[Array, "B S K H"]
Out = Float[Array, "B T N H"]
LogSumExp = Float[Array, "B T N"]
Logits = Float[Array, "B T V"]
PerRow = Int[Array, "B"]
PerSample = Int[Array, "R"]

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Hidden",
    "Int",
    "Keys",
    "LogSumExp",
    "Logits",
    "Out",
    "PerRow",
    "PerSample",
    "Positions",
    "Queries",
    "Tokens",
    "UInt32",
    "Values",
]
