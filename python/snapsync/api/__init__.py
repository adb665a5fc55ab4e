"""The verbs for Python, by families of verbs: thin, typed calls into the native half.

Paths may be `str`, `bytes` or anything with `__fspath__`; where a snapshot may stand, `VOLUME@SNAP` names
one, SNAP being a name, an id, a sequence number, `latest`, or a date or time. Long calls release the GIL.
Ctrl-C stops them with KeyboardInterrupt in a state that the next call heals.

Raised by all: UsageError (the arguments make no sense), RefusedError (going on would destroy something),
IntegrityError (something is not what it should be), InterruptedRound (stopped, can be resumed), all under
SnapsyncError; and OSError for what the file systems answer. Each has `.advice` and `.exit_code`.
"""
