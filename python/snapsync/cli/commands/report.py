"""`snapsync report`: a page to look at, of a volume or of all jobs."""

from collections.abc import Iterator

from snapsync import render
from snapsync.cli.arguments import ConfigFile
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode, UsageError, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snapsync.reports.pages import PageReport


@verb(
    place=245,
    examples=[
        "snapsync report /srv/data -o data.html",
        "snapsync report -o jobs.html",
        "snapsync report /srv/data --json",
    ],
)
def report(
    output: Output,
    volume: Annotated[
        str | None,
        Argument(metavar="VOLUME", help="The root directory of a volume, or a log; all jobs without it."),
    ] = None,
    file: Annotated[
        str | None, Option("--output", "-o", metavar="FILE.html", help="Write the page there.")
    ] = None,
    config: ConfigFile = None,
) -> int:
    """Make a page of what happened to VOLUME, or to the volumes of all jobs.

    It shows what changed in each round and where, what grows, the largest changes and deletions, the rounds
    that are unusual, what each snapshot holds and would free, and how far standbys are. The page is one file
    that loads nothing from anywhere, and takes the place of a file of that name. It has the names of files:
    give it to nobody who may not know them.

    Its figures are those of the manifests that the store keeps of its rounds. One that is damaged is named,
    and passed over. With --json the same figures are one object on stdout, and no page is needed. The charts
    take the plotting library of `pip install 'snapsync[report]'`.
    """
    if file is None and not output.as_json:
        message = "cannot make a page: nobody said where it is to go"
        raise told(UsageError(message), message, "name a file with -o FILE.html, or ask for --json")
    from snapsync.page import file as page_file
    from snapsync.page import library, look, page

    if file is not None:
        page_file.check(file)
    script = None if file is None else library.plotly()
    made = look.volume(volume, output.note) if volume is not None else look.jobs(config, output.note)
    if file is not None and script is not None:
        page_file.write(file, page.page(made, script))
        made = look.written(made, file)
    output.summary(made, _lines(made))
    return ExitCode.DONE


def _lines(made: "PageReport") -> Iterator[str]:
    for figures in made.volumes:
        unusual = sum(bool(figure.unusual) for figure in figures.rounds)
        odd = f", {unusual:,} of them unusual" if unusual else ""
        snapshots = render.count(len(figures.snapshots), "snapshot")
        rounds = render.count(len(figures.rounds), "round")
        yield f"{render.name(figures.title)}: {rounds}{odd}, {snapshots}"
    yield f"  written to {render.name(made.output or '')}, in {render.seconds(made.seconds)}"
