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
    from snapsync._native import __version__ as __version__
    from snapsync.api.comparisons import diff as diff
    from snapsync.api.comparisons import verify as verify
    from snapsync.api.history import find as find
    from snapsync.api.history import log as log
    from snapsync.api.history import log_of as log_of
    from snapsync.api.restores import clone as clone
    from snapsync.api.restores import mount as mount
    from snapsync.api.restores import restore as restore
    from snapsync.api.restores import restore_paths as restore_paths
    from snapsync.api.restores import restore_to as restore_to
    from snapsync.api.restores import versions as versions
    from snapsync.api.roles import promote as promote
    from snapsync.api.roles import recover as recover
    from snapsync.api.roles import rejoin as rejoin
    from snapsync.api.roles import switch as switch
    from snapsync.api.rounds import plan as plan
    from snapsync.api.rounds import receive as receive
    from snapsync.api.rounds import send as send
    from snapsync.api.rounds import sync as sync
    from snapsync.api.snapshots import prune as prune
    from snapsync.errors import HistoryWarning as HistoryWarning
    from snapsync.errors import IntegrityError as IntegrityError
    from snapsync.errors import InterruptedRound as InterruptedRound
    from snapsync.errors import RefusedError as RefusedError
    from snapsync.errors import SnapsyncError as SnapsyncError
    from snapsync.errors import UsageError as UsageError
    from snapsync.manifest import Manifest as Manifest
    from snapsync.reports.comparisons import VerifyReport as VerifyReport
    from snapsync.reports.rounds import PlanReport as PlanReport
    from snapsync.reports.rounds import ReceiveReport as ReceiveReport
    from snapsync.reports.rounds import SendReport as SendReport
    from snapsync.reports.rounds import SyncReport as SyncReport
    from snapsync.reports.snapshots import PruneReport as PruneReport
    from snapsync.reports.snapshots import StatusReport as StatusReport
    from snapsync.reports.values import Counters as Counters
    from snapsync.reports.values import Snapshot as Snapshot
    from snapsync.types import Progress as Progress
    from snapsync.volume import Volume as Volume
else:
    _HOMES = {
        "_native": "__version__",
        "api.comparisons": "diff verify",
        "api.history": "find log log_of",
        "api.restores": "clone mount restore restore_paths restore_to versions",
        "api.roles": "promote recover rejoin switch",
        "api.rounds": "plan receive send sync",
        "api.snapshots": "prune",
        "errors": "HistoryWarning IntegrityError InterruptedRound RefusedError SnapsyncError UsageError",
        "manifest": "Manifest",
        "reports.comparisons": "VerifyReport",
        "reports.rounds": "PlanReport ReceiveReport SendReport SyncReport",
        "reports.snapshots": "PruneReport StatusReport",
        "reports.values": "Counters Snapshot",
        "types": "Progress",
        "volume": "Volume",
    }
    __all__ = sorted(name for names in _HOMES.values() for name in names.split())

    def __getattr__(name):
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names.split():
                value = getattr(import_module(f"{__name__}.{home}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
