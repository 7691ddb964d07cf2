"""A plot of what is left of star's loss, as an SVG file: a bar for each setting and length."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_TEXT, _BAR, _ROOM = 470, 300, 76  # pixels: names, 100%, and numbers behind the bars
_LINE, _HEAD = 20, 34
_COLOURS = ("#4c78a8", "#f58518", "#54a24b")  # of lengths


def svg(results: Sequence[Mapping[str, Any]], *, measure: str) -> str:
    """Bars of what is left of the loss in `measure`, in percent; plain star is 100."""
    lengths = sorted({one["length"] for one in results})
    won = {(one["setting"], one["length"]): one.get(f"won_{measure}") for one in results}
    settings = list(dict.fromkeys(s for (s, _), share in won.items() if share is not None))
    height = _HEAD + _LINE * len(lengths) * len(settings) + 8 * len(settings)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_TEXT + _BAR + _ROOM}" '
        f'height="{height}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_TEXT}" y="18">what is left of star\'s loss ({escape(measure)}), %</text>',
    ]
    y = _HEAD
    for setting in settings:
        parts.append(
            f'<text x="{_TEXT - 8}" y="{y + 14}" text-anchor="end">{escape(setting)}</text>'
        )
        for length, colour in zip(lengths, itertools.cycle(_COLOURS), strict=False):
            share = won.get((setting, length))
            if share is None:
                continue
            left = max(100 - share[0], 0)
            width = round(_BAR * min(left, 120) / 120)
            parts.append(
                f'<rect x="{_TEXT}" y="{y}" width="{width}" height="14" fill="{colour}"/>'
                f'<text x="{_TEXT + width + 5}" y="{y + 12}">{left:.0f} ({length})</text>'
            )
            y += _LINE
        y += 8
    return "\n".join([*parts, "</svg>", ""])
