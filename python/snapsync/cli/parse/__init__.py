"""How a command line is read.

Loading typer and building its parser takes longer than a round on Btrfs. So a line is read in two ways:

1. `plain` reads the usual lines, without typer: the options are spelled out, each is given once unless it
   may be repeated, and its value is a text or a number. It makes no guesses and tells no mistakes: where a
   line leaves any doubt it gives up.
2. `full` gives every other line to typer: --help, abbreviations, choices, and all mistakes.

Both read the same declaration. A verb is a function in `snapsync.cli.commands`, in a module of the verb's
name:

    @verb(place=42, examples=["snapsync list /srv/data"])
    def list_(output: Output, volume: VolumeArgument, **options: Unpack[SomeOptions]) -> int:
        '''Help for people, as typer prints it.'''

- `output` comes from --json and --quiet, which every verb has.
- A parameter is an `Annotated[type, Argument(...)]` or an `Annotated[type, Option(...)]`.
- `**options` are all options of one or more groups of `snapsync.options`; they are handed on as they are.

`verbs` makes one list of parameters out of that. `plain` and `full` each make a dictionary of what was
given by it, and `Verb.run` calls the function with it: where an option has a `read`, it makes the value of
the text. What was not given is left to the defaults of the function and of the groups.

No list names the verbs: `verbs.find` imports the module of a verb, and `verbs.names` looks into the
package. So a line loads its own verb and no other, and only `snapsync --help` loads them all. `place` says
where the verb stands there.

A plain line imports neither `typing` nor `dataclasses`, `inspect`, `pathlib` or `tempfile`, each of which
takes as long as the interpreter itself. `tests/test_plain.py` holds `plain` and typer together with random
lines, and `tests/test_cli.py` holds what is loaded. docs/benchmarks.md has the times.
"""
