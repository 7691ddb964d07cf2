"""The programs of a model on eight compile-only GPUs: lowered, to be compiled or counted."""

import dataclasses

import aot
import published
from jax.sharding import Mesh, PartitionSpec

import star_jax
from star_jax import models
from star_jax.attention import compressed as eight_bits
from star_jax.cache import compressed
from star_jax.cache.layer import LayerCache, Plain
from star_jax.cache.sharded import KV, Cache
from star_jax.generate import attention as phase2
from star_jax.generate import compiled, sampling
from star_jax.models import DecoderConfig
from star_jax.prefill import exact, waves
from star_jax.runtime import mesh as mesh_lib
from star_jax.runtime.placement import placement_of
from star_jax.runtime.runtime import Runtime

DEVICES = 8
DTYPE = "bfloat16"


def layer_elements(config) -> int:
    """Weights of one layer."""
    D, N, K = config.hidden_size, config.num_heads, config.num_kv_heads
    return D * (2 * N + 2 * K) * config.head_dim + 3 * D * config.intermediate_size


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A model of real width and a few layers, its block, and how many waves its cache holds.

    Of the devices, `tensor` share each weight; the others are on the context axis.
    """

    layers: int
    block: int = 16384
    waves: int = 1
    query: int = 64
    new: int = 128
    tensor: int = 1
    samples: int = 1
    model: str = "Llama-3.1-8B"

    @property
    def config(self) -> DecoderConfig:
        whole = models.from_dict(published.CONFIGS[self.model])
        return dataclasses.replace(whole, num_layers=self.layers)


class WithWindows(Shapes):
    """Three layers: the first and the last have a window, the one between sees everything."""

    @property
    def config(self) -> DecoderConfig:
        return dataclasses.replace(super().config, windowed=frozenset({0, 2}))


GEMMA = WithWindows(layers=3, waves=4, model="gemma-3-27b-it")


class Programs:
    """Each property is a traced program, as the engine would run it."""

    def __init__(
        self,
        shapes: Shapes,
        kind: str = "h200",
        sampling: star_jax.Sampling = sampling.GREEDY,
        implementation: str = "xla",
        rules: waves.Rules | None = None,
        layer_cache: type[LayerCache] = Plain,
    ):
        self.shapes, self.config = shapes, shapes.config
        self.context = DEVICES // shapes.tensor
        self.mesh: Mesh = aot.gpu_mesh(kind, context=self.context, tensor=shapes.tensor)
        self.model = models.build(self.config, self._weight)
        self._runtime = Runtime(self.config, self.mesh, implementation, layer_cache)
        self.rules = waves.Rules(shapes.block) if rules is None else rules
        self._star = waves.programs(self._runtime, self.rules)
        self._sampling = sampling
        self._query = compiled.programs(self._runtime, sampling.mode)

    def first_wave(self):
        return self._star[0].trace(self.model, *self._wave())

    def later_wave(self):
        rules, anchors, tails = self.rules, {}, {}
        for spec in self.config.layers:
            seen = rules.halo if spec.window is None else spec.reach
            if seen:
                tails[spec.index] = self._pair(self.context * seen, mesh_lib.CACHE)
            if spec.window is None:
                anchors[spec.index] = self._pair(rules.anchor, mesh_lib.TAIL)
        cache = None if rules.correction is None else self._cache()
        before = waves.Before(anchors, tails, cache)
        return self._star[1].trace(self.model, *self._wave(), before)

    def dense(self):
        return self._exact(star_jax.Dense())

    def ring(self):
        return self._exact(star_jax.Ring())

    def ulysses(self):
        return self._exact(star_jax.Ulysses())

    def streaming(self):
        return self._exact(star_jax.Streaming(sinks=1000, window=8000))

    def _exact(self, attention):
        tokens = self._array((1, self.context * self.shapes.block), mesh_lib.BLOCKS)
        program = exact.program(self._runtime, attention)
        return program.trace(self.model, tokens, tokens)

    def ask(self):
        return self._query.ask.trace(
            self.model,
            self._cache(),
            self._question(),
            self._how(),
            self._seen(),
            self._ends(),
        )

    def hidden(self):
        return self._query.hidden.trace(self.model, self._cache(), self._question())

    def logits(self):
        shape = (1, self.shapes.query, self.config.hidden_size)
        hidden = self._array(shape, PartitionSpec(mesh_lib.DATA, None, None), DTYPE)
        return self._query.logits.trace(self.model, hidden, self._array((), mesh_lib.WHOLE))

    def decode(self):
        recent = {
            spec.index: self._pair(spec.reach, mesh_lib.TAIL)
            for spec in self.config.layers
            if spec.window is not None
        }
        query = self._kv(self.shapes.query, mesh_lib.TAIL)
        tail = phase2.Tail(query, self._row(), self._row(), recent)
        state = compiled.Decoding(
            generated=self._kv(self.shapes.new, mesh_lib.TAIL, rows=self.shapes.samples),
            token=self._samples(),
            step=self._array((), mesh_lib.WHOLE),
            done=self._array((self.shapes.samples,), mesh_lib.ROWS, "bool"),
            seen=self._seen(),
        )
        return self._query.decode.trace(
            self.model, self._cache(), tail, state, self._how(), self._ends()
        )

    def _question(self):
        tokens = self._array((1, self.shapes.query), mesh_lib.QUERY)
        return compiled.Question(tokens, self._row(), self._row())

    def _ends(self):
        return compiled.Ends(self._array((2 + 3,), mesh_lib.WHOLE))

    def _weight(self, name, shape, axes):
        sharding, repeat = placement_of(shape, axes, self.mesh)
        return self._array((shape[0] * repeat, *shape[1:]), sharding.spec, DTYPE)

    def _array(self, shape, spec, dtype="int32"):
        return aot.abstract(shape, dtype, self.mesh, spec)

    def _row(self):
        return self._array((1,), mesh_lib.ROWS)

    def _samples(self):
        return self._array((self.shapes.samples,), mesh_lib.ROWS)

    def _how(self):
        numbers = self._array((5,), mesh_lib.WHOLE, "float32")
        keys = self._array((self.shapes.samples, 5), mesh_lib.QUERY, "uint32")
        return sampling.SamplingArrays(numbers, keys)

    def _seen(self):
        penalises = self._sampling.mode.penalises
        columns = self.config.vocab_size if penalises else 0
        return self._array((self.shapes.samples, columns), mesh_lib.QUERY, "bool")

    def _wave(self):
        tokens = self._array((1, self.context * self.shapes.block), mesh_lib.BLOCKS)
        return tokens, self._array((1, self.context), mesh_lib.BLOCKS)

    def _pair(self, length, spec, rows=1):
        shape = (rows, length, self.config.num_kv_heads, self.config.head_dim)
        layer = self._array(shape, spec, DTYPE)
        return layer, layer

    def _kv(self, length, spec, rows=1):
        k, v = self._pair(length, spec, rows)
        return KV((k,) * self.config.num_layers, (v,) * self.config.num_layers)

    def _cache(self):
        length = self.context * self.shapes.block * self.shapes.waves
        kv = self._kv(length, mesh_lib.CACHE)
        layers: tuple[LayerCache, ...] = tuple(Plain(k, v) for k, v in zip(*kv, strict=True))
        if self._runtime.layer_cache is not Plain:
            layers = (self._compressed(),) * self.config.num_layers
        last = None
        if self.config.window is not None:
            last = self._array((1, self.context, self.config.reach), mesh_lib.PLACES)
        return Cache(layers, self._array((1, self.context), mesh_lib.BLOCKS), last=last)

    def _compressed(self) -> LayerCache:
        """What a layer keeps, whose kind is one of numbers in 8 bits."""
        waves, heads = self.context * self.shapes.waves, self.config.num_kv_heads
        scales = (1, waves, self.shapes.block, heads)
        features = (1, waves, heads, self.config.head_dim)
        kind = self._runtime.layer_cache
        shapes = kind(*((*scales, features[-1]),) * 2, scales, scales, features)
        small = eight_bits.DTYPES[str(compressed.dtype_of(kind))]
        dtypes = kind(small, small, DTYPE, DTYPE, DTYPE)
        return kind(*map(self._array, shapes, kind.layout(), dtypes))
