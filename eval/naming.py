"""What a run says of itself in its manifest, for those who read its results.

Nothing of it is compared when a run goes on: it follows from the settings that are, or is a name.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from star_jax.eval.config import EvalConfig
from star_jax.eval.lists import items
from star_jax.eval.rows import SIZES, Row, fields, rows
from star_jax.eval.settings import AttentionConfig, CacheConfig
from star_jax.eval.suites import Cell


def about(config: EvalConfig, cells: Iterable[Cell]) -> dict[str, Any]:
    """The model's name, the rows with their sizes, and the cells with the settings of their rows.

    A setting is a row as the configuration has it, the same at every length: star b=L/4 a=b.
    """
    found: dict[str, Any] = {}
    told: list[dict[str, Any]] = []
    for cell in cells:
        for row in rows(config.attention, cell.whole, config.cache):
            found[row.name] = described(row)
        told.append(
            {
                "task": cell.task,
                "length": cell.length,
                "samples": len(cell.indices),
                "rows": settings(config.attention, cell.whole, config.cache),
            }
        )
    return {"model": model_name(config.model.path), "rows": found, "cells": told}


def model_name(path: str) -> str:
    """The last part of a checkpoint's path or hub id."""
    return os.path.basename(os.path.normpath(path))


def described(row: Row) -> dict[str, Any]:
    """A row's kind, whether it is exact attention, and its sizes and all."""
    attention = row.attention
    how: dict[str, Any] = {**attention.sizes, **attention.mending}
    if row.keep is not None:
        how |= dataclasses.asdict(row.keep)
    if row.cache_dtype is not None:
        how["cache"] = row.cache_dtype
    return {"kind": attention.name, "is_exact": row.is_exact, **how}


def settings(
    attention: AttentionConfig, length: int | None, cache: CacheConfig | None = None
) -> dict[str, list[str]]:
    """The settings that each row of `rows` comes from; two may come out the same at a length."""
    names = [name for name in dict.fromkeys(fields(attention)) if name in SIZES]
    texts = [items(f"attention.{name}", getattr(attention, name)) for name in names]
    found: dict[str, list[str]] = {row.name: [] for row in rows(attention, length, cache)}
    for combination in itertools.product(*texts):
        sizes = dict(zip(names, combination, strict=True))
        try:
            some = rows(dataclasses.replace(attention, **sizes), length, cache)
        except ValueError:  # nothing comes of these sizes alone; all of them were checked
            continue
        for row in some:
            setting = _setting(row, sizes)
            if setting not in found[row.name]:
                found[row.name].append(setting)
    return found


def _setting(row: Row, sizes: Mapping[str, str]) -> str:
    """A row's name with its sizes as they were given, if one of them is a part of the length."""
    words, has_part = row.name.split("_"), False
    for i, word in enumerate(words[1:], start=1):
        size = re.fullmatch(r"([a-z])([0-9]+)", word)
        text = next((t for n, t in sizes.items() if size and n[0] == size[1]), "")
        if text and not text.isdigit():
            words[i] = f"{word[0]}={text}"
            has_part |= "L" in text
        elif size:
            words[i] = f"{size[1]}={size[2]}"
    return " ".join(words) if has_part else row.name
