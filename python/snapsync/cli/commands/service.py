"""`snapsync service`: units with which systemd runs the jobs."""

import os
import pwd
import shutil
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import snapsync
from snapsync import _native
from snapsync.cli.arguments import ConfigFile, path
from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument, Option
from snapsync.errors import ExitCode, RefusedError, UsageError, told
from snapsync.jobs.reports import ServiceReport, Unit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from snapsync.jobs.config import Config

_MARK = "# Written by `snapsync service install`, which replaces it."
_SERVICE, _TIMER = "snapsync.service", "snapsync.timer"


class ServiceAction(StrEnum):
    """What to do with the service."""

    INSTALL = "install"
    UNINSTALL = "uninstall"


@verb(
    place=260,
    examples=[
        "snapsync service install",
        "snapsync service install --user --config ~/jobs.toml --dry-run",
        "snapsync service uninstall",
    ],
)
def service(
    output: Output,
    action: Annotated[ServiceAction, Argument(help="Write the units, or remove them.")],
    user: Annotated[bool, Option("--user", help="For your own service manager, not the machine's.")] = False,
    run_as: Annotated[
        str | None,
        Option(
            "--run-as", metavar="USER", help="Run as this user, who may read every file, and not as root."
        ),
    ] = None,
    config: ConfigFile = None,
    watch: Annotated[
        bool, Option("--watch", help="One service that stays, for rounds every few seconds; no timer.")
    ] = False,
    directory: Annotated[
        "Path | None",
        Option("--dir", read=path, metavar="DIR", help="Where units are kept, if not in the usual place."),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="Only show what would be written.")] = False,
) -> int:
    """Let systemd run the jobs of the configuration.

    Writes snapsync.service, which does `snapsync run`, and snapsync.timer, which starts it every minute, or
    as often as the shortest period says. With --watch snapsync.service does `snapsync run --watch` instead,
    and there is no timer. Nothing is enabled: the commands that do so are shown.

    With --run-as the service has CAP_DAC_READ_SEARCH and no other right of root's. That is enough to send a
    tree of others, on any file system but Btrfs, once root has made it a volume and given its store to that
    user; a standby on this machine has to be the user's own, and goes without owners, devices and what else
    only root can set.

    A job with a log in an object store needs credentials: put EnvironmentFile=FILE into a drop-in of
    snapsync.service, with `systemctl edit`, and AWS_ACCESS_KEY_ID=… and the like into FILE. This command
    leaves drop-ins as they are.
    """
    from snapsync.jobs.config import load

    if run_as is not None:
        _is_user(run_as, user=user)
    home = _home(user) if directory is None else directory.absolute()
    if action is ServiceAction.INSTALL:
        texts = units(load(config), user=user, run_as=run_as, config=config, watch=watch)
        report = _install(home, texts, user=user, dry_run=dry_run)
    else:
        report = _uninstall(home, user=user, dry_run=dry_run)
    output.summary(report, _lines(report))
    return ExitCode.DONE


def units(
    found: "Config", *, user: bool, config: Path | None, run_as: str | None = None, watch: bool = False
) -> dict[str, str]:
    """The text of each unit by its name; the first is the one to enable."""
    periods = [job.period for job in found.jobs.values() if job.period]
    if not periods:
        message = f"no job in {' and '.join(map(str, found.files))} has a period"
        raise told(UsageError(message), message, 'say how often it is to run, as in period = "15m"')
    program = _program()
    if not user:
        _is_safe(program)
    words = ["run", *(["--watch"] if watch else [])]
    words += ["--config", str(config.absolute())] if config else []
    command_line = " ".join([_quoted(program), *(_argument(word) for word in words)])
    kind = _RESIDENT if watch else ["Type=oneshot"]
    service = ["", "[Service]", *kind, *_STOPPING, f"ExecStart={command_line}", *_CONFINED_USER]
    if not user:
        rights = _RIGHTS if run_as is None else _RIGHTS_OF_USER.format(user=run_as).splitlines()
        service += [*_CONFINED, *rights, *_openings(found)]
    if watch:
        service += ["", "[Install]", f"WantedBy={'default' if user else 'multi-user'}.target"]
    text = "\n".join([_MARK, *_description(user), *service, ""])
    if watch:
        return {_SERVICE: text}
    return {_TIMER: _TIMER_TEXT.format(mark=_MARK, seconds=min(60, *periods)), _SERVICE: text}


def _description(user: bool) -> Iterator[str]:
    yield "[Unit]"
    yield "Description=Keep standby copies of file systems in step with their primaries"
    yield "StartLimitIntervalSec=0"
    if not user:
        yield "Wants=network-online.target"
        yield "After=network-online.target local-fs.target"


# 5 is its exit code where it was told to stop.
_RESIDENT = """Type=exec
Restart=always
RestartSec=10s
SuccessExitStatus=5""".splitlines()

_STOPPING = """# Only `snapsync run` is told to stop: it stops the rounds, and the connections outlive them.
KillMode=mixed
TimeoutStopSec=2min""".splitlines()

_CONFINED_USER = """NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077""".splitlines()

# ProtectHome is not here: it keeps volumes from being written.
_CONFINED = """StateDirectory=snapsync
StateDirectoryMode=0700
ProtectSystem=full
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes""".splitlines()

# PrivateDevices and RestrictSUIDSGID are not here: they keep devices and setuid bits from being made.
_RIGHTS = """SystemCallFilter=@mount
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_CHOWN CAP_FOWNER CAP_FSETID
CapabilityBoundingSet=CAP_MKNOD CAP_SETFCAP CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_LEASE""".splitlines()

