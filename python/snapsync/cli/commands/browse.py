"""`snapsync browse`: a snapshot, mounted read-only."""

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
from snapsync.reports.restores import BrowseReport

_TICK = 0.5


@verb(place=150, examples=["snapsync browse /srv/data@monday /mnt/monday", "umount /mnt/monday"])
def browse(
    output: Output,
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to look into; or LOG@SNAP.")],
    directory: Annotated[
        str, Argument(metavar="DIR", help="Where to mount it: an absent or empty directory.")
    ],
    foreground: Annotated[bool, Option("--foreground", help="Stay, and unmount it at the end.")] = False,
    **options: Unpack[JobsOptions],
) -> int:
    """Mount a snapshot read-only.

    Everything is there with its owner, mode, times and attributes, and nobody can write to it. Take the
    snapshot away with `umount DIR`. A Btrfs snapshot is mounted as it is, with .snapsync in it; any other is
    served through FUSE by a process in the background.
    """
    jobs = options.get("jobs", 0)
    if foreground:
        return _stay(output, address, directory, jobs)
    return _start(output, address, directory, jobs)


def _stay(output: Output, address: str, directory: str, jobs: int) -> int:
    """Serve it in this process."""
    with output.progress() as progress:
        browsing = restores.browse(address, directory, jobs=jobs, progress=progress)
    try:
        _tell(output, browsing.report)
        sys.stdout.flush()
        if browsing.report.served:
            _let_go()
            while not browsing.wait(_TICK):
                pass
        else:
            browsing.leave()
    except KeyboardInterrupt:
        browsing.close()
    return ExitCode.DONE


def _let_go() -> None:
    """Close the outputs, which nobody reads any more, and leave the current directory."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.chdir("/")


def _start(output: Output, address: str, directory: str, jobs: int) -> int:
    """Start a process in the background that serves it, and wait until it is mounted."""
    import subprocess

    options = ["--foreground", "--json", "--quiet", "--jobs", str(jobs)]
    # -P: a directory named snapsync where this was started is not the program.
    command = [sys.executable, "-P", "-m", "snapsync", "browse", *options, "--", address, directory]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    assert server.stdout is not None
    said = server.stdout.read()
    if '"verb"' in said:
        _tell(output, BrowseReport.from_json(said))
        return ExitCode.DONE
    code = server.wait()
    if output.as_json:
        with writing():
            print(said, end="")
    return ExitCode(code) if code in set(ExitCode) else ExitCode.FAILED


def _tell(output: Output, report: BrowseReport) -> None:
    for note in report.notes:
        output.note(note)
    output.summary(report, _summary(report))


def _summary(report: BrowseReport) -> Iterator[str]:
    path = render.name(report.path)
    yield f"{render.snapshot(report.snapshot)} is at {path}, in {render.seconds(report.seconds)}"
    yield f"  `umount {path}` takes it away"
