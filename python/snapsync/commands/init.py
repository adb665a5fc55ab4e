"""`snapsync init`: a directory becomes a volume, or one is kept in another way."""

from collections.abc import Iterator

from snapsync import _native, render
from snapsync.errors import ExitCode
from snapsync.output import Output
from snapsync.reports import InitReport


def run(output: Output, volume: str, *, read_only: bool | None) -> int:
    report = InitReport.from_json(_native.init(volume, read_only=read_only))
    for recovered in report.recovered:
        output.note(f"healed: {recovered}")
    output.summary(report, _lines(report))
    return ExitCode.DONE


def _lines(report: InitReport) -> Iterator[str]:
    sealed = ", read-only between rounds" if report.read_only and report.volume.role == "standby" else ""
    yield f"{render.name(report.volume.path)}: {report.volume.role}{sealed}"