# Enough to read any tree: what is written is the user's own.
_RIGHTS_OF_USER = """User={user}
Environment=SNAPSYNC_STATE_DIR=%S/snapsync
PrivateDevices=yes
RemoveIPC=yes
RestrictSUIDSGID=yes
AmbientCapabilities=CAP_DAC_READ_SEARCH
CapabilityBoundingSet=CAP_DAC_READ_SEARCH"""

_TIMER_TEXT = """{mark}
[Unit]
Description=Look for rounds of snapsync that are due

[Timer]
OnStartupSec=1min
OnUnitInactiveSec={seconds}s
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def _openings(found: "Config") -> Iterator[str]:
    """The settings that open, of the places that the sandbox closes, those that jobs need."""
    from snapsync.jobs.config import directory_of

    named = (directory_of(place) for job in found.jobs.values() for place in (job.source, job.target))
    places = [Path(directory) for directory in named if directory is not None]
    closed = [Path(path) for path in ("/usr", "/boot", "/efi", "/etc")]
    for place in sorted({place for place in places if any(top in place.parents for top in closed)}):
        # A target that does not exist yet is made in the directory above it.
        for opened in (place, place.parent):
            yield f"ReadWritePaths={_quoted(f'-{opened}')}"
    shared = [Path("/tmp"), Path("/var/tmp")]
    if not any(top in place.parents for top in shared for place in places):
        yield "PrivateTmp=yes"


def _quoted(word: str) -> str:
    """A word in the syntax of systemd. A word that would end the line, or is no text, is refused."""
    if not word.isprintable():
        message = (
            f"{word!r} cannot be written into a unit: it has characters that are not seen, or is no UTF-8"
        )
        raise told(
            UsageError(message), message, "choose a path of letters, digits and signs that can be seen"
        )
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    plain = escaped and not any(c.isspace() or c in "\\\"';" for c in escaped)
    return escaped if plain else f'"{escaped}"'


def _argument(word: str) -> str:
    """A word of a command line after the first: only in these systemd replaces variables."""
    return _quoted(word.replace("$", "$$"))


def _program() -> str:
    """The path of the command snapsync."""
    own = Path(sys.argv[0]).absolute()
    program = str(own) if own.name == "snapsync" and os.access(own, os.X_OK) else shutil.which("snapsync")
    if program is None:
        message = "the command snapsync is not found"
        raise told(UsageError(message), message, "start this as snapsync, from where it is installed")
    return program


def _is_user(name: str, *, user: bool) -> None:
    if user:
        message = "your own service manager runs everything as you"
        raise told(UsageError(message), message, "leave out --user or --run-as")
    try:
        pwd.getpwnam(name)
    except KeyError:
        message = f"there is no user {name!r}"
        advice = f"`useradd --system {name}` makes one" if name.isalnum() else "name one that there is"
        raise told(UsageError(message), message, advice) from None


def _is_safe(program: str) -> None:
    """Refuse a service of root's whose command, Python or package another user can change."""
    for part in (program, sys.executable, str(Path(str(snapsync.__file__)).parent)):
        os.close(_native.trusted("the program", part))


def _home(user: bool) -> Path:
    if not user:
        return Path("/etc/systemd/system")
    from snapsync.jobs import own

    his = own.config_home()
    if his is None:
        message = "this user has no home for units"
        raise told(UsageError(message), message, "name a directory with --dir")
    return his / "systemd/user"


def _install(home: Path, texts: dict[str, str], *, user: bool, dry_run: bool) -> ServiceReport:
    from snapsync.jobs.state import write

    for name in texts:
        _is_own(home / name)
    # Installed with or without --watch after it was installed the other way.
    superfluous = [name for name in (_TIMER,) if name not in texts and _is_own(home / name)]
    if not dry_run:
        home.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write(home / name, text)
        for name in superfluous:
            (home / name).unlink()
    manager = _manager(user)
    commands = (
        *(f"{manager} stop {name}" for name in superfluous),
        f"{manager} daemon-reload",
        f"{manager} enable --now {next(iter(texts))}",
    )
    made = tuple(Unit(str(home / name), text) for name, text in texts.items())
    return ServiceReport("install", made, commands, dry_run)


def _uninstall(home: Path, *, user: bool, dry_run: bool) -> ServiceReport:
    files = [home / name for name in (_TIMER, _SERVICE)]
    there = [file for file in files if _is_own(file)]
    if not there:
        message = f"there are no units of snapsync in {home}"
        raise told(UsageError(message), message, "name their directory with --dir, or use --user")
    if not dry_run:
        for file in there:
            file.unlink()
    manager = _manager(user)
    commands = (f"{manager} stop {there[0].name}", f"{manager} daemon-reload")
    return ServiceReport("uninstall", tuple(Unit(str(file), None) for file in there), commands, dry_run)


def _is_own(file: Path) -> bool:
    """Whether a unit is there. One that was not written by this command is refused."""
    try:
        text = file.read_text("utf-8", "replace")
    except FileNotFoundError:
        return False
    if text.startswith(_MARK):
        return True
    message = f"{file} was not written by `snapsync service install`"
    raise told(RefusedError(message), message, "move it away first, or name another directory with --dir")


def _manager(user: bool) -> str:
    return "systemctl --user" if user else "systemctl"


def _lines(report: ServiceReport) -> Iterator[str]:
    did = {"install": "wrote", "uninstall": "removed"}[report.action]
    for unit in report.units:
        if report.dry_run and unit.text is not None:
            yield f"--- {unit.path}"
            yield unit.text
        else:
            yield f"{'would have ' if report.dry_run else ''}{did} {unit.path}"
    yield "next:"
    for command in report.commands:
        yield f"  {command}"
