"""`snapsync init`: a directory becomes a volume, or one is kept in another way; or a log begins."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import roles
from snapsync.cli.arguments import VolumeOrLog
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Option
from snapsync.errors import ExitCode
from snapsync.options import History, ReadOnly
from snapsync.reports.roles import InitReport


@verb(
    place=80,
    examples=[
        "snapsync init /srv/data",
        "snapsync init /mnt/standby --read-only",
        "snapsync init s3://backups/data",
        "snapsync init s3://backups/data --encrypt-to $(age-keygen -y identity)",
    ],
)
def init(
    output: Output,
    volume: VolumeOrLog,
    read_only: ReadOnly = None,
    history: History = None,
    encrypt_to: Annotated[
        list[str] | None,
        Option(
            "--encrypt-to",
            metavar="RECIPIENT",
            help="Encrypt a new log to this recipient of age, age1…; may be given several times.",
        ),
    ] = None,
) -> int:
    """Make a directory a volume, or say how one is kept; or begin a log.

    A directory becomes a primary, as with the first `snapshot` or `sync`; with --read-only an empty Btrfs
    subvolume becomes a standby, of whichever primary is synced to it first.

    A primary without subvolumes has a full history, or with --history light none of its own: its snapshots
    take no room, and what its tree has no more is on its standbys. A new one is light where its file system
    cannot share blocks, as on ext4.

    A log begins at a prefix with nothing in it, once its store was tried: of several writers that make one
    object at the same time, exactly one may win. The first `sync` to a log does the same, without encryption.
    With --encrypt-to only who has the identity of a recipient can read it: SNAPSYNC_IDENTITY names the file.
    """
    report = roles.init(volume, read_only=read_only, history=history, encrypt_to=encrypt_to or ())
    output.healed(report.recovered)
    output.notes(report.notes)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def _lines(report: InitReport) -> Iterator[str]:
    if report.volume.is_log:
        yield f"{render.name(report.volume.path)}: log"
        return
    sealed = ", read-only between rounds" if report.read_only and report.volume.role == "standby" else ""
    history = report.volume.history
    kept = f", with a {history} history" if history and report.volume.role == "primary" else ""
    yield f"{render.name(report.volume.path)}: {report.volume.role}{sealed}{kept}"
