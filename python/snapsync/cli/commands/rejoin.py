"""`snapsync rejoin`: an old primary becomes a standby of the new one."""

from collections.abc import Iterator
from itertools import chain

from snapsync import render
from snapsync.api import roles
from snapsync.cli.arguments import path
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import change_lines, rejoined
from snapsync.declare import Annotated, Argument, Option, Unpack, pick
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import RoleOptions, VerifyOptions
from snapsync.reports.roles import PreviewReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


@verb(
    place=60,
    examples=[
        "snapsync rejoin /srv/data /mnt/standby --preview",
        "snapsync rejoin /srv/data root@backup:/mnt/standby",
        "snapsync rejoin /srv/data s3://backups/data",
    ],
)
def rejoin(
    output: Output,
    old: Annotated[str, Argument(metavar="OLD", help="The old primary, or a standby that went its own way.")],
    new: Annotated[str, Argument(metavar="NEW", help="The primary that it is to follow, or its log.")],
    preview: Annotated[
        bool, Option("--preview", help="Only show what OLD would leave behind; change nothing.")
    ] = False,
    file: Annotated[
        "Path | None",
        Option("--output", read=path, metavar="FILE.arrow", help="With --preview: write the manifest there."),
    ] = None,
    **options: Unpack[RoleOptions],
) -> int:
    """Make OLD a standby of NEW.

    What OLD has of its own since the newest snapshot that both have is kept as snapshots of OLD: nothing is
    lost. OLD goes back to the common snapshot, and then gets what changed on NEW since; unchanged data is
    neither read nor sent. One of them may be [user@]host:PATH. NEW may be the log that the new primary
    publishes to: OLD follows it from then on.
    """
    if preview:
        return _preview(output, old, new, file, options)
    if file is not None:
        message = "only a preview is written to a file"
        raise told(UsageError(message), message, "add --preview, or leave out --output")
    with output.progress() as progress:
        report = roles.rejoin(old, new, progress=progress, **options)
    output.healed((*report.recovered, *report.round.recovered))
    output.notes((*report.notes, *report.round.notes))
    output.summary(report, rejoined(report))
    return ExitCode.DONE


def _preview(output: Output, old: str, new: str, file: "Path | None", options: RoleOptions) -> int:
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="snapsync-") as directory:
        manifest = str(file or f"{directory}/manifest.arrow")
        with output.progress() as progress:
            ssh = pick(VerifyOptions, options)
            report = roles.preview_rejoin(old, new, manifest, progress=progress, **ssh)
        output.notes((*report.recovered, *report.notes))
        report = report if file else replace(report, output=None)
        output.result(report, chain([] if file else change_lines(manifest), _left(report)))
        return ExitCode.DONE


def _left(report: PreviewReport) -> Iterator[str]:
    yield f"{render.name(report.volume.path)} would go back to {render.snapshot(report.common)}"
    data = render.size(report.data_bytes)
    yield f"  and keep what it has since as snapshots: {render.changes(report.changes)}, {data} of data"
    for left in report.left:
        yield f"  {render.snapshot(left)} is of its own"
