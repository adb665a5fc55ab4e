"""`snapsync verify`: prove that two trees hold the same, or name what differs."""

from snapsync import render
from snapsync.api import comparisons
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import verdict
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import DiscardDrift, VerifyOptions


def _percent(text: str) -> float:
    """The number that N% means."""
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise ValueError(f"{text!r} is not a percentage") from None


Sample = Annotated[
    float | None,
    Option(
        "--sample",
        read=_percent,
        metavar="N%",
        help="Read so many of the files: others in each run, and all in time.",
    ),
]
Seed = Annotated[
    int | None,
    Option("--seed", min=0, max=(1 << 64) - 1, metavar="N", help="With --sample: which; default, the time."),
]


@verb(
    place=220,
    examples=[
        "snapsync verify /srv/data@latest /mnt/standby",
        "snapsync verify /srv/data@3 /mnt/standby@3 --json",
        "snapsync verify /srv/data@latest root@backup:/mnt/standby@latest --sample 5%",
        "snapsync verify s3://backups/data@latest /mnt/standby@latest",
        "snapsync verify --repair /srv/data /mnt/standby",
    ],
)
def verify(
    output: Output,
    a: Annotated[str, Argument(metavar="A", help="VOLUME, VOLUME@SNAP, LOG@SNAP or a directory.")],
    b: Annotated[str, Argument(metavar="B", help="VOLUME, VOLUME@SNAP, LOG@SNAP or a directory.")],
    quick: Annotated[
        bool, Option("--quick", help="Read no file: sizes, times and addresses stand for content.")
    ] = False,
    sample: Sample = None,
    seed: Seed = None,
    repair: Annotated[
        bool, Option("--repair", help="Make B, a standby, what its primary A has in their newest snapshot.")
    ] = False,
    discard_drift: DiscardDrift = False,
    **options: Unpack[VerifyOptions],
) -> int:
    """Prove that A and B hold the same.

    Every byte and every attribute on both sides is read, and each difference is named. Exit code 4 where
    they differ. Where patterns leave part of a volume out, only what is replicated is compared.

    A and B may be [user@]host:PATH: snapsync then runs on that host too, over your own ssh. Both sides read
    at the same time, and only digests travel.

    With --quick and --sample metadata is compared in full, and the answer says how much content was not read.

    With --repair B becomes what A has in the newest snapshot of both, and is verified again. If B was changed
    by hand that is refused; with --discard-drift the changes are kept as a snapshot. A and B must be on this
    machine.
    """
    with output.progress() as progress:
        report = comparisons.verify(
            a,
            b,
            quick=quick,
            sample=sample,
            seed=seed,
            repair=repair,
            discard_drift=discard_drift,
            progress=progress,
            **options,
        )
    output.notes(report.notes)
    if report.mended:
        output.healed(report.mended.recovered)
        if report.mended.set_aside:
            output.note(f"what was changed by hand is kept as {render.snapshot(report.mended.set_aside)}")
    output.summary(report, verdict(report))
    return ExitCode.DONE if report.equal else ExitCode.INTEGRITY
