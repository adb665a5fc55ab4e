"""`snapsync serve`: the other end of a sync from another host."""

import sys

from snapsync import _native
from snapsync.cli.output import Output, on_terminal, take_stdout
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Option, Unpack
from snapsync.errors import ExitCode, UsageError, told
from snapsync.options import JobsOptions


@verb(
    place=90,
    examples=[
        "snapsync serve --restrict-to /backup --receive-only",
        'command="snapsync serve --restrict-to /backup --receive-only",restrict ssh-ed25519 AAAA...',
    ],
)
def serve(
    output: Output,
    restrict_to: Annotated[
        str | None,
        Option(
            "--restrict-to",
            metavar="DIR",
            help="Only volumes beneath DIR, or the one part VOLUME@PART/; relative paths begin there.",
        ),
    ] = None,
    read_only: Annotated[
        bool,
        Option(
            "--read-only",
            help="Only send from volumes and tell of them; change nothing but a snapshot for each standby.",
        ),
    ] = False,
    receive_only: Annotated[
        bool, Option("--receive-only", help="Only receive into volumes, and verify standbys.")
    ] = False,
    allow_prune: Annotated[
        bool,
        Option(
            "--allow-prune",
            help="With any of the others: let clients delete old snapshots (sync --keep-…, prune).",
        ),
    ] = False,
    allow_adopt: Annotated[
        bool,
        Option(
            "--allow-adopt",
            help="With any of the others: let clients adopt what is in directories (sync --adopt).",
        ),
    ] = False,
    **options: Unpack[JobsOptions],
) -> int:
    """Be the other end of a command on another host, such as a sync or a verify.

    `snapsync sync` and others start this over ssh; it speaks on stdin and stdout, and ends with its client.
    As a forced command in authorized_keys it keeps a key to one directory and one direction. Sending a volume
    takes a snapshot of it. With --read-only that goes once its standby has a newer one, and clients set no
    name, no pattern and no rule for old snapshots; nor do they make a volume of a directory that is none.
    """
    del output  # the client prints whatever there is to say
    if on_terminal(sys.stdin):
        message = "nobody can talk to this from a terminal"
        raise told(UsageError(message), message, "`snapsync sync` starts it on the other host by itself")
    if read_only and receive_only:
        message = "a server that neither sends nor receives serves nobody"
        raise told(UsageError(message), message, "give --read-only or --receive-only")
    take_stdout("peer")
    code = _native.serve(
        restrict_to=restrict_to,
        read_only=read_only,
        receive_only=receive_only,
        allow_prune=allow_prune,
        allow_adopt=allow_adopt,
        **options,
    )
    return ExitCode(int(code))
