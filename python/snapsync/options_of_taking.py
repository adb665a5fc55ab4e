"""The options for taking a snapshot by itself."""

from snapsync.options import JobsOptions
from snapsync.options_of_commands import HookOptions
from snapsync.options_of_reading import ReadingOptions


class TakeOptions(ReadingOptions, HookOptions, JobsOptions, total=False):
    """The options for taking a snapshot by itself."""
