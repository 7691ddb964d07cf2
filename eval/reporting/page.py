"""The page: one file of HTML that loads nothing, pictures and style included."""

import base64
import dataclasses
from collections.abc import Sequence

from star_jax.eval.reporting.drawing import Picture
from star_jax.eval.reporting.tables import Table, escaped

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: #fff; color: #222;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #ddd; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
ul { padding-left: 1.3rem; max-width: 46rem; }
a { color: #0b5394; }
nav { background: #f5f6f8; border-radius: 6px; padding: .6rem 1rem; margin: 1.2rem 0; }
nav ul { margin: 0; padding: 0; list-style: none; columns: 15rem; }
nav li { padding: .1rem 0; }
.lead { background: #eef5ee; border-left: 4px solid #2e7d32; padding: .6rem 1rem; margin: .6rem 0;
  max-width: 52rem; }
.lead.none { background: #fff6e5; border-color: #b26a00; }
.dim { color: #666; font-size: .9rem; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e6e6e6; }
th { border-bottom: 2px solid #bbb; vertical-align: bottom; font-weight: 600; }
th.w, td.w { text-align: left; }
small { color: #666; font-weight: 400; font-size: .82em; }
tbody tr:hover { background: #f5f8fc; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1.2rem; align-items: start; }
.plots.one { grid-template-columns: minmax(0, 46rem); }
figure { margin: 0; min-width: 0; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .86rem; color: #444; margin-bottom: .2rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
@media (max-width: 40rem) { body { font-size: 15px; padding: 1rem .8rem 3rem; }
  th, td { padding: .25rem .5rem; } }
"""


@dataclasses.dataclass(frozen=True)
class Fold:
    """What is shown when its title is clicked, or at once."""

    title: str
    parts: Sequence["Part"]
    is_open: bool = False


@dataclasses.dataclass(frozen=True)
class Lead:
    """A sentence that stands out; `is_good` says how."""

    text: str
    is_good: bool


@dataclasses.dataclass(frozen=True)
class Bullets:
    lines: Sequence[str]


Part = str | Table | Fold | Lead | Bullets | Sequence[Picture]  # a str is a paragraph


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    parts: Sequence[Part]


MARK = '<meta name="generator" content="star_jax.report">'


def page(title: str, introduction: Sequence[Part], sections: Sequence[Section]) -> str:
    """The whole page; all texts are escaped here, and it begins with a `MARK`."""
    contents = "\n".join(
        f'<li><a href="#s{i}">{escaped(section.title)}</a></li>'
        for i, section in enumerate(sections)
    )
    body = "\n".join(
        f'<section id="s{i}">\n<h2>{escaped(section.title)}</h2>\n'
        f"{_html(section.parts)}\n</section>"
        for i, section in enumerate(sections)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<h1>{escaped(title)}</h1>
{_html(introduction)}
<nav aria-label="Contents"><ul>
{contents}
</ul></nav>
{body}
</body>
</html>
"""


def _html(parts: Sequence[Part]) -> str:
    return "\n".join(map(_part, parts))


def _part(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{escaped(part)}</p>"
    if isinstance(part, Table):
        return part.to_html()
    if isinstance(part, Lead):
        return f'<p class="lead{"" if part.is_good else " none"}">{escaped(part.text)}</p>'
    if isinstance(part, Bullets):
        return f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in part.lines)}</ul>"
    if isinstance(part, Fold):
        start = "<details open>" if part.is_open else "<details>"
        return f"{start}<summary>{escaped(part.title)}</summary>\n{_html(part.parts)}\n</details>"
    kind = "plots one" if len(part) == 1 else "plots"
    return f'<div class="{kind}">\n' + "\n".join(map(_figure, part)) + "\n</div>"


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    title = escaped(picture.title)
    return (
        f"<figure><figcaption>{title}</figcaption>\n"
        f'<img alt="{title}" src="data:image/png;base64,{data}"></figure>'
    )
