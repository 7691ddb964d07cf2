"""What is asked of cuDNN, and what is made of its answers.

cuDNN itself can be neither run nor compiled without a GPU: a stand-in with its conventions
answers here (causal from the top left, LSE as [B, N, T], NaN where there is no key), and
`benchmarks.attention` checks the real one before it times it.
"""

import dataclasses
import inspect

import jax.numpy as jnp
import pytest
from attention_cases import CASES, TOLERANCE, Case, check, make, make_gap, reference_of

from star_jax.attention import Segment, cudnn, device

MASKS = cudnn.fused.MaskType


def stand_in(q, k, v, *, q_seqlen, kv_seqlen, scale, mask_type, return_residual):
    padded = mask_type in (MASKS.PADDING, MASKS.PADDING_CAUSAL)
    assert return_residual and padded == (q_seqlen is not None) == (kv_seqlen is not None)
    if padded:
        assert q_seqlen.dtype == kv_seqlen.dtype == jnp.int32
        assert q_seqlen.tolist() == [q.shape[1]] * q.shape[0]
        assert kv_seqlen.min() >= 0 and kv_seqlen.max() <= k.shape[1]
    causal = mask_type in (MASKS.CAUSAL, MASKS.PADDING_CAUSAL)
    options = {"scale": scale, "soft_cap": None}
    part = reference_of({"q": q, "segments": [Segment(k, v, kv_seqlen, causal)]}, options)
    none = jnp.isneginf(part.lse)
    out = jnp.where(none[..., None], jnp.nan, part.out).astype(q.dtype)
    return out, jnp.where(none, jnp.nan, part.lse).transpose(0, 2, 1)


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    accepted = inspect.signature(cudnn.fused.dot_product_attention).parameters
    assert set(inspect.signature(stand_in).parameters) - {"q", "k", "v"} <= set(accepted)
    monkeypatch.setattr(cudnn.fused, "dot_product_attention", stand_in)
    monkeypatch.setattr(cudnn.fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(device, "only_on_cuda", lambda x, implementation: x)


RUNS = [c for c in CASES if c.offset is None and c.prefix != 0]


@pytest.mark.parametrize("case", RUNS, ids=[c.name.replace(" ", "-") for c in RUNS])
def test_segments_lengths_and_masks(case):
    arrays, options = make(dataclasses.replace(case, H=64), "bfloat16")
    actual = cudnn.attend(**arrays, **options)
    check(actual, reference_of(arrays, options), TOLERANCE["bfloat16"])


def test_an_lse_gap_of_200_between_segments():
    arrays, options = make_gap("bfloat16", H=64)
    check(cudnn.attend(**arrays, **options), reference_of(arrays, options), 1e-2)


def test_lengths_beyond_the_keys_are_not_passed_on():
    arrays, options = make(Case("", 5, 8, H=64, causal=False, length=(9, -1)), "bfloat16")
    actual = cudnn.attend(**arrays, **options)
    (own,) = arrays["segments"]
    arrays["segments"] = [dataclasses.replace(own, length=jnp.array([8, 0]))]
    check(actual, reference_of(arrays, options), 1e-2)
