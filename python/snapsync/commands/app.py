"""The verbs with their arguments, options and help. The work is done by the module of the same name."""

from enum import StrEnum

from snapsync import units
from snapsync.commands.declare import Annotated, Argument, Option, Verbs
from snapsync.errors import UsageError, told
from snapsync.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

verbs = Verbs()

Json = Annotated[bool, Option("--json", help="One JSON object on stdout; sizes are bytes.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress, notes or summary.")]
Jobs = Annotated[
    int,
    Option("--jobs", "-j", min=0, max=1024, metavar="N", help="Threads, at most 1,024; 0 means all cores."),
]
Name = Annotated[str | None, Option("--name", metavar="NAME", help="Name of the snapshot to take.")]
VolumeArgument = Annotated[str, Argument(metavar="VOLUME", help="The root directory of a volume.")]


Compress = Annotated[
    str,
    Option(
        "--compress",
        metavar="zstd:N|none",
        help="How data travels; what does not shrink is sent as it is.",
    ),
]
NoSpaceCheck = Annotated[
    bool,
    Option(
        "--no-space-check", help="Do not look beforehand whether there is room; a full disk ends it then."
    ),
]
BandwidthLimit = Annotated[
    str | None,
    Option("--bwlimit", metavar="RATE", help="Bytes a second at most; K, M and G are powers of 1,024."),
]
Rsh = Annotated[str, Option("--rsh", metavar="COMMAND", help="What runs a command on another host.")]
RemotePath = Annotated[str, Option("--remote-path", metavar="COMMAND", help="What snapsync is called there.")]
SshOptions = Annotated[
    list[str] | None,
    Option("-o", metavar="OPTION", help="An option for ssh, as its own -o. Repeat for more."),
]


def _bad(option: str, why: str) -> Exception:
    message = f"invalid value for {option}: {why}"
    return told(UsageError(message), message, "`snapsync VERB --help` shows what it may be")


def scrub_period(text: str) -> int | None:
    """The seconds in which everything is read again; None for `off`."""
    try:
        return None if text == "off" else units.duration(text)
    except ValueError:
        raise _bad("--scrub", f"{text!r} is neither a duration, such as 30d, nor `off`") from None


def scrub_bytes(text: str) -> int:
    try:
        return units.rate(text)
    except ValueError:
        raise _bad("--scrub-limit", f"{text!r} is no number of bytes, such as 4G") from None


