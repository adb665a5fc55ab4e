"""The types that the API takes."""

import os
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

AnyPath: "TypeAlias" = str | bytes | os.PathLike[str] | os.PathLike[bytes]

Progress: "TypeAlias" = Callable[[str, int, int, str], object]
"""Called as `progress(stage, done, total, unit)` about ten times a second, on the caller's thread.
`unit` is "bytes" or "entries"; `total` is 0 while it is not known."""
