"""What an evaluation is going to do: a configuration, checked against all that it names."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from star_jax import attention, checkpoint, models
from star_jax import engine as engine_lib
from star_jax.eval import config as config_lib
from star_jax.eval import metrics, naming, prepared
from star_jax.eval.config import EvalConfig
from star_jax.eval.lists import items
from star_jax.eval.rows import MODELS_OWN, fields, rows, rows_at
from star_jax.eval.suites import SUITES, Cell, jsonl
from star_jax.runs import devices, hashes, limits
from star_jax.runs.drawing import stop_words
from star_jax.runs.metrics import MATCH_ALL
from star_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Plan:
    """A configuration that has been checked, and what was found on the way."""

    config: EvalConfig
    mesh: Mesh
    directory: str  # of the checkpoint
    implementation: str
    tokenizer: Tokenizer
    cells: Sequence[Cell]
    settings: Mapping[str, Any]  # all that the results depend on
    about: Mapping[str, Any]  # what else the manifest says

    @property
    def num_samples(self) -> int:
        return max(len(cell.indices) for cell in self.cells)

    @property
    def manifest(self) -> str:
        return os.path.join(self.config.output_dir, "manifest.json")


def make(config: EvalConfig) -> Plan:
    """Looks for everything that can be wrong. Where there are several processes, they meet here.

    Raises:
      ValueError, NotImplementedError, OSError: what is wrong.
    """
    mesh = devices.make_mesh(config.mesh, prefix="mesh.")
    asked = config.attention.implementation or None
    attention.resolve(asked, mesh)  # before anything is fetched
    directory = checkpoint.resolve(config.model.path)
    model = models.read(directory)
    suite = SUITES[config.data.suite]
    for row in rows_at(config.attention, suite.lengths(config.data)[0], config.cache):
        implementation = engine_lib.check(
            mesh,
            row.attention,
            asked,
            config=model,
            dtype=config.model.dtype,
            keep=row.keep,
            cache_dtype=row.cache_dtype,
        )
    tokenizer = Tokenizer.from_pretrained(directory)
    if tokenizer is None:
        raise ValueError(f"{config.model.path} has no tokenizer files, and questions are text")
    for length in suite.lengths(config.data):
        limits.check_tokens("data.lengths", length or 0, positions=model.max_position_embeddings)
    limits.check_tokens(
        "generation.max_new_tokens",
        config.generation.max_new_tokens,
        positions=model.max_position_embeddings,
    )
    cells = prepared.attached(suite.cells(config, tokenizer), config, tokenizer)
    settings = _settings(config, directory, mesh, implementation) | _of_ruler(config, cells)
    about = naming.about(config, cells)
    plan = Plan(config, mesh, directory, implementation, tokenizer, cells, settings, about)
    limits.check_batch("data.batch_size", config_lib.batch_size(config), questions=plan.num_samples)
    return plan


def _of_ruler(config: EvalConfig, cells: Sequence[Cell]) -> dict[str, Any]:
    """How files of RULER's tasks are asked and scored: the configuration need not say it."""
    found = {
        f"{cell.task}@{cell.length}": [cell.metric.name, cell.max_new_tokens]
        for cell in cells
        if config.data.suite == "jsonl" and jsonl.is_rulers(config.data, cell.task)
    }
    return {"metric and tokens": found} if found else {}


def driving(plan: Plan) -> dict[str, Any]:
    """All that the course of a run depends on, in order: several processes must agree on it.

    Paths are left out: what they lead to counts.
    """
    config = plan.config
    cells = [
        (cell.task, cell.length, cell.whole, list(cell.indices), cell.max_new_tokens)
        for cell in plan.cells
    ]
    return {
        **plan.settings,
        "attention": [
            [repr(row) for row in rows(config.attention, cell.whole, config.cache)]
            for cell in plan.cells
        ],
        "cells": hashlib.blake2b(repr(cells).encode(), digest_size=8).hexdigest(),
        "data.num_samples": plan.num_samples,
        "data.batch_size": config_lib.batch_size(config),
        "profile_dir (whether there is one)": bool(config.profile_dir),
    }


def _settings(
    config: EvalConfig, directory: str, mesh: Mesh, implementation: str
) -> dict[str, Any]:
    """All that the results depend on, as flat fields; the order of lists does not count."""
    suite, metric = SUITES[config.data.suite], metrics.named(config.data.metric)
    sizes = {
        f"attention.{name}": sorted(items(f"attention.{name}", getattr(config.attention, name)))
        for name in fields(config.attention)
    }
    shares = sorted({f"{float(text):g}" for text in items("cache.keep", config.cache.keep)})
    kept = {
        "cache.keep": shares,
        "cache.criterion": sorted(items("cache.criterion", config.cache.criterion)),
    }
    caches = sorted(items("cache.dtype", config.cache.dtype))
    return {
        "model.files": hashes.of_checkpoint(directory),
        "model.dtype": config.model.dtype,
        "attention.kind": sorted(items("attention.kind", config.attention.kind)),
        **sizes,
        "attention.implementation": implementation,
        # Runs that were begun before there was such a setting go on.
        **({} if shares == ["1"] else kept),
        **({} if caches == [MODELS_OWN] else {"cache.dtype": caches}),
        **{f"mesh.{name}": size for name, size in mesh.shape.items()},
        "mesh.device": mesh.devices.flat[0].device_kind,
        "data.suite": config.data.suite,
        "data.lengths": sorted(length or 0 for length in suite.lengths(config.data)),
        "data.template": config.data.template,
        **suite.settings(config.data),
        **({} if metric is MATCH_ALL else {"data.metric": metric.name}),
        **{f"generation.{k}": v for k, v in dataclasses.asdict(config.generation).items()},
        "generation.stop": stop_words(config.generation.stop),
        "jax": jax.__version__,
    }
