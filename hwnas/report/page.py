"""A self-contained HTML page: words and tables as HTML, numbers as JSON, one style, one script, and plotly inside.

Nothing is loaded from anywhere, and a content security policy in the page forbids it. Of scripts it allows exactly the
two that hwnas puts there, by their hashes: text from a run folder is escaped, and would not run if it were not.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from html import escape
from importlib import resources
from typing import Any

from hwnas.plain import for_json

__all__ = ["Page", "html_table", "plot", "plotly_source", "section"]

NO_PLOTLY = (
    '<p class="note">The plots need plotly: <code>pip install "hwnas[report]"</code>, then write the report again.</p>'
)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes
    ----------
    title
        Plain text.
    body
        Ready-made HTML.
    data
        What ``page.js`` draws, as plain values; not finite numbers become null.
    """

    title: str
    body: str
    data: dict[str, Any]

    def html(self, *, live: bool = False) -> str:
        """The whole page.

        Parameters
        ----------
        live
            Leave plotly out, to be loaded from ``plotly.js`` beside the page, and let the page fetch itself anew now
            and then.
        """
        source = plotly_source()
        body = self.body if source is not None else NO_PLOTLY + self.body
        style, script = _asset("page.css"), _asset("page.js")
        scripts = [script] if live or source is None else [source, script]
        allowed = " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts)
        policy = f"default-src 'none'; script-src {allowed}{' ' + _SELF if live else ''}; style-src 'unsafe-inline'; "
        policy += f"img-src data: blob:{'; connect-src ' + _SELF if live else ''}; base-uri 'none'; form-action 'none'"
        first = '<script src="plotly.js"></script>' if live and source is not None else ""
        return (
            f'<!doctype html><html lang="en"{" data-live" if live else ""}><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{style}</style></head>\n"
            f"<body><main>{body}</main>\n"
            f'<script type="application/json" id="data">{self._json()}</script>\n'
            f"{first}{''.join(f'<script>{text}</script>' for text in scripts)}</body></html>\n"
        )

    def _json(self) -> str:
        text = json.dumps(for_json(self.data), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        # in JSON these stand inside of strings only; so written they cannot end the element or begin a comment
        return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_SELF = "'self'"


@cache
def _asset(name: str) -> str:
    return resources.files("hwnas.report").joinpath(name).read_text(encoding="utf-8").strip()


@cache
def plotly_source() -> str | None:
    """The text of plotly.js, from the installed package plotly; None where it is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    source = str(get_plotlyjs())
    # nothing inside of a script element but its end tag and this may stand for itself
    return source.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def section(key: str, title: str, *parts: str, wide: bool = False) -> str:
    """A section of the page.

    Parameters
    ----------
    key
        Its id, and what a live page knows it by.
    title
        Plain text.
    parts
        Ready-made HTML: a `plot`, or what a live page replaces.
    wide
        Whether it takes the whole width.
    """
    content = "".join(
        part if part.startswith("<figure") else f'<div data-part="{escape(key)}-{index}">{part}</div>'
        for index, part in enumerate(parts)
    )
    return f'<section id="{escape(key)}"{" class=full" if wide else ""}><h2>{escape(title)}</h2>{content}</section>'


def plot(key: str, label: str, height: int = 380) -> str:
    """A place that ``page.js`` draws in, `height` pixels high; nothing without plotly.

    `label` is what a screen reader says.
    """
    if plotly_source() is None:
        return ""
    return (
        f'<figure><div class="plot" id="plot-{escape(key)}" role="img" aria-label="{escape(label)}" '
        f'style="min-height:{height}px"></div></figure>'
    )


def html_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: frozenset[int] = frozenset(),
    *,
    sortable: bool = False,
) -> str:
    """Rows of ready-made HTML cells as a table; the columns in `numeric` are aligned to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = (' class="n"' if index in numeric else "" for index in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{m}>{c}</{tag}>" for m, c in zip(marks, cells, strict=True)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    kind = ' class="sortable"' if sortable else ""
    return f'<div class="wide"><table{kind}><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'
