"""`snapsync mount`: a snapshot or all of a volume, mounted read-only."""

import os
import sys
from collections.abc import Iterator

from snapsync import render
from snapsync.api import restores
from snapsync.cli.output import Output, writing
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option, Unpack
from snapsync.errors import ExitCode
from snapsync.options import JobsOptions
from snapsync.reports.restores import MountReport

_TICK = 0.5


@verb(
    place=150,
    examples=[
        "snapsync mount /srv/data /mnt/history",
        "snapsync mount /srv/data@monday /mnt/monday",
        "umount /mnt/monday",
    ],
)
def mount(
    output: Output,
    address: Annotated[
        str,
        Argument(
            metavar="VOLUME[@SNAP]", help="The snapshot to look into, or all of a volume; or LOG or LOG@SNAP."
        ),
    ],
    directory: Annotated[
        str, Argument(metavar="DIR", help="Where to mount it: an absent or empty directory.")
    ],
    allow_other: Annotated[
        bool, Option("--allow-other", help="Let other users look at what they may read there.")
    ] = False,
    foreground: Annotated[bool, Option("--foreground", help="Stay, and unmount it at the end.")] = False,
    **options: Unpack[JobsOptions],
) -> int:
    """Mount a snapshot read-only, or all snapshots of a volume or a log.

    Everything is there with its owner, mode, times and attributes, and nobody can write to it. All snapshots
    are directories by their names, beside a link `latest`; new ones appear, and a deleted one disappears:
    a mount keeps no snapshot from being deleted, and what is still open of one cannot be read any more.

    Take it away with the system's `umount DIR`. One Btrfs snapshot is mounted as it is, with .snapsync in it,
    for every user; anything else is served through FUSE by a process in the background, to whoever mounted
    it.
    """
    more = ["--allow-other"] if allow_other else []
    if foreground:
        return _stay(output, address, directory, allow_other=allow_other, jobs=options.get("jobs", 0))
    return _start(output, address, directory, [*more, "--jobs", str(options.get("jobs", 0))])


def _stay(output: Output, address: str, directory: str, *, allow_other: bool, jobs: int) -> int:
    """Serve it in this process."""
    with output.progress() as progress:
        mounted = restores.mount(address, directory, allow_other=allow_other, jobs=jobs, progress=progress)
    try:
        _tell(output, mounted.report)
        sys.stdout.flush()
        if mounted.report.served:
            _let_go()
            while not mounted.wait(_TICK):
                pass
        else:
            mounted.leave()
    except KeyboardInterrupt:
        mounted.close()
    return ExitCode.DONE


def _let_go() -> None:
    """Close the outputs, which nobody reads any more, and leave the current directory."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.chdir("/")


def _start(output: Output, address: str, directory: str, more: list[str]) -> int:
    """Start a process in the background that serves it, and wait until it is mounted."""
    import subprocess

    options = ["--foreground", "--json", "--quiet", *more]
    # -P: a directory named snapsync where this was started is not the program.
    command = [sys.executable, "-P", "-m", "snapsync", "mount", *options, "--", address, directory]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    assert server.stdout is not None
    said = server.stdout.read()
    if '"verb"' in said:
        _tell(output, MountReport.from_json(said))
        return ExitCode.DONE
    code = server.wait()
    if output.as_json:
        with writing():
            print(said, end="")
    return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED


def _tell(output: Output, report: MountReport) -> None:
    for note in report.notes:
        output.note(note)
    output.summary(report, _summary(report))


def _summary(report: MountReport) -> Iterator[str]:
    path = render.name(report.path)
    if report.snapshot is None:
        what = f"{render.count(report.snapshots, 'snapshot')} of {render.name(report.volume.path)}"
        verb = "is" if report.snapshots == 1 else "are"
    else:
        what, verb = render.snapshot(report.snapshot), "is"
    yield f"{what} {verb} at {path}, in {render.seconds(report.seconds)}"
    yield f"  `umount {path}` takes it away"