def percent(text: str | None) -> float | None:
    """The number that N% means."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise _bad("--sample", f"{text!r} is no share in percent") from None


Check = Annotated[
    bool,
    Option("--check", help="First compare all of the standby's tree with its newest snapshot."),
]
DiscardDrift = Annotated[
    bool,
    Option(
        "--discard-drift",
        help="Keep what was changed by hand on the standby as a snapshot, and go back first.",
    ),
]
ReadOnly = Annotated[
    bool | None,
    Option(
        "--read-only/--read-write",
        help="Whether the tree of a standby on Btrfs is read-only between rounds.",
    ),
]
Timeout = Annotated[
    int,
    Option(
        "--timeout",
        min=2,
        max=86_400,
        metavar="SECONDS",
        help="Give the other host up when nothing was heard of it for so long.",
    ),
]
Scrub = Annotated[
    str,
    Option(
        "--scrub",
        metavar="PERIOD|off",
        help="Read a share of what is believed unchanged again, on both sides: all of it in PERIOD.",
    ),
]
ScrubLimit = Annotated[
    str,
    Option("--scrub-limit", metavar="SIZE", help="Bytes that a round reads again at most, on each side."),
]
Channels = Annotated[
    int,
    Option("--channels", min=1, max=64, metavar="N", help="Connections to the other host."),
]


def _keep(period: str) -> Option:
    help_ = f"Keep the newest snapshot of each of the N latest {period} (UTC) that have any."
    return Option(min=1, metavar="N", help=help_)


KeepLast = Annotated[int | None, Option(min=1, metavar="N", help="Keep the N newest snapshots.")]
KeepHourly = Annotated[int | None, _keep("hours")]
KeepDaily = Annotated[int | None, _keep("days")]
KeepWeekly = Annotated[int | None, _keep("weeks")]
KeepMonthly = Annotated[int | None, _keep("months")]
KeepYearly = Annotated[int | None, _keep("years")]


def counts(**keep: int | None) -> dict[str, int]:
    """The --keep options that were given."""
    return {name: count for name, count in keep.items() if count is not None}


def path(text: str | None) -> "Path | None":
    """The path of a file that was given."""
    if text is None:
        return None
    from pathlib import Path

    return Path(text)


def rate(text: str | None) -> int | None:
    """The bytes a second that RATE means."""
    if text is None:
        return None
    try:
        return units.rate(text)
    except ValueError as error:
        raise _bad("--bwlimit", str(error)) from None


def examples(*lines: str) -> str:
    """An epilog that shows commands as they are typed."""
    return "\n".join(["Examples:", "", "\b", *(f"  {line}" for line in lines)])


@verbs.verb(
    epilog=examples(
        "snapsync sync /srv/data /mnt/standby",
        "snapsync sync /srv/data /mnt/standby --name monday",
        "snapsync sync /srv/data /mnt/standby --keep-last 10 --keep-daily 14 --keep-monthly 12",
        "snapsync sync /srv/data root@backup:/mnt/standby",
        "snapsync sync /srv/data /mnt/standby --exclude '*.tmp' --exclude '/cache/*' --include /cache/keep",
    )
)
def sync(
    source: Annotated[str, Argument(metavar="SOURCE", help="The primary: a directory or a volume.")],
    target: Annotated[
        str,
        Argument(metavar="TARGET", help="The standby: absent or empty in the first round."),
    ],
    name: Name = None,
    snap: Annotated[
        str | None,
        Option(
            "--snap",
            metavar="SNAP",
            help="Take no snapshot: bring this one of SOURCE, or `latest`. Several standbys then have it.",
        ),
    ] = None,
    keep_last: KeepLast = None,
    keep_hourly: KeepHourly = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_yearly: KeepYearly = None,
    strict: Annotated[
        bool,
        Option("--strict", help="Refuse if TARGET cannot hold everything SOURCE holds."),
    ] = False,
    no_space_check: NoSpaceCheck = False,
    exclude: Annotated[
        list[str] | None,
        Option(
            "--exclude",
            metavar="PATTERN",
            help="Leave out what PATTERN names, in gitignore syntax from SOURCE down. Repeat for more.",
        ),
    ] = None,
    exclude_from: Annotated[
        list[str] | None,
        Option("--exclude-from", metavar="FILE", help="The same for each line of FILE, before those."),
    ] = None,
    include: Annotated[
        list[str] | None,
        Option(
            "--include",
            metavar="PATTERN",
            help="Bring back what PATTERN names and an earlier one leaves out, but not from inside a"
            " directory that is left out itself: exclude DIR/* then. Repeat for more.",
        ),
    ] = None,
    everything: Annotated[
        bool,
        Option("--everything", help="Leave nothing out any more."),
    ] = False,
    check: Check = False,
    discard_drift: DiscardDrift = False,
    read_only: ReadOnly = None,
    new_standby: Annotated[
        bool,
        Option("--new-standby", help="Begin anew where a standby is known that is not there any more."),
    ] = False,
    scrub: Scrub = "30d",
    scrub_limit: ScrubLimit = "4G",
    compress: Compress = "zstd:1",
    bwlimit: BandwidthLimit = None,
    rsh: Rsh = "ssh",
    remote_path: RemotePath = "snapsync",
    ssh_options: SshOptions = None,
    timeout: Timeout = 60,
    channels: Channels = 1,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Bring TARGET in step with SOURCE.

    One of them may be [user@]host:PATH: snapsync then runs on that host too, over your own ssh.

    One round: snapshot SOURCE, apply its changes to TARGET, snapshot TARGET. The first round restores the
    whole tree. What an earlier, interrupted run left is healed first: whatever is killed, and whenever,
    after the next command TARGET holds the old snapshot or the new one.

    Patterns are SOURCE's and kept for later rounds, to whichever TARGET. Given again, they take the place of
    all that were kept; what they leave out from then on is deleted from every standby of SOURCE at its next
    round, and what they no longer leave out is created there.

    A standby that was changed by hand is refused before anything is applied: on Btrfs whatever was changed,
    elsewhere where the round would touch it, or anywhere with --check.

    A standby that is known at TARGET and is not there, as when its disk is not mounted, is not made anew:
    the round is refused without --new-standby.

    Each round reads again, on both sides, a share of the files that are believed unchanged. Those that differ
    are named, the round exits with 4, and the next one brings them again.

    With any --keep option, the snapshots on both sides that none of them keeps are deleted after the round,
    but for held ones and bases of standbys, as `snapsync prune` does on one volume.
    """
    from snapsync.commands.sync import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        source,
        target,
        name=name,
        snap=snap,
        keep=counts(
            last=keep_last,
            hourly=keep_hourly,
            daily=keep_daily,
            weekly=keep_weekly,
            monthly=keep_monthly,
            yearly=keep_yearly,
        ),
        strict=strict,
        no_space_check=no_space_check,
        exclude=exclude or [],
        exclude_from=exclude_from or [],
        include=include or [],
        everything=everything,
        check=check,
        discard_drift=discard_drift,
        read_only=read_only,
        new_standby=new_standby,
        scrub=scrub_period(scrub),
        scrub_limit=scrub_bytes(scrub_limit),
        compress=compress,
        bwlimit=rate(bwlimit),
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options or [],
        timeout=timeout,
        channels=channels,
        jobs=jobs,
    )


