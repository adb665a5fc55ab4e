"""snapsync keeps a standby copy of a file system in step with a primary, through snapshots.

    >>> import snapsync
    >>> report = snapsync.sync("/srv/data", "/mnt/standby")
    >>> report.data_bytes, report.unchanged
    (4096, False)

Importing this package loads nothing but itself: each name below is loaded when it is first used, so a
program that never reads a manifest never loads Arrow.
"""

TYPE_CHECKING = False  # typing takes a tenth of a start
if TYPE_CHECKING:
    from snapsync._native import __version__
    from snapsync.api import (
        Progress,
        Volume,
        browse,
        clone,
        diff,
        promote,
        prune,
        receive,
        recover,
        rejoin,
        restore,
        restore_paths,
        restore_to,
        send,
        switch,
        sync,
        verify,
        versions,
    )
    from snapsync.errors import (
        IntegrityError,
        InterruptedRound,
        RefusedError,
        SnapsyncError,
        UsageError,
    )
    from snapsync.manifest import Manifest
    from snapsync.reports import (
        Counters,
        PruneReport,
        ReceiveReport,
        SendReport,
        Snapshot,
        StatusReport,
        SyncReport,
        VerifyReport,
    )
else:
    _HOMES = {
        "_native": ["__version__"],
        "api": [
            "Progress",
            "Volume",
            "browse",
            "clone",
            "diff",
            "promote",
            "prune",
            "receive",
            "recover",
            "rejoin",
            "restore",
            "restore_paths",
            "restore_to",
            "send",
            "switch",
            "sync",
            "verify",
            "versions",
        ],
        "errors": [
            "IntegrityError",
            "InterruptedRound",
            "RefusedError",
            "SnapsyncError",
            "UsageError",
        ],
        "manifest": ["Manifest"],
        "reports": [
            "Counters",
            "PruneReport",
            "ReceiveReport",
            "SendReport",
            "Snapshot",
            "StatusReport",
            "SyncReport",
            "VerifyReport",
        ],
    }

    def __getattr__(name):
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                value = getattr(import_module(f"{__name__}.{home}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "Counters",
    "IntegrityError",
    "InterruptedRound",
    "Manifest",
    "Progress",
    "PruneReport",
    "ReceiveReport",
    "RefusedError",
    "SendReport",
    "Snapshot",
    "SnapsyncError",
    "StatusReport",
    "SyncReport",
    "UsageError",
    "VerifyReport",
    "Volume",
    "__version__",
    "browse",
    "clone",
    "diff",
    "promote",
    "prune",
    "receive",
    "recover",
    "rejoin",
    "restore",
    "restore_paths",
    "restore_to",
    "send",
    "switch",
    "sync",
    "verify",
    "versions",
]
