"""Pieces of HTML. Every text that comes from outside goes through `text`."""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from html import escape
from typing import Any

from snapsync import render

Cell = str
"""HTML of one cell of a table."""


def text(words: str) -> str:
    """A text of any characters, as HTML: nothing in it is markup, and what is not printable is escaped."""
    return escape(render.name(words), quote=True)


def path(words: str) -> str:
    """A path, which may be broken into lines where a directory ends."""
    return f'<span class="path">{text(words).replace("/", "/<wbr>")}</span>'


def label(words: str) -> str:
    """A name on one line, unless it is a long one."""
    return f'<span class="{"short" if len(words) < 24 else "long"}">{text(words)}</span>'


def moment(time: datetime) -> str:
    return f'<time datetime="{time.isoformat()}">{time:%Y-%m-%d %H:%M}</time>'


def age(seconds: float) -> str:
    """An age in one unit: 50 s, 12 min, 5 h, 3 days."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(number: int) -> str:
    return f'<span title="{number:,} bytes">{render.size(number).replace(" ", "&nbsp;")}</span>'


def signed(number: int) -> str:
    """A growth: +1.5 MiB, -3 B."""
    sign = "+" if number > 0 else "\u2212" if number < 0 else ""
    return f'<span title="{number:,} bytes">{sign}{render.size(abs(number)).replace(" ", "&nbsp;")}</span>'


def bar(share: float, content: str) -> str:
    """The content of a cell with a bar below it, for a share from 0 to 1."""
    return f'{content}<span class="bar" aria-hidden="true"><i style="width:{max(0.0, share):.1%}"></i></span>'


def chip(kind: str, words: str) -> str:
    """A short word in a frame: kind is good, warn, bad or plain."""
    return f'<span class="chip {kind}">{text(words)}</span>'


def table(caption: str, headings: Sequence[str], lines: Iterable[Sequence[Cell]]) -> str:
    """A table. A heading that begins with `>` is of numbers; one with `~` is not shown on a phone."""
    kinds = [_kind(heading) for heading in headings]
    names = [heading.lstrip("~>") for heading in headings]
    head = "".join(
        f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(names, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(line, kinds, strict=True)) + "</tr>\n"
        for line in lines
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f'<caption class="unseen">{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def short_table(make: Callable[[Sequence[Any]], str], values: Sequence[Any], shown: int = 10) -> str:
    """A table of the first values, and one of the others for those who ask."""
    more = values[shown:]
    return make(values[:shown]) + (details(f"{len(more):,} more", make(more)) if more else "")


def _kind(heading: str) -> str:
    classes = [name for mark, name in ((">", "number"), ("~", "wide")) if mark in heading[:2]]
    return f' class="{" ".join(classes)}"' if classes else ""


def details(summary: str, content: str) -> str:
    return f"<details><summary>{text(summary)}</summary>\n{content}</details>\n"


def section(title: str, lead: str, content: str, anchor: str) -> str:
    """A part of the page with a heading; `lead` is a sentence of HTML."""
    first = f'<p class="lead">{lead}</p>\n' if lead else ""
    return (
        f'<section class="card" aria-labelledby="{anchor}"><h3 id="{anchor}">{text(title)}</h3>\n'
        f"{first}{content}</section>\n"
    )


def data(value: Any) -> str:
    """JSON that can stand in an element: nothing in it ends the element or begins another."""
    written = json.dumps(value, separators=(",", ":"))
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
