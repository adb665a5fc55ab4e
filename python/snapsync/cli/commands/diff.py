"""`snapsync diff`: the set of changes between two snapshots, as lines or as an Arrow file."""

from snapsync import render
from snapsync.api import comparisons
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import change_lines
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import JobsOptions, ReachOptions
from snapsync.reports.comparisons import DiffReport


class DiffOptions(JobsOptions, ReachOptions, total=False):
    """How the sides are read, and how another machine is reached."""


@verb(
    place=200,
    examples=[
        "snapsync diff /srv/data@monday /srv/data@latest",
        "snapsync diff /srv/data@3 /srv/data@4 -o changes.arrow",
        "snapsync diff root@backup:/srv/standby@3 root@backup:/srv/standby@4",
        "snapsync diff /srv/data@latest /srv/data --json",
    ],
)
def diff(
    output: Output,
    base: Annotated[
        str, Argument(metavar="BASE", help="The older side: VOLUME@SNAP, LOG@SNAP or a directory.")
    ],
    target: Annotated[
        str, Argument(metavar="TARGET", help="The newer side: VOLUME@SNAP, LOG@SNAP or a directory.")
    ],
    file: Annotated[
        str | None,
        Option("--output", "-o", metavar="FILE.arrow", help="Write the manifest there."),
    ] = None,
    **options: Unpack[DiffOptions],
) -> int:
    """Show what changed from BASE to TARGET.

    One line for each changed inode, in the order of their numbers. With --output only totals are shown, and
    the changes are written to an Arrow file, which pyarrow, polars and `snapsync inspect` read; it takes the
    place of a file of that name. duckdb asks what pyarrow has read: after `changes =
    pyarrow.feather.read_table(FILE)`, duckdb.sql("SELECT path FROM changes").

    Between snapshots what did not change is not read. Against a directory that is in use every file is read
    on both sides: take a snapshot first.

    Both may be on another machine, as [user@]host:VOLUME@SNAP: the changes are found there, and only they
    travel. Options for ssh stand in --rsh, as in --rsh 'ssh -p 2222'.
    """
    if file is not None:
        report = _write(output, base, target, file, **options)
        output.summary(report, [_totals(report), f"  written to {render.name(file)}"])
        return ExitCode.DONE
    if output.as_json or output.quiet:  # no line for each change
        report = _write(output, base, target, None, **options)
        output.summary(report, ())
    else:
        report = _show(output, base, target, **options)
    output.note(_totals(report))
    return ExitCode.DONE


def _show(output: Output, base: str, target: str, **options: Unpack[DiffOptions]) -> DiffReport:
    from tempfile import TemporaryDirectory

    import snapsync.manifest  # noqa: F401  # before the work: where its library is missing there is no list

    with TemporaryDirectory(prefix="snapsync-") as directory:
        path = f"{directory}/manifest.arrow"
        report = _write(output, base, target, path, **options)
        output.summary(report, change_lines(path))
    return report


def _totals(report: DiffReport) -> str:
    took = render.seconds(report.seconds)
    return f"{render.changes(report.changes)}; {render.size(report.data_bytes)} of data, in {took}"


def _write(
    output: Output, base: str, target: str, file: str | None, **options: Unpack[DiffOptions]
) -> DiffReport:
    with output.progress() as progress:
        report = comparisons.write_manifest(base, target, file, progress=progress, **options)
    output.notes(report.notes)
    return report
