"""The plotting library that a page carries in itself."""

import base64
import gzip
import hashlib
from importlib import import_module

from snapsync.errors import UsageError, told
from snapsync.record import Record


class Script(Record):
    """A script of the page: packed as its text stands in the page, and known to browsers by a digest."""

    packed: str
    digest: str


def plotly() -> Script:
    """The script of plotly. Raises UsageError where the package is not installed."""
    try:
        source = import_module("plotly.offline").get_plotlyjs()
    except ImportError:
        message = "cannot make a page: the plotting library is not installed"
        advice = "install it with `pip install 'snapsync[report]'`, or ask for the figures alone with --json"
        raise told(UsageError(message), message, advice) from None
    packed = gzip.compress(source.encode(), 9, mtime=0)
    return Script(base64.b64encode(packed).decode(), digest(source))


def digest(text: str) -> str:
    """How a Content-Security-Policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
