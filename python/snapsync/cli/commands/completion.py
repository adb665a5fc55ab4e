"""`snapsync completion`: a script that completes command lines."""

from snapsync.cli.output import Output
from snapsync.cli.parse.verbs import verb
from snapsync.declare import Annotated, Argument
from snapsync.errors import ExitCode, UsageError, told
from snapsync.reports.base import Report

_BASH = r"""_snapsync() {
  local line=${COMP_LINE:0:COMP_POINT} words found cur one
  read -r -a words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  cur=${words[-1]}
  local before=""
  [[ $cur == *[@:=]* ]] && before=${cur%"${cur##*[@:=]}"}
  mapfile -t found < <(snapsync complete -- "${words[@]:1}" 2>/dev/null)
  COMPREPLY=()
  for one in "${found[@]}"; do
    [[ -n $one ]] && COMPREPLY+=("$(printf %q "${one#"$before"}")")
  done
}
complete -o default -F _snapsync snapsync"""
_ZSH = r"""#compdef snapsync
_snapsync() {
  local -a found
  found=("${(@f)$(snapsync complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
  found=("${(@)found:#}")
  if (( $#found )); then compadd -- "${found[@]}"; else _files; fi
}
if [[ $funcstack[1] == _snapsync ]]; then _snapsync "$@"; else compdef _snapsync snapsync; fi"""
_FISH = r"""function __snapsync_complete
  set -l words (commandline -opc) (commandline -ct)
  set -l found (snapsync complete -- $words[2..-1] 2>/dev/null | string match -v '')
  if set -q found[1]
    printf '%s\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c snapsync -f -a '(__snapsync_complete)'"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class CompletionReport(Report):
    """The script of one shell."""

    shell: str
    script: str


@verb(
    place=310,
    examples=[
        "snapsync completion bash > /etc/bash_completion.d/snapsync",
        "snapsync completion zsh > ~/.zfunc/_snapsync",
        "snapsync completion fish > ~/.config/fish/completions/snapsync.fish",
    ],
)
def completion(
    output: Output,
    shell: Annotated[str, Argument(metavar="bash|zsh|fish", help="The shell that the script is for.")],
) -> int:
    """Print a script that completes command lines in a shell.

    It completes verbs, options, names of snapshots after VOLUME@, jobs after `run`, and paths.
    """
    if shell not in _SCRIPTS:
        message = f"cannot complete in {shell!r}"
        raise told(UsageError(message), message, "bash, zsh and fish have scripts")
    output.result(CompletionReport(shell, _SCRIPTS[shell]), [_SCRIPTS[shell]])
    return ExitCode.DONE
