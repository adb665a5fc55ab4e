"""The way in from the shell: signals, errors and exit codes. The verbs are in `snapsync.cli.commands`.

Nothing of weight is imported before `run` stands ready to turn what goes wrong into a sentence.
"""

import gc
import os
import signal
import sys
from types import FrameType

_STOPPING = (signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Run the command line and leave with the exit code of the contract."""
    gc.set_threshold(50_000)  # imported modules stay: collecting garbage among them is a tenth of a start
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    vendored = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_vendor")
    if os.path.isdir(vendored):  # Debian's package brings libraries that are newer than Debian's own
        sys.path.insert(0, vendored)
    code = run(sys.argv[1:])
    gc.freeze()  # nor are they collected at the end
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. No exception leaves here but SystemExit."""
    try:
        return _invoke(arguments)
    except BrokenPipeError:  # the reader of stdout closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, as_json="--json" in arguments)


def _invoke(arguments: list[str]) -> int:
    from snapsync.cli.output import writing

    code = _verb(arguments)
    with writing():
        print(end="", flush=True)  # a full disk is noticed here, and not when Python exits
    return code


def _verb(arguments: list[str]) -> int:
    """Read the line, in one of the two ways that `snapsync.cli.parse` tells of, and do what it says."""
    if arguments == ["--version"]:
        from snapsync._native import __version__

        print(f"snapsync {__version__}")
        return 0
    if arguments[:2] == ["complete", "--"]:  # what the scripts of `completion` ask
        from snapsync.cli.complete import answer

        return answer(arguments[2:])
    from snapsync.cli.parse.plain import understand
    from snapsync.cli.parse.verbs import find

    verb = find(arguments[0]) if arguments else None
    given = understand(verb, arguments[1:]) if verb else None
    if verb and given is not None:
        return verb.run(given)
    from snapsync.cli.parse import full

    return full.run(arguments)


def _fail(error: BaseException, *, as_json: bool) -> int:
    """Tell what went wrong and return its exit code."""
    if isinstance(error, KeyboardInterrupt):  # a second interrupt must not cut the message off
        for number in (signal.SIGINT, *_STOPPING):
            signal.signal(number, signal.SIG_IGN)
    from snapsync.cli.output import print_failure
    from snapsync.errors import debugging, describe

    if debugging():
        import traceback

        traceback.print_exception(error)
    failure = describe(error)
    print_failure(failure, as_json=as_json)
    return failure.exit_code


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