@verbs.verb(
    epilog=examples(
        "snapsync send /srv/data@monday -o monday.delta",
        "snapsync send /srv/data@tuesday --base /srv/data@monday | ssh host snapsync receive /mnt/standby",
        "snapsync send /snaps/5 --base /snaps/4 | snapsync receive --as-snapshot /backup",
    )
)
def send(
    snapshot: Annotated[
        str, Argument(metavar="SNAP", help="VOLUME@SNAP, or a directory that is a snapshot.")
    ],
    base: Annotated[
        list[str] | None,
        Option(
            "--base",
            metavar="BASE",
            help="A snapshot that the receiver has: only what changed since is sent. "
            " Of several the newest is taken.",
        ),
    ] = None,
    file: Annotated[
        str | None, Option("--output", "-o", metavar="FILE", help="Write the delta there.")
    ] = None,
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="What it is called where it is received.")
    ] = None,
    compress: Compress = "zstd:1",
    bwlimit: BandwidthLimit = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Write a snapshot as a delta, to a file or a pipe.

    Without --base all of it is sent. A directory is a snapshot if it is a read-only Btrfs subvolume, or was
    made by `receive --as-snapshot`. Without --output the delta goes to stdout, and the report to stderr.
    """
    from snapsync.commands.send import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        snapshot,
        base or [],
        file,
        name=name,
        compress=compress,
        bwlimit=rate(bwlimit),
        jobs=jobs,
    )


@verbs.verb(
    epilog=examples(
        "snapsync receive /mnt/standby -i monday.delta",
        "snapsync receive --as-snapshot /backup < monday.delta",
    )
)
def receive(
    volume: Annotated[
        str | None,
        Argument(metavar="VOLUME", help="The standby: absent or empty for a first, whole delta."),
    ] = None,
    file: Annotated[
        str | None, Option("--input", "-i", metavar="FILE", help="Read the delta from there.")
    ] = None,
    as_snapshot: Annotated[
        str | None,
        Option(
            "--as-snapshot",
            metavar="DIR",
            help="Make a snapshot in DIR instead, from the base that was received there before.",
        ),
    ] = None,
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="With --as-snapshot: its name in DIR.")
    ] = None,
    strict: Annotated[bool, Option("--strict", help="Refuse if the target cannot hold everything.")] = False,
    no_space_check: NoSpaceCheck = False,
    check: Check = False,
    discard_drift: DiscardDrift = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Apply a delta, from a file or a pipe, all or nothing.

    A standby takes the deltas of its own primary, each from where the last one led. With --as-snapshot
    DIR/NAME is made, as `btrfs receive` does: a read-only subvolume on Btrfs. If the delta ends too early,
    what has arrived is kept, and the same delta goes on from there.
    """
    from snapsync.commands.receive import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        volume,
        file,
        as_snapshot=as_snapshot,
        name=name,
        strict=strict,
        no_space_check=no_space_check,
        check=check,
        discard_drift=discard_drift,
        jobs=jobs,
    )


@verbs.verb(epilog=examples("snapsync recover /mnt/standby", "snapsync recover /mnt/standby --back"))
def recover(
    volume: VolumeArgument,
    back: Annotated[
        bool,
        Option("--back", help="Take back what was begun: the tree is what its newest snapshot holds."),
    ] = False,
    adopt: Annotated[
        bool,
        Option("--adopt", help="Go on with a store that was moved, copied or restored to where it is."),
    ] = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Finish what an interrupted command left, or take it back.

    Every command that writes does this first; this one does nothing else. A commit that cannot go on is taken
    back at once. Where that failed too, mend the cause and choose: without --back the commit goes on to the
    new snapshot, with --back the tree becomes again what it was.
    """
    from snapsync.commands.recover import run

    return run(Output(as_json=as_json, quiet=quiet), volume, back=back, adopt=adopt, jobs=jobs)


@verbs.verb(epilog=examples("snapsync promote /mnt/standby", "snapsync promote /mnt/standby --discard-drift"))
def promote(
    volume: Annotated[str, Argument(metavar="VOLUME", help="The root directory of a standby.")],
    name: Name = None,
    discard_drift: DiscardDrift = False,
    accept_drift: Annotated[
        bool,
        Option("--accept-drift", help="Go on with what was changed by hand on the standby."),
    ] = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a standby the primary.

    What an interrupted round left is finished or discarded without the old primary, and the tree is checked
    to be what its newest snapshot holds. From then on every standby refuses the old primary: `snapsync
    rejoin` makes it a standby of this one.
    """
    from snapsync.commands.promote import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        volume,
        name=name,
        discard_drift=discard_drift,
        accept_drift=accept_drift,
        jobs=jobs,
    )


