"""The page as a whole: one file that asks for nothing else."""

from importlib.resources import files

from snapsync.page import markup
from snapsync.page.library import Script, digest
from snapsync.page.volume import volume
from snapsync.reports.pages import PageReport, VolumeFigures


def page(report: PageReport, library: Script) -> str:
    """The whole page. Its policy lets browsers run the two scripts that it carries, and load nothing."""
    style, script = (
        files("snapsync.page").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js")
    )
    titles = ", ".join(figures.title for figures in report.volumes)
    body = "".join(volume(number, figures) for number, figures in enumerate(report.volumes))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script, library)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{markup.text(titles)} \u2013 snapsync report</title>
<style>
{style}</style>
</head>
<body>
<div class="page">
{_top(report)}<main>
{body}</main>
<footer class="foot"><p>Made by snapsync at {markup.moment(report.made)} UTC. All times are UTC, sizes in
binary units. This page loads nothing from anywhere.</p></footer>
</div>
<script type="text/plain" id="library">{library.packed}</script>
<script>{script}</script>
</body>
</html>
"""


def _policy(script: str, library: Script) -> str:
    allowed = f"script-src {digest(script)} {library.digest}; style-src 'unsafe-inline'; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _top(report: PageReport) -> str:
    problems = "".join(f"<li>{markup.text(problem)}</li>" for problem in report.problems)
    told = f'<div class="banner" role="note"><ul>{problems}</ul></div>\n' if problems else ""
    if len(report.volumes) == 1:
        return told
    title = '<div class="top"><p class="over">snapsync report</p><h1>All jobs</h1></div>\n'
    headings = ("job", "~place", ">holds", ">rounds", "state")
    lines = (_line(number, figures) for number, figures in enumerate(report.volumes))
    overview = markup.table("All jobs", headings, lines)
    return f'<header>{title}{told}<div class="card">{overview}</div></header>\n'


def _line(number: int, figures: VolumeFigures) -> tuple[str, ...]:
    unusual = sum(bool(figure.unusual) for figure in figures.rounds)
    chips = [markup.chip("bad", "problem")] if figures.problems or figures.passed_over else []
    chips += [markup.chip("warn", f"{unusual} unusual")] if unusual else []
    return (
        f'<a href="#volume-{number}">{markup.text(figures.title)}</a>',
        markup.path(figures.volume.path),
        "" if figures.bytes is None else markup.size(figures.bytes),
        f"{len(figures.rounds):,}",
        " ".join(chips) or markup.chip("good", "ok"),
    )
