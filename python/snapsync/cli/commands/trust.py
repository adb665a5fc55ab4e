"""`snapsync trust`: a key whose commits in a log are believed."""

from collections.abc import Iterator

from snapsync import render
from snapsync.api import roles
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument
from snapsync.errors import ExitCode
from snapsync.reports.roles import TrustReport


@verb(
    place=195,
    examples=[
        "snapsync trust s3://backups/data 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    ],
)
def trust(
    output: Output,
    log: Annotated[str, Argument(metavar="LOG", help="The log: s3://BUCKET/PREFIX or file:///DIR.")],
    key: Annotated[str, Argument(metavar="KEY", help="The key, as a message showed it.")],
) -> int:
    """Believe what a key signs in a log, on this machine.

    The key that a log has when a machine first meets it is believed by itself. Another one signs after a
    standby was promoted that did not have that key: `promote` tells which.
    """
    report = roles.trust(log, key)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def _lines(report: TrustReport) -> Iterator[str]:
    yield f"{render.name(report.log)}: what {report.key} signs is believed here"