@verbs.verb(
    epilog=examples(
        "snapsync rejoin /srv/data /mnt/standby --preview",
        "snapsync rejoin /srv/data root@backup:/mnt/standby",
    )
)
def rejoin(
    old: Annotated[str, Argument(metavar="OLD", help="The old primary, or a standby that went its own way.")],
    new: Annotated[str, Argument(metavar="NEW", help="The primary that it is to follow.")],
    preview: Annotated[
        bool, Option("--preview", help="Only show what OLD would leave behind; change nothing.")
    ] = False,
    file: Annotated[
        str | None,
        Option("--output", metavar="FILE.arrow", help="With --preview: write the manifest there."),
    ] = None,
    compress: Compress = "zstd:1",
    bwlimit: BandwidthLimit = None,
    rsh: Rsh = "ssh",
    remote_path: RemotePath = "snapsync",
    ssh_options: SshOptions = None,
    timeout: Timeout = 60,
    channels: Channels = 1,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make OLD a standby of NEW.

    What OLD has of its own since the newest snapshot that both have is kept as snapshots of OLD: nothing is
    lost. OLD goes back to the common snapshot, and then gets what changed on NEW since; unchanged data is
    neither read nor sent. One of them may be [user@]host:PATH.
    """
    from snapsync.commands.rejoin import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        old,
        new,
        preview=preview,
        file=path(file),
        compress=compress,
        bwlimit=rate(bwlimit),
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options or [],
        timeout=timeout,
        channels=channels,
        jobs=jobs,
    )


@verbs.verb(epilog=examples("snapsync switch /srv/data root@backup:/mnt/standby"))
def switch(
    primary: Annotated[str, Argument(metavar="PRIMARY", help="The primary that is to be a standby.")],
    standby: Annotated[str, Argument(metavar="STANDBY", help="Its standby that is to be the primary.")],
    compress: Compress = "zstd:1",
    bwlimit: BandwidthLimit = None,
    rsh: Rsh = "ssh",
    remote_path: RemotePath = "snapsync",
    ssh_options: SshOptions = None,
    timeout: Timeout = 60,
    channels: Channels = 1,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Let PRIMARY and STANDBY change roles.

    A last round brings STANDBY all that PRIMARY holds; then PRIMARY is a standby, and STANDBY the primary.
    Stop what writes to PRIMARY first: where it is still written to after a few rounds nothing is switched.
    Interrupted, the same command goes on. One of them may be [user@]host:PATH.
    """
    from snapsync.commands.switch import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        primary,
        standby,
        compress=compress,
        bwlimit=rate(bwlimit),
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options or [],
        timeout=timeout,
        channels=channels,
        jobs=jobs,
    )


@verbs.verb(epilog=examples("snapsync init /srv/data", "snapsync init /mnt/standby --read-only"))
def init(
    volume: VolumeArgument,
    read_only: ReadOnly = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a directory a volume, or say how one is kept.

    A directory becomes a primary, as with the first `snapshot` or `sync`; with --read-only an empty Btrfs
    subvolume becomes a standby, of whichever primary is synced to it first.
    """
    from snapsync.commands.init import run

    return run(Output(as_json=as_json, quiet=quiet), volume, read_only=read_only)


@verbs.verb(
    epilog=examples(
        "snapsync serve --restrict-to /backup --receive-only",
        'command="snapsync serve --restrict-to /backup --receive-only",restrict ssh-ed25519 AAAA...',
    )
)
def serve(
    restrict_to: Annotated[
        str | None,
        Option("--restrict-to", metavar="DIR", help="Only volumes beneath DIR; relative paths begin there."),
    ] = None,
    read_only: Annotated[
        bool,
        Option(
            "--read-only",
            help="Only send from volumes, and change nothing in them but one snapshot for each standby.",
        ),
    ] = False,
    receive_only: Annotated[
        bool, Option("--receive-only", help="Only receive into volumes, and verify standbys.")
    ] = False,
    allow_prune: Annotated[
        bool,
        Option(
            "--allow-prune",
            help="With any of the others: let clients delete old snapshots (sync --keep-…).",
        ),
    ] = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Be the other end of a sync or a verify from another host.

    `snapsync sync` and `verify` start this over ssh; it speaks on stdin and stdout, and ends with its client.
    As a forced command in authorized_keys it keeps a key to one directory and one direction. Sending a volume
    takes a snapshot of it. With --read-only that goes once its standby has a newer one, and clients set no
    name, no pattern and no rule for old snapshots; nor do they make a volume of a directory that is none.
    """
    from snapsync.commands.serve import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        path(restrict_to),
        read_only=read_only,
        receive_only=receive_only,
        allow_prune=allow_prune,
        jobs=jobs,
    )


