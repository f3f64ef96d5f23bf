"""``accelerator completion bash|zsh|fish``: the script that a shell sources, so that Tab asks `accelerator`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from accelerator.cli.actions import run_alone
from accelerator.errors import ConfigError, did_you_mean

_EPILOG = """examples:
  eval "$(accelerator completion bash)"                          in ~/.bashrc
  eval "$(accelerator completion zsh)"                           in ~/.zshrc, after compinit
  accelerator completion fish | source                           in ~/.config/fish/config.fish

What is completed: commands, actions and flags; groups and options (model=<Tab>); sections and keys
(optimizer.l<Tab>), and the values of what has few (optimizer.fused=<Tab>); pipelines and their steps; runs
(accelerator checkpoint list <Tab>)."""

# A word is what stands between blanks. Bash also breaks it at `=` and `:` and replaces what follows the last break, so
# what comes before is taken off the answers. After a group, a key or a section no blank is put.
BASH = r"""_accelerator_completion() {
    local line="${COMP_LINE:0:COMP_POINT}" breaks="" taken="" reply
    local word="${line##*[[:space:]]}"
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+="="
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=":"
    [[ -n $breaks && $word == *[$breaks]* ]] && taken="${word%"${word##*[$breaks]}"}"
    COMPREPLY=()
    while IFS= read -r reply; do
        [[ -n $reply ]] && COMPREPLY+=("${reply#"$taken"}")
    done < <(COMP_LINE="$line" COMP_POINT= "${COMP_WORDS[0]/#\~/$HOME}" -sc query=bash 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.:/] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o bashdefault -o default -F _accelerator_completion accelerator
"""

ZSH = r"""#compdef accelerator
_accelerator() {
    local line value shown typed="${(j: :)${(@Q)words[1,CURRENT-1]}} $PREFIX"
    local -a open open_shown closed closed_shown
    while IFS= read -r line; do
        [[ -n $line ]] || continue
        value=${line%%$'\t'*} shown=$value
        [[ $line == *$'\t'* ]] && shown="$value  -- ${line#*$'\t'}"
        if [[ $value == *[=.:/] ]]; then
            open+=("$value") open_shown+=("$shown")
        else
            closed+=("$value") closed_shown+=("$shown")
        fi
    done < <(COMP_LINE=$typed COMP_POINT= ${(Q)words[1]/#\~/$HOME} -sc query=zsh 2>/dev/null)
    if (( ! ${#open} && ! ${#closed} )); then
        _files
        return
    fi
    (( ${#open} )) && compadd -Q -l -S '' -d open_shown -a open
    (( ${#closed} )) && compadd -Q -l -d closed_shown -a closed
    return 0
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _accelerator accelerator
"""

FISH = r"""function __accelerator_completion
    set -l words (commandline -opc)
    set -lx COMP_LINE (commandline -cp)
    set -lx COMP_POINT ""
    set -l answers ($words[1] -sc query=fish 2>/dev/null)
    if test (count $answers) -gt 0
        printf '%s\n' $answers
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c accelerator -f -a '(__accelerator_completion)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion_command(arguments: list[str]) -> int:
    """The command line's entry; see `accelerator.cli.app.main` for the exit codes."""
    description = "Print what lets a shell complete the words of accelerator by Tab."
    return run_alone("completion", description, _EPILOG, _arguments, _print_script, arguments or ["--help"])


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", help=", ".join(SCRIPTS))


def _print_script(options: Namespace) -> None:
    if options.shell not in SCRIPTS:
        raise ConfigError(f"there is no completion for '{options.shell}'{did_you_mean(options.shell, SCRIPTS)}")
    print(SCRIPTS[options.shell], end="")
