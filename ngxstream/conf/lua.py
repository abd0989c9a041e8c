"""The Lua blocks of OpenResty's configurations, found by Lua's rules rather than nginx's.

They stand in the `http` blocks of files whose `stream` block is ours to serve, and nginx's words
make no sense in them: an apostrophe in a Lua comment would open a string. So each block goes as one
word, the form crossplane's payload has for it.
"""

import re
from typing import Final

# a directive, its plain arguments, and the brace its code follows
_HEAD: Final = re.compile(
    r"(?<![^\s;{}])(\w+_by_lua_block(?:[ \t]+[^\s{};\"'#\\]+)*+)[ \t\r\n]*+\{"
)
_TOKEN: Final = re.compile(
    r"--\[(?P<c>=*)\[.*?\](?P=c)\]"      # long comment
    r"|--[^\n]*+"
    r"|\[(?P<s>=*)\[.*?\](?P=s)\]"       # long string
    r"|\"(?:[^\"\\\n]++|\\.)*+\""
    r"|'(?:[^'\\\n]++|\\.)*+'"
    r"|[{}]",
    re.DOTALL,
)


def end_of_block(text: str, pos: int) -> int:
    """Return where the code ends that begins at pos, behind its brace: the place of the closing
    brace, -1 where there is none.
    """
    depth = 1
    for m in _TOKEN.finditer(text, pos):
        if m[0] == "{":
            depth += 1
        elif m[0] == "}":
            depth -= 1
            if depth == 0:
                return m.start()
    return -1


def lift(text: str, mark: str, lifted: list[str]) -> str:
    """Put the code of each Lua block into lifted and `mark N;` in its place.

    shape: newlines stay, behind the mark, so the lines of what follows are the same; a block that
    never ends stays too.
    """
    out = []
    done = pos = 0
    while (head := _HEAD.search(text, pos)) is not None:
        pos = head.end()
        if "#" in text[text.rfind("\n", 0, head.start()) + 1:head.start()]:
            continue  # in a comment
        end = end_of_block(text, pos)
        if end < 0:
            break
        code = text[head.end():end]
        between = text[head.end(1):head.end()]
        out.append(f"{text[done:head.end(1)]}{between[:-1]} {mark}{len(lifted)};")
        out.append("\n" * code.count("\n"))
        lifted.append(code)
        done = pos = end + 1
    return "".join([*out, text[done:]])
