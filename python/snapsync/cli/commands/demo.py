"""`snapsync demo`: the whole cycle on throw-away volumes, explained as it goes."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from snapsync import render
from snapsync._native import Location
from snapsync.api import comparisons, roles, rounds
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.cli.summaries import change_line, promoted, rejoined, round_summary, verdict
from snapsync.declare import Annotated, Option, Unpack
from snapsync.errors import ExitCode, RefusedError, SnapsyncError
from snapsync.options import JobsOptions
from snapsync.reports.base import Report
from snapsync.reports.comparisons import VerifyReport
from snapsync.reports.rounds import SyncReport
from snapsync.volume import Volume

_MIB = 1 << 20
_VOLUMES = ("primary", "standby", "east", "west")
_BTRFS_ROOT_INODE = 256  # every Btrfs subvolume's root directory has this inode number


class DemoReport(Report):
    """The rounds of the demo, and the proofs of its two acts. `kept`: the directory is still there."""

    verb = "demo"
    directory: str
    provider: str
    filesystem: str
    rounds: tuple[SyncReport, ...]
    proof: VerifyReport
    log_proofs: tuple[VerifyReport, ...]
    kept: bool
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether all that was compared held the same."""
        return all(proof.equal for proof in (self.proof, *self.log_proofs))


@verb(place=270, examples=["snapsync demo", "snapsync demo --keep"])
def demo(
    output: Output,
    keep: Annotated[bool, Option("--keep", help="Keep the volumes, to look around in them.")] = False,
    **options: Unpack[JobsOptions],
) -> int:
    """Show the whole cycle on throw-away volumes.

    Explained as it goes, in a directory made in the current one and removed at the end. The first act is
    about a primary and its standby, the second about a log, two standbys that follow it, and the loss of the
    primary. Needs no root, and about 60 MiB of space.
    """
    from tempfile import mkdtemp

    started = time.monotonic()
    directory = Path(mkdtemp(prefix="snapsync-demo-", dir=Path.cwd()))
    try:
        stage = _Stage(output, directory, options.get("jobs", 0))
        rounds, proof = _Cycle(stage).run()
        log_rounds, log_proofs = _Log(stage).run()
    finally:
        kept = keep or not _remove(directory)
    report = DemoReport(
        directory=str(directory),
        provider=rounds[0].primary.provider,
        filesystem=rounds[0].primary.filesystem,
        rounds=(*rounds, *log_rounds),
        proof=proof,
        log_proofs=log_proofs,
        kept=kept,
        seconds=time.monotonic() - started,
    )
    output.say()
    output.summary(report, _closing(report, keep=keep))
    return ExitCode.DONE if report.equal else ExitCode.INTEGRITY


def _closing(report: DemoReport, *, keep: bool) -> Iterator[str]:
    outcome = "All sides are equal" if report.equal else "THE SIDES DIFFER"
    yield f"{outcome}. The demo took {render.seconds(report.seconds)}."
    place = render.name(report.directory)
    if keep:
        yield f"The volumes are in {place}."
    elif report.kept:
        yield f"Could not remove all of {place}: on Btrfs, delete the subvolumes below it as root."
    else:
        yield f"{place} is removed again."


class _Stage:
    """The directory of the demo, and the words that are said in it."""

    def __init__(self, output: Output, directory: Path, jobs: int) -> None:
        self.output = output
        self.directory = directory
        self.primary = directory / "primary"
        self.log = (directory / "log").as_uri()
        self.jobs = jobs

    def act(self, title: str) -> None:
        self.output.say(f"\n==== {title}")

    def scene(self, title: str, text: str, command: str = "") -> None:
        self.output.say(f"\n== {title}\n{text}")
        if command:
            self.output.say(f"  $ {command}")

    def tell(self, lines: Iterable[str]) -> None:
        """Say indented lines, with paths as the commands show them: beneath the demo's directory."""
        for line in lines:
            shown = line.replace(render.name(Location(self.log).path), "LOG")
            self.output.say(f"    {shown.replace(f'{render.name(str(self.directory))}/', '')}")

    def sync(self, source: str, target: str, name: str | None = None) -> SyncReport:
        """A round between two volumes of the demo, or with LOG."""
        sides = [self.log if side == "LOG" else str(self.directory / side) for side in (source, target)]
        report = rounds.sync(*sides, name=name, jobs=self.jobs)
        self.tell(round_summary(report))
        return report

    def verify(self, a: str, b: str) -> VerifyReport:
        report = comparisons.verify(self.directory / a, self.directory / b, jobs=self.jobs)
        self.tell(verdict(report))
        return report


