"""`snapsync switch`: a primary and its standby change roles."""

from collections.abc import Iterator, Sequence

from snapsync import api, render
from snapsync.commands.sync import summary as round_summary
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import SwitchReport
from snapsync.shell import words


def run(
    output: Output,
    primary: str,
    standby: str,
    *,
    compress: str,
    bwlimit: int | None,
    rsh: str,
    remote_path: str,
    ssh_options: Sequence[str],
    timeout: int,
    channels: int,
    jobs: int,
) -> int:
    with output.progress() as progress:
        report = api.switch(
            primary,
            standby,
            compress=compress,
            bwlimit=bwlimit,
            rsh=words(rsh),
            remote_path=remote_path,
            ssh_options=ssh_options,
            timeout=timeout,
            channels=channels,
            jobs=jobs,
            progress=progress,
        )
    for note in (*report.notes, *report.round.notes):
        output.note(note)
    output.summary(report, summary(report))
    return ExitCode.DONE


def summary(report: SwitchReport) -> Iterator[str]:
    """Who is primary now, in lines."""
    new, old = report.round.primary, report.round.standby
    yield f"{render.name(new.path)} is the primary of epoch {new.epoch}, {render.name(old.path)} its standby"
    yield from round_summary(report.round)