@verbs.verb(
    epilog=examples("snapsync snapshot /srv/data", "snapsync snapshot /srv/data --name before-upgrade")
)
def snapshot(
    volume: VolumeArgument,
    name: Name = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Take a snapshot of VOLUME.

    On Btrfs it is instant; elsewhere only files that changed since the last snapshot are cloned or copied.
    """
    from snapsync.commands.snapshot import run

    return run(Output(as_json=as_json, quiet=quiet), volume, name=name, jobs=jobs)


@verbs.verb(
    "list",
    epilog=examples("snapsync list /srv/data", "snapsync list /srv/data --quiet"),
)
def list_(volume: VolumeArgument, as_json: Json = False, quiet: Quiet = False) -> int:
    """List the snapshots of VOLUME, and their clones.

    Oldest first; with --quiet only their names.
    """
    from snapsync.commands.list import run

    return run(Output(as_json=as_json, quiet=quiet), volume)


@verbs.verb(epilog=examples("snapsync delete /srv/data@monday", "snapsync delete /srv/data@3"))
def delete(
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot or clone to delete.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Delete one snapshot or clone.

    Any order will do; the others stay whole. One that is held, or the base of a standby, is not deleted. A
    clone's directory is deleted if it still is that clone.
    """
    from snapsync.commands.delete import run

    return run(Output(as_json=as_json, quiet=quiet), address)


@verbs.verb(
    epilog=examples(
        "snapsync restore /srv/data@monday",
        "snapsync restore /srv/data@monday --to /mnt/new",
        "snapsync restore /srv/data@monday etc/fstab home/ann --to /tmp/found",
        "snapsync restore /srv/data@monday etc/fstab",
    )
)
def restore(
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to restore from.")],
    paths: Annotated[
        list[str] | None,
        Argument(metavar="[PATH]...", help="Only these, from the root of VOLUME, or absolute in it."),
    ] = None,
    to: Annotated[
        str | None,
        Option("--to", metavar="DIR", help="Restore there: DIR is absent or empty."),
    ] = None,
    name: Name = None,
    strict: Annotated[bool, Option("--strict", help="Refuse if the target cannot hold everything.")] = False,
    no_space_check: NoSpaceCheck = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Bring back a snapshot, or some paths of it.

    With --to DIR becomes an ordinary directory that holds the snapshot, or the PATHs and the directories
    above them. Where it is on the file system of VOLUME and that can share blocks, data is not copied.

    Without --to VOLUME holds again what the snapshot holds, or each PATH becomes what it was; only what
    differs is written. What VOLUME held before is kept as a snapshot first. What a whole volume holds then is
    one too, which its standbys get with their next round.
    """
    from snapsync.commands.restore import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        address,
        paths or [],
        to=to,
        name=name,
        strict=strict,
        no_space_check=no_space_check,
        jobs=jobs,
    )


@verbs.verb(
    epilog=examples(
        "snapsync clone /srv/data@monday /srv/trial",
        "snapsync clone /srv/data@latest /srv/trial --name try-upgrade",
        "snapsync delete /srv/data@try-upgrade",
    )
)
def clone(
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to copy.")],
    directory: Annotated[str, Argument(metavar="DIR", help="Where the copy is to be: absent or empty.")],
    name: Annotated[
        str | None, Option("--name", metavar="NAME", help="Name of the clone; that of DIR without it.")
    ] = None,
    strict: Annotated[bool, Option("--strict", help="Refuse if the target cannot hold everything.")] = False,
    no_space_check: NoSpaceCheck = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a writable copy of a snapshot.

    What is written to it never reaches the snapshot. On Btrfs, on the volume's own file system and without
    patterns, it is instant and takes no space; on XFS its files share their blocks with the snapshot's.
    `list` shows the clones of a volume, `delete` deletes them.
    """
    from snapsync.commands.clone import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        address,
        directory,
        name=name,
        strict=strict,
        no_space_check=no_space_check,
        jobs=jobs,
    )


@verbs.verb(
    epilog=examples(
        "snapsync browse /srv/data@monday /mnt/monday",
        "umount /mnt/monday",
    )
)
def browse(
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to look into.")],
    directory: Annotated[
        str, Argument(metavar="DIR", help="Where to mount it: an absent or empty directory.")
    ],
    foreground: Annotated[bool, Option("--foreground", help="Stay, and unmount it at the end.")] = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Mount a snapshot read-only.

    Everything is there with its owner, mode, times and attributes, and nobody can write to it. Take the
    snapshot away with `umount DIR`. A Btrfs snapshot is mounted as it is, with .snapsync in it; any other is
    served through FUSE by a process in the background.
    """
    from snapsync.commands.browse import run

    return run(Output(as_json=as_json, quiet=quiet), address, directory, foreground=foreground, jobs=jobs)


@verbs.verb(
    epilog=examples(
        "snapsync versions /srv/data/etc/fstab",
        "snapsync versions /srv/data/etc/fstab --diff 2",
        "snapsync versions /srv/data/etc/fstab --diff 1 2",
        "snapsync versions /srv/data/etc/fstab --restore 1 --to /tmp/fstab",
    )
)
def versions(
    file: Annotated[str, Argument(metavar="FILE", help="A file in a volume; it need not exist any more.")],
    other: Annotated[
        int | None, Argument(metavar="[M]", help="With --diff: the version to compare with.")
    ] = None,
    diff: Annotated[
        int | None,
        Option("--diff", metavar="N", help="Show what changed from version N to M, or to the file now."),
    ] = None,
    restore: Annotated[
        int | None,
        Option("--restore", metavar="N", help="Put version N back; what is there is kept in a snapshot."),
    ] = None,
    to: Annotated[
        str | None, Option("--to", metavar="PATH", help="With --restore: make this file instead.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show every version of one file.

    Versions differ in content, kind or link target: a file that was only touched has no new one. The volume
    is found from FILE upwards.
    """
    from snapsync.commands.versions import run

    return run(Output(as_json=as_json, quiet=quiet), file, other, diff=diff, restore=restore, to=to)


@verbs.verb(
    epilog=examples(
        "snapsync prune /srv/data --keep-last 10 --keep-hourly 24 --keep-daily 14 --dry-run",
        "snapsync prune /mnt/standby --keep-weekly 8 --keep-monthly 12 --keep-yearly 10",
    )
)
def prune(
    volume: VolumeArgument,
    keep_last: KeepLast = None,
    keep_hourly: KeepHourly = None,
    keep_daily: KeepDaily = None,
    keep_weekly: KeepWeekly = None,
    keep_monthly: KeepMonthly = None,
    keep_yearly: KeepYearly = None,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Only say what would go.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Delete the snapshots of VOLUME that nothing keeps.

    What any of the --keep options keeps stays. So do the newest snapshot, those that are held, and what
    standbys go on from. Weeks begin on Monday.
    """
    from snapsync.commands.prune import run

    keep = counts(
        last=keep_last,
        hourly=keep_hourly,
        daily=keep_daily,
        weekly=keep_weekly,
        monthly=keep_monthly,
        yearly=keep_yearly,
    )
    return run(Output(as_json=as_json, quiet=quiet), volume, keep, dry_run=dry_run)


@verbs.verb(epilog=examples("snapsync hold /srv/data@monday --reason 'before the audit'"))
def hold(
    address: Annotated[str, Argument(metavar="VOLUME@SNAP", help="The snapshot to hold.")],
    reason: Annotated[str, Option("--reason", metavar="TEXT", help="Why, for whoever asks.")] = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Keep a snapshot from being deleted.

    Neither `delete` nor `prune` nor a sync that keeps only some removes it until it is released. That counts
    for this VOLUME: its standbys hold their own.
    """
    from snapsync.commands.hold import hold

    return hold(Output(as_json=as_json, quiet=quiet), address, reason)


@verbs.verb(
    epilog=examples("snapsync release /srv/data@monday", "snapsync release /srv/data --standby /mnt/gone")
)
def release(
    address: Annotated[
        str, Argument(metavar="VOLUME@SNAP", help="The snapshot; with --standby only VOLUME.")
    ],
    standby: Annotated[
        str | None,
        Option(
            "--standby", metavar="PATH|ID", help="Forget a standby that is gone, and free what was its base."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Let a snapshot go that is held.

    From then on it can be deleted, and `prune` counts it like any other.
    """
    from snapsync.commands.hold import release

    return release(Output(as_json=as_json, quiet=quiet), address, standby)


@verbs.verb(
    epilog=examples(
        "snapsync diff /srv/data@monday /srv/data@latest",
        "snapsync diff /srv/data@3 /srv/data@4 -o changes.arrow",
        "snapsync diff /srv/data@latest /srv/data --json",
    )
)
def diff(
    base: Annotated[str, Argument(metavar="BASE", help="The older side: VOLUME@SNAP or a directory.")],
    target: Annotated[str, Argument(metavar="TARGET", help="The newer side: VOLUME@SNAP or a directory.")],
    file: Annotated[
        str | None,
        Option("--output", "-o", metavar="FILE.arrow", help="Write the manifest there."),
    ] = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show what changed from BASE to TARGET.

    One line for each changed inode, in the order of their numbers. With --output only totals are shown, and
    the changes are written to an Arrow file, which pyarrow, polars, duckdb and `snapsync inspect` read; it
    takes the place of a file of that name.

    Between snapshots what did not change is not read. Against a directory that is in use every file is read
    on both sides: take a snapshot first.
    """
    from snapsync.commands.diff import run

    return run(Output(as_json=as_json, quiet=quiet), base, target, file, jobs=jobs)


@verbs.verb(
    epilog=examples("snapsync inspect changes.arrow", "snapsync inspect changes.arrow --top 50 --json")
)
def inspect(
    file: Annotated[
        str, Argument(metavar="FILE", help="A manifest or a delta, as `diff -o` or `send` writes it.")
    ],
    top: Annotated[int, Option("--top", "-n", min=0, metavar="N", help="Rows in each table.")] = 10,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show what a manifest or a delta holds.

    Totals, the largest changes, and the directories with most change.
    """
    from pathlib import Path

    from snapsync.commands.inspect import run

    return run(Output(as_json=as_json, quiet=quiet), Path(file), top=top)


@verbs.verb(
    epilog=examples(
        "snapsync verify /srv/data@latest /mnt/standby",
        "snapsync verify /srv/data@3 /mnt/standby@3 --json",
        "snapsync verify /srv/data@latest root@backup:/mnt/standby@latest --sample 5%",
        "snapsync verify --repair /srv/data /mnt/standby",
    )
)
def verify(
    a: Annotated[str, Argument(metavar="A", help="VOLUME, VOLUME@SNAP or a directory.")],
    b: Annotated[str, Argument(metavar="B", help="VOLUME, VOLUME@SNAP or a directory.")],
    quick: Annotated[
        bool, Option("--quick", help="Read no file: sizes, times and addresses stand for content.")
    ] = False,
    sample: Annotated[
        str | None,
        Option(
            "--sample", metavar="N%", help="Read so many of the files: others in each run, and all in time."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Option(
            "--seed", min=0, max=(1 << 64) - 1, metavar="N", help="With --sample: which; default, the time."
        ),
    ] = None,
    repair: Annotated[
        bool, Option("--repair", help="Make B, a standby, what its primary A has in their newest snapshot.")
    ] = False,
    discard_drift: DiscardDrift = False,
    rsh: Rsh = "ssh",
    remote_path: RemotePath = "snapsync",
    ssh_options: SshOptions = None,
    timeout: Timeout = 60,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
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
    from snapsync.commands.verify import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        a,
        b,
        quick=quick,
        sample=percent(sample),
        seed=seed,
        repair=repair,
        discard_drift=discard_drift,
        rsh=rsh,
        remote_path=remote_path,
        ssh_options=ssh_options or [],
        timeout=timeout,
        jobs=jobs,
    )


ConfigFile = Annotated[str | None, Option("--config", metavar="FILE", help="Read only this configuration.")]


@verbs.verb(
    epilog=examples(
        "snapsync status /srv/data",
        "snapsync status --json",
        "snapsync status --max-lag 15m --prometheus /var/lib/node_exporter/snapsync.prom",
    )
)
def status(
    volume: Annotated[
        str | None,
        Argument(metavar="VOLUME", help="The root directory of a volume; all jobs without it."),
    ] = None,
    config: ConfigFile = None,
    max_lag: Annotated[
        str | None,
        Option(
            "--max-lag",
            metavar="TIME",
            help="Judge: standbys may be so old, as in 90s, 15m, 1h30m or 1d; see above.",
        ),
    ] = None,
    prometheus: Annotated[
        str | None,
        Option("--prometheus", metavar="FILE", help="Write metrics there, for a textfile collector."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show where VOLUME stands, or all jobs of the configuration.

    Role, epoch, snapshots and what holds them, how far standbys lag behind, and what is unfinished. Of a
    volume on another machine it tells what is known here.

    A standby is as old as the newest snapshot that it holds. With --max-lag this is a monitoring plugin: one
    line tells the verdict, and the exit code is that of such plugins, not those of other verbs: 0 ok,
    1 warning (young enough, but the last round failed or something is missing), 2 critical (older than TIME),
    3 unknown (how old cannot be told, as before the first round). Critical counts over unknown, and that over
    warning.
    """
    from snapsync.commands.status import run

    most = None
    if max_lag is not None:
        try:
            most = units.duration(max_lag)
        except ValueError as error:
            raise _bad("--max-lag", str(error)) from None
    output = Output(as_json=as_json, quiet=quiet)
    return run(output, volume, config=path(config), most=most, prometheus=path(prometheus))


@verbs.verb(epilog=examples("snapsync run", "snapsync run web mail", "snapsync run --now --parallel 4"))
def run(
    jobs: Annotated[list[str] | None, Argument(metavar="JOB", help="Jobs to run now, due or not.")] = None,
    now: Annotated[bool, Option("--now", "--all", help="Run every job, due or not.")] = False,
    config: ConfigFile = None,
    parallel: Annotated[
        int, Option("--parallel", min=1, max=64, metavar="N", help="Jobs at the same time.")
    ] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Run the jobs of the configuration that are due.

    A job is due when its period has passed since the start of its last good run; one without a period runs
    only when it is named, or with --now. Each is a `snapsync sync` of its own: one that fails does not stop
    the others. The exit code is the highest one of them.

    The configuration is read from /etc/snapsync/config.toml and $XDG_CONFIG_HOME/snapsync/config.toml
    (~/.config without it), each key of the second over the first. It is TOML:

    \b
      [defaults]
      keep = { last = 10, hourly = 24, daily = 14, weekly = 8, monthly = 12 }

    \b
      [job.web]
      source = "/srv/web"
      target = "root@backup:/standby/web"
      period = "15m"

    Other keys are exclude, include, strict, no_space_check, check, read_only, scrub, scrub_limit, compress,
    bwlimit, rsh, remote_path, channels, timeout and ssh_options: the options of `snapsync sync`. `exclude =
    []` leaves nothing out any more. A job that fails again is tried after a minute, two, four, up to its
    period; one whose disk is not mounted is refused, and goes on when it is. What the standby goes without
    is told by `snapsync status`. What became of each job is kept in /var/lib/snapsync for root, else in
    $XDG_STATE_HOME/snapsync, or where SNAPSYNC_STATE_DIR says. Under sudo HOME and the XDG variables do not
    count. Files that others can write are refused: the configuration, and what rsh and ssh_options name.
    """
    from snapsync.commands.run import run

    return run(
        Output(as_json=as_json, quiet=quiet), jobs or [], now=now, config=path(config), parallel=parallel
    )


class ServiceAction(StrEnum):
    """What to do with the service."""

    INSTALL = "install"
    UNINSTALL = "uninstall"


@verbs.verb(
    epilog=examples(
        "snapsync service install",
        "snapsync service install --user --config ~/jobs.toml --dry-run",
        "snapsync service uninstall",
    )
)
def service(
    action: Annotated[ServiceAction, Argument(help="Write the units, or remove them.")],
    user: Annotated[bool, Option("--user", help="For your own service manager, not the machine's.")] = False,
    run_as: Annotated[
        str | None,
        Option(
            "--run-as", metavar="USER", help="Run as this user, who may read every file, and not as root."
        ),
    ] = None,
    config: ConfigFile = None,
    directory: Annotated[
        str | None,
        Option("--dir", metavar="DIR", help="Where units are kept, if not in the usual place."),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Only show what would be written.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Let systemd run the jobs of the configuration.

    Writes snapsync.service, which does `snapsync run`, and snapsync.timer, which starts it every minute, or
    as often as the shortest period says. Nothing is enabled: the commands that do so are shown.

    With --run-as the service has CAP_DAC_READ_SEARCH and no other right of root's. That is enough to send a
    tree of others, on any file system but Btrfs, once root has made it a volume and given its store to that
    user; a standby on this machine has to be the user's own, and goes without owners, devices and what else
    only root can set.
    """
    from snapsync.commands.service import run

    return run(
        Output(as_json=as_json, quiet=quiet),
        action.value,
        user=user,
        run_as=run_as,
        config=path(config),
        directory=path(directory),
        dry_run=dry_run,
    )


@verbs.verb(epilog=examples("snapsync demo", "snapsync demo --keep"))
def demo(
    keep: Annotated[bool, Option("--keep", help="Keep the volumes, to look around in them.")] = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show the whole cycle on a throw-away volume.

    Explained as it goes, in a directory made in the current one and removed at the end. Needs no root,
    and about 40 MiB of space.
    """
    from snapsync.commands.demo import run

    return run(Output(as_json=as_json, quiet=quiet), keep=keep, jobs=jobs)
