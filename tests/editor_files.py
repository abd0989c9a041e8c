"""Prints what editors highlight configurations by, from the manual of the directives.

conf/editors/vim/syntax/ngxstream.vim, and ngxstream.tmLanguage.json for the editors that take
grammars of TextMate (Visual Studio Code, Sublime Text, bat and others).
"""

import json
import re
import textwrap
from collections.abc import Iterable

from tests.manual_pages import Described

_VIM = '''\
" Vim syntax file of ngxstream's configurations: the stream block of an nginx.conf.
" Printed by `make docs` from the manual of the directives; do not edit.
if exists('b:current_syntax')
  finish
endif

setlocal iskeyword=@,48-57,_
syn case match

syn match ngxComment /#.*$/ contains=@Spell
syn match ngxVariable /\\$\\w\\+\\|\\${\\w\\+}/
syn match ngxNumber /\\<\\d\\+\\(ms\\|[smhdwMykKmMgG]\\)\\?\\>/
syn match ngxAddress /\\<\\d\\{1,3}\\(\\.\\d\\{1,3}\\)\\{3}\\(\\/\\d\\+\\)\\?\\>/
syn region ngxString start=/"/ skip=/\\\\./ end=/"/ contains=ngxVariable
syn region ngxString start=/'/ skip=/\\\\./ end=/'/ contains=ngxVariable
syn match ngxDelimiter /[{};]/
syn match ngxTemplate /{{.\\{-}}}\\|{%.\\{-}%}\\|<%.\\{-}%>/

'''
_VIM_END = '''
syn keyword ngxTodo TODO FIXME contained containedin=ngxComment

hi def link ngxComment Comment
hi def link ngxTodo Todo
hi def link ngxBlock Structure
hi def link ngxDirective Keyword
hi def link ngxRefused Error
hi def link ngxParameter Type
hi def link ngxVariable Identifier
hi def link ngxNumber Number
hi def link ngxAddress Constant
hi def link ngxString String
hi def link ngxDelimiter Delimiter
hi def link ngxTemplate Error

let b:current_syntax = 'ngxstream'
'''


def _names(every: Iterable[Described]) -> dict[str, list[str]]:
    """Return blocks, directives, refused ones and parameters, each sorted."""
    found: dict[str, set[str]] = {"block": set(), "directive": set(), "refused": set(),
                                  "parameter": set()}
    for one in every:
        record = one.records[0]
        kind = "refused" if record.refused else "block" if record.takes.block else "directive"
        found[kind].add(one.name)
        found["parameter"] |= {word for word in one.entry.words if re.fullmatch(r"[a-z]\w+", word)}
    found["directive"] -= found["block"]
    found["parameter"] -= found["directive"] | found["block"] | found["refused"]
    return {kind: sorted(names) for kind, names in found.items()}


def vim(every: Iterable[Described]) -> str:
    """Return the syntax file of Vim."""
    lines = []
    for kind, names in _names(every).items():
        group = f"syn keyword ngx{kind.capitalize()}"
        lines += [f"{group} {line}" for line in textwrap.wrap(" ".join(names), 75)]
    return _VIM + "\n".join(lines) + "\n" + _VIM_END


def textmate(every: Iterable[Described]) -> str:
    """Return the grammar of TextMate."""
    names = _names(every)

    def words(kind: str) -> str:
        return rf"(?<![\w$.-])({'|'.join(names[kind])})(?![\w.-])"

    patterns = [
        {"name": "comment.line.number-sign.ngxstream", "match": r"#.*$"},
        *({"name": "string.quoted.ngxstream", "begin": quote, "end": quote,
           "patterns": [{"name": "constant.character.escape.ngxstream", "match": r"\\."},
                        {"include": "#variable"}]} for quote in ('"', "'")),
        {"name": "invalid.illegal.template.ngxstream", "match": r"\{\{.*?\}\}|\{%.*?%\}|<%.*?%>"},
        {"include": "#variable"},
        {"name": "storage.type.block.ngxstream", "match": words("block")},
        {"name": "keyword.other.directive.ngxstream", "match": words("directive")},
        {"name": "invalid.deprecated.directive.ngxstream", "match": words("refused")},
        {"name": "support.constant.parameter.ngxstream", "match": words("parameter")},
        {"name": "constant.numeric.ngxstream", "match": r"\b\d+(ms|[smhdwMykKgG])?\b"},
        {"name": "punctuation.ngxstream", "match": r"[{};]"},
    ]
    grammar = {
        "name": "ngxstream", "scopeName": "source.ngxstream",
        "comment": "Printed by `make docs` from the manual of the directives; do not edit.",
        "fileTypes": [], "patterns": patterns,
        "repository": {"variable": {
            "name": "variable.other.ngxstream", "match": r"\$\w+|\$\{\w+\}"}},
    }
    return json.dumps(grammar, indent=1, ensure_ascii=True) + "\n"