class _Cycle:
    """The first act, the whole cycle: each method is a scene that says what it does, and does it."""

    def __init__(self, stage: _Stage) -> None:
        self.stage, self.scene, self.tell = stage, stage.scene, stage.tell
        self.primary, self.jobs = stage.primary, stage.jobs
        self.standby = stage.directory / "standby"

    def run(self) -> tuple[tuple[SyncReport, ...], VerifyReport]:
        self.stage.act("First act: a primary and its standby")
        self.make_primary()
        first = self.sync("monday", "The first round restores the whole tree into the standby.")
        self.edit()
        self.show_changes()
        second = self.sync("tuesday", "The second round moves those changes and nothing else.")
        proof = self.verify()
        third = self.sync("wednesday", "A round with nothing changed leaves the standby's tree alone.")
        self.show_snapshots()
        return (first, second, third), proof

    def make_primary(self) -> None:
        self.scene("A primary", f"A volume with a few files is made in {render.name(str(self.primary))}.")
        if not _make_subvolume(self.primary):
            # Standbys are plain directories too: to remove a subvolume again takes a privilege.
            for name in _VOLUMES:
                (self.stage.directory / name).mkdir()
        # With all that it held, so that any two of its snapshots can be compared.
        roles.init(self.primary, history="full")
        _fill(self.primary)

    def edit(self) -> None:
        self.scene("Life goes on", "The primary changes:")
        self.tell(_edit(self.primary))

    def show_changes(self) -> None:
        command = "snapsync diff primary@monday primary@tuesday-noon"
        self.scene("What changed", "A snapshot is taken and compared with the one before.", command)
        Volume(self.primary).snapshot("tuesday-noon", jobs=self.jobs)
        base, target = f"{self.primary}@monday", f"{self.primary}@tuesday-noon"
        try:
            with comparisons.diff(base, target, jobs=self.jobs) as manifest:
                self.tell(map(change_line, manifest.changes()))
        except ImportError:
            report = comparisons.write_manifest(base, target, None, jobs=self.jobs)
            self.tell([f"{render.changes(report.changes)} (to list them takes pyarrow, which is not here)"])

    def sync(self, name: str, text: str) -> SyncReport:
        self.scene("Sync", text, f"snapsync sync primary standby --name {name}")
        return self.stage.sync("primary", "standby", name)

    def verify(self) -> VerifyReport:
        text = "Every byte and every attribute of both sides is read and compared."
        self.scene("Proof", text, "snapsync verify primary standby")
        return self.stage.verify("primary", "standby")

    def show_snapshots(self) -> None:
        text = "The standby has its own snapshots, with the same ids as the primary's."
        self.scene("Ready to take over", text, "snapsync list standby")
        snapshots = Volume(self.standby).snapshots()
        self.tell(f"{render.snapshot(snap)}  {snap.id}" for snap in snapshots)


class _Log:
    """The second act: a log, two standbys that follow it, and the loss of the primary."""

    def __init__(self, stage: _Stage) -> None:
        self.stage, self.scene, self.tell = stage, stage.scene, stage.tell
        self.jobs = stage.jobs

    def run(self) -> tuple[tuple[SyncReport, ...], tuple[VerifyReport, ...]]:
        self.stage.act("Second act: a log and two standbys")
        # The key of this log is of no use afterwards.
        os.environ["SNAPSYNC_KEYS"] = str(self.stage.directory / "keys")
        rounds = [self.publish(), *self.follow(), self.publish_again(), *self.follow_again()]
        self.promote()
        rounds += [self.go_on(), self.come_back(), self.catch_up()]
        return tuple(rounds), self.verify()

    def publish(self) -> SyncReport:
        text = (
            "Standbys need not meet their primary. It publishes its rounds to a log, and they follow that.\n"
            "In this act LOG is a directory; it can be s3://BUCKET/PREFIX as well:\n"
            f"  LOG={render.name(self.stage.log)}"
        )
        self.scene("A log", text, "snapsync sync primary LOG --name thursday")
        return self.stage.sync("primary", "LOG", "thursday")

    def follow(self) -> Iterator[SyncReport]:
        self.scene("Two standbys", "Each follows when it likes.", "snapsync sync LOG east")
        yield self.stage.sync("LOG", "east")
        self.stage.output.say("  $ snapsync sync LOG west")
        yield self.stage.sync("LOG", "west")

    def publish_again(self) -> SyncReport:
        text = "A letter is written on the primary. It travels to the log once, for whoever follows."
        self.scene("A change", text, "snapsync sync primary LOG --name friday")
        _write(self.stage.primary, 21)
        return self.stage.sync("primary", "LOG", "friday")

    def follow_again(self) -> Iterator[SyncReport]:
        self.scene("And now west", "East is away for now.", "snapsync sync LOG west")
        yield self.stage.sync("LOG", "west")

    def promote(self) -> None:
        text = (
            "A last letter is written on the primary, and then it is lost: nobody else has that letter.\n"
            "West takes over. It tells the log first, so that the old primary cannot publish any more."
        )
        self.scene("The primary is lost", text, "snapsync promote west --name saturday")
        _write(self.stage.primary, 22)
        report = roles.promote(self.stage.directory / "west", name="saturday", jobs=self.jobs)
        self.tell(promoted(report))

    def go_on(self) -> SyncReport:
        text = "West is worked on, and publishes to the same log."
        self.scene("Work goes on", text, "snapsync sync west LOG --name sunday")
        _write(self.stage.directory / "west", 23)
        return self.stage.sync("west", "LOG", "sunday")

    def come_back(self) -> SyncReport:
        text = "The old primary comes back, knows nothing, and is refused. Nothing is written on either side."
        self.scene("A late return", text, "snapsync sync primary LOG")
        try:
            self.stage.sync("primary", "LOG")
        except RefusedError as error:
            self.tell([f"snapsync: {error}", f"exit code {error.exit_code}"])
        text = "So it follows the log now. The letter that only it has is kept in a snapshot of its own."
        self.scene("The way home", text, "snapsync rejoin primary LOG")
        report = roles.rejoin(self.stage.primary, self.stage.log, jobs=self.jobs)
        self.tell(rejoined(report))
        return report.round

    def catch_up(self) -> SyncReport:
        text = "East was away all the time. It gets all that it missed from the log, and never met anybody."
        self.scene("East again", text, "snapsync sync LOG east")
        return self.stage.sync("LOG", "east")

    def verify(self) -> tuple[VerifyReport, ...]:
        self.scene("Proof", "The three hold the same.", "snapsync verify west primary")
        first = self.stage.verify("west", "primary")
        self.stage.output.say("  $ snapsync verify west east")
        return first, self.stage.verify("west", "east")


