"""Completion for shells, printed from the parser: commands, their options and fixed words."""

from __future__ import annotations

import argparse
import shlex
from typing import Final

_BASH: Final = """\
# bash completion of ngxstreamctl, printed by `ngxstreamctl completion bash`
_ngxstreamctl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command="" n
    for ((n = 1; n < COMP_CWORD; n++)); do
        case ${{COMP_WORDS[n]}} in
            {valued}) ((n++)) ;;
            -*) ;;
            *) command=${{COMP_WORDS[n]}}; break ;;
        esac
    done
    local words
    case $command in
{cases}
        "") words={outer} ;;
        *) words="" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _ngxstreamctl ngxstreamctl
"""

_ZSH: Final = """\
#compdef ngxstreamctl
# zsh completion of ngxstreamctl, printed by `ngxstreamctl completion zsh`
_ngxstreamctl() {{
    local state
    _arguments -C \\
{options}
        '1: :->command' '*:: :->rest'
    case $state in
        command)
            local -a commands=(
{commands}
            )
            _describe command commands ;;
        rest)
            case $words[1] in
{cases}
            esac ;;
    esac
}}
_ngxstreamctl "$@"
"""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the script for a shell. Args: shell: bash or zsh"""
    return (_bash if shell == "bash" else _zsh)(parser)


def subparsers(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return the commands of a parser: name -> (what it does, its parser)."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            docs = {one.dest: one.help or "" for one in action._choices_actions}  # noqa: SLF001
            return {name: (docs.get(name, ""), one) for name, one in action.choices.items()}
    return {}


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the options of a parser."""
    return [one for one in parser._actions  # noqa: SLF001
            if one.option_strings and one.help != argparse.SUPPRESS]


def positionals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the other arguments of a parser, commands not counted."""
    return [
        one for one in parser._actions  # noqa: SLF001
        if not one.option_strings and not isinstance(one, argparse._SubParsersAction)  # noqa: SLF001
    ]


def _words(parser: argparse.ArgumentParser) -> list[str]:
    found = [name for one in options(parser) for name in one.option_strings]
    for one in (*positionals(parser), *options(parser)):
        found += [str(word) for word in one.choices or ()]
    return found


def _bash(parser: argparse.ArgumentParser) -> str:
    under = subparsers(parser)
    valued = "|".join(
        name for one in options(parser) if one.nargs is None for name in one.option_strings
    )
    cases = "\n".join(
        f"        {name}) words={shlex.quote(' '.join(_words(one)))} ;;"
        for name, (_, one) in under.items()
    )
    outer = shlex.quote(" ".join([*_words(parser), *under]))
    return _BASH.format(valued=valued, cases=cases, outer=outer)


def _zsh(parser: argparse.ArgumentParser) -> str:
    under = subparsers(parser)
    shown = " \\\n".join(_zsh_options(parser, " " * 8)) + " \\"
    listed = "\n".join(
        f"                {shlex.quote(name + ':' + _colons(doc))}"
        for name, (doc, _) in under.items()
    )
    cases = []
    for name, (_, one) in under.items():
        lines = _zsh_options(one, " " * 20)
        for n, action in enumerate(positionals(one), 1):
            place = "*" if action.nargs == "*" else f"{n}:" if action.nargs == "?" else str(n)
            words = f"({' '.join(map(str, action.choices))})" if action.choices else " "
            text = f"{place}:{_colons(action.dest)}:{words}"
            lines.append(" " * 20 + shlex.quote(text))
        inner = " \\\n".join(lines)
        cases.append(f"                {name})\n                    _arguments \\\n{inner} ;;")
    return _ZSH.format(options=shown, commands=listed, cases="\n".join(cases))


def _zsh_options(parser: argparse.ArgumentParser, indent: str) -> list[str]:
    found = []
    for one in options(parser):
        for name in one.option_strings:
            value = ""
            if one.nargs is None:
                words = f"({' '.join(map(str, one.choices))})" if one.choices else "_default"
                value = f":{one.dest}:{words}"
            doc = (one.help or "").replace("[", "(").replace("]", ")")
            found.append(indent + shlex.quote(f"{name}[{_colons(doc)}]{value}"))
    return found


def _colons(text: str) -> str:
    return text.replace(":", "\\:")
