"""One HTML page that needs nothing else: its look, and the pieces it is put together from.

Every piece escapes what it is given, and the page's own policy forbids it to load or run anything. What stands on
the page is report's part.
"""

from collections.abc import Sequence
from html import escape

from zephyr.records.fields import printable

_META = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
)
_LIGHT = (
    "--ink:#1b1b1f;--soft:#5c5f66;--paper:#fff;--card:#f5f6f8;--edge:#d9dce2;"
    "--c0:#0072b2;--c1:#c24e00;--c2:#00795a;--c3:#a6478a;"
)
_DARK = (
    "--ink:#e8e9ec;--soft:#a5a9b3;--paper:#15161a;--card:#1f2127;--edge:#383b44;"
    "--c0:#6cb8e6;--c1:#ff9a5a;--c2:#4fd1a5;--c3:#e79bc9;"
)
_STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--edge); }}
h3 {{ font-size: 1.05rem; margin: 1.5rem 0 .3rem; }}
p.soft, figcaption, th {{ color: var(--soft); }}
.scroll {{ overflow-x: auto; margin: .8rem 0; }}
table {{ border-collapse: collapse; font-size: .93rem; }}
th, td {{ text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--edge); vertical-align: top; }}
th {{ font-weight: 500; white-space: nowrap; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th.number {{ text-align: right; }}
.grid {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem 1.5rem; }}
figure {{ margin: 0; min-width: 0; }}
figure > svg {{ width: 100%; height: auto; max-width: 40rem; display: block; }}
figcaption {{ font-size: .93rem; margin-bottom: .2rem; }}
svg text {{ fill: var(--soft); font: 13px system-ui, sans-serif; }}
svg .grid {{ stroke: var(--edge); }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
.area {{ opacity: .12; stroke: none; }}
.line.c0 {{ stroke: var(--c0); }} .dot.c0, .area.c0 {{ fill: var(--c0); }}
.line.c1 {{ stroke: var(--c1); }} .dot.c1, .area.c1 {{ fill: var(--c1); }}
.line.c2 {{ stroke: var(--c2); }} .dot.c2, .area.c2 {{ fill: var(--c2); }}
.line.c3 {{ stroke: var(--c3); }} .dot.c3, .area.c3 {{ fill: var(--c3); }}
ul.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .2rem 0; padding: 0;
  font-size: .85rem; }}
.key {{ width: 28px; height: 8px; margin-right: .4rem; vertical-align: middle; }}
.radar svg {{ background: #fff; border-radius: .4rem; }} .radar svg text {{ fill: #333; font-size: 14px; }}
article {{ background: var(--card); border-radius: .5rem; padding: .8rem 1rem; margin: .8rem 0; }}
article .prompt {{ font-weight: 600; }}
article .answers {{ display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); }}
article h4 {{ margin: .6rem 0 .1rem; font-size: .85rem; color: var(--soft); font-weight: 500; }}
.said {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
nav a {{ color: inherit; margin-right: 1rem; display: inline-block; padding: .2rem 0; }}
@media (max-width: 30rem) {{ table {{ font-size: .85rem; }} th, td {{ padding-right: .6rem; }}
  td:first-child {{ overflow-wrap: anywhere; min-width: 5rem; }}
  svg text {{ font-size: 16px; }} .radar svg text {{ font-size: 22px; }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} body {{ max-width: none; font-size: 11pt; padding: 0; }}
  figure, article, tr {{ break-inside: avoid; }} h2, h3 {{ break-after: avoid; }} nav {{ display: none; }}
  .scroll {{ overflow: visible; }} table {{ font-size: 8.5pt; }} }}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page; the parts are HTML already."""
    head = f"{_META}<title>{shown(title)}</title><style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def section(title: str, parts: Sequence[str]) -> str:
    """A part of the page under a heading; an empty text where it would have nothing to say."""
    body = "".join(parts)
    anchor = "".join(char if char.isalnum() else "-" for char in title.lower())
    return f'<section id="{anchor}"><h2>{shown(title)}</h2>{body}</section>' if body else ""


def shown(text: str) -> str:
    """A text of anybody's as HTML that shows it: no markup, no characters that cannot be seen; lines stay lines."""
    return escape("\n".join(printable(line) for line in text.splitlines()))


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; an empty text for an empty one."""
    return f"<p{f' class={kind}' if kind else ''}>{shown(text)}</p>" if text else ""


def table(names: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table that scrolls where it is too wide; columns with these numbers stand right."""
    if not rows:
        return ""
    kinds = [' class="number"' if column in numbers else "" for column in range(len(names))]
    head = "".join(f"<th{kind}>{shown(name)}</th>" for name, kind in zip(names, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{shown(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def grid(figures: Sequence[str]) -> str:
    """Pictures beside each other where there is room."""
    there = [figure for figure in figures if figure]
    return f'<div class="grid">{"".join(there)}</div>' if there else ""


def side_by_side(prompt: str, answers: Sequence[tuple[str, str]]) -> str:
    """A prompt and what each model said to it."""
    said = "".join(f'<div><h4>{shown(name)}</h4><div class="said">{shown(text)}</div></div>' for name, text in answers)
    return f'<article><div class="prompt said">{shown(prompt)}</div><div class="answers">{said}</div></article>'


def bullets(lines: Sequence[str]) -> str:
    """A list; an empty text where it has nothing."""
    return f"<ul>{''.join(f'<li>{shown(line)}</li>' for line in lines)}</ul>" if lines else ""