def _write(root: Path, number: int) -> None:
    (root / "letters" / f"{number}.txt").write_text(f"Letter {number}\n")


def _fill(root: Path) -> None:
    """Letters, photos, a sparse disk image, a link of each kind: 7 MiB of data, 67 MiB of size."""
    import random

    noise = random.Random(0)
    for folder in ("letters", "photos", "empty"):
        (root / folder).mkdir()
    for number in range(20):
        (root / "letters" / f"{number:02}.txt").write_text(f"Letter {number}\n" * 50)
    for number in range(3):
        (root / "photos" / f"{number}.raw").write_bytes(noise.randbytes(_MIB))
    (root / "disk.img").write_bytes(noise.randbytes(4 * _MIB))
    os.truncate(root / "disk.img", 64 * _MIB)
    (root / "newest").symlink_to("letters/19.txt")
    (root / "letters" / "favourite.txt").hardlink_to(root / "letters" / "00.txt")


def _edit(root: Path) -> Iterator[str]:
    """Change the tree, saying each change just after it is made."""
    (root / "photos").rename(root / "pictures")
    yield "renamed    photos to pictures, with everything in it"
    (root / "first.txt").hardlink_to(root / "letters" / "01.txt")
    yield "linked     first.txt to letters/01.txt"
    (root / "letters" / "02.txt").unlink()
    yield "deleted    letters/02.txt"
    with (root / "disk.img").open("r+b") as image:
        image.seek(2 * _MIB)
        image.write(b"\x01" * 4096)
        image.seek(48 * _MIB)
        image.write(b"\x02" * 4096)
    yield "overwrote  4 KiB of disk.img, and wrote 4 KiB into its hole"
    (root / "letters" / "20.txt").write_text("Letter 20\n")
    yield "created    letters/20.txt"
    (root / "letters" / "03.txt").chmod(0o600)
    yield "chmod      letters/03.txt to 0600"


def _make_subvolume(path: Path) -> bool:
    """Make a Btrfs subvolume where that is possible and can be undone, which takes root."""
    return os.geteuid() == 0 and _btrfs("create", path)


def _btrfs(verb: str, *paths: Path) -> bool:
    import subprocess

    program = shutil.which("btrfs")
    if program is None:
        return False
    command = [program, "subvolume", verb, *map(str, paths)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _remove(directory: Path) -> bool:
    """Remove the demo's directory, whatever it holds by now; True when nothing is left."""
    for name in _VOLUMES:
        _delete_snapshots(Volume(directory / name))
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():  # read-only snapshots: Btrfs wants them deleted as subvolumes
        walk = os.walk(directory, topdown=False)
        paths = [Path(path) for path, _, _ in walk if os.stat(path).st_ino == _BTRFS_ROOT_INODE]
        _btrfs("delete", *paths)
        shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


def _delete_snapshots(volume: Volume) -> None:
    with suppress(SnapsyncError, OSError):
        for snap in volume.snapshots():
            with suppress(SnapsyncError, OSError):
                volume.delete(snap)
