"""The part of the PCRE pattern reader that reads what stands in parentheses: groups, lookarounds,
options, verbs, callouts and conditions.

Source: pcre2_compile.c: parse_regex().
"""

import re
from dataclasses import replace
from typing import Final

from ngxstream.core import regex_mentions, regex_scan, regex_tree

MAX_MARK: Final = 255
QUANTIFIES_NOTHING: Final = "quantifier does not follow a repeatable item"

_OPTION_LETTERS: Final = {
    "i": "caseless", "m": "multiline", "s": "dotall",
    "U": "ungreedy", "n": "plain", "J": "duplicates",
}  # fmt: skip
_LOOKS: Final = {"=": (True, False), "!": (True, True), "<=": (False, False), "<!": (False, True)}
# the long names of groups: (*name:…)
_SPELLED: Final = {
    "atomic": ">", "positive_lookahead": "=", "pla": "=", "negative_lookahead": "!", "nla": "!",
    "positive_lookbehind": "<=", "plb": "<=", "negative_lookbehind": "<!", "nlb": "<!",
    # bytes are Latin and what is common to all scripts: they always are a script run
    "script_run": ":", "sr": ":", "atomic_script_run": ">", "asr": ">",
}  # fmt: skip
_NOT_ATOMIC: Final = {
    "non_atomic_positive_lookahead": "=", "napla": "=",
    "non_atomic_positive_lookbehind": "<=", "naplb": "<=",
}  # fmt: skip
_VERBS: Final = ("", "MARK", "ACCEPT", "F", "FAIL", "COMMIT", "PRUNE", "SKIP", "THEN")
_ASSERTION: Final = re.compile(rb"\((?=.{3})(?:\?(?:C|=|!|<[=!])|\*[a-z])", re.DOTALL)
_SPELLED_NAME: Final = re.compile(rb"\(\*([a-z][A-Za-z0-9_]*):")
_UNKNOWN_OPTION: Final = "unrecognized character after (? or (?-"
_NO_ASSERTION: Final = "assertion expected after (?( or (?(?C)"
_TOO_MANY_BRANCHES: Final = "conditional subpattern contains more than two branches"
_TOO_MANY_DEFINED: Final = "DEFINE subpattern contains more than one branch"
_BAD_VERB: Final = "(*VERB) not recognized or malformed"
_CALLOUT_ENDS: Final = {**{end: end for end in "`'\"^%#$"}, "{": "}"}


class GroupScanner(regex_mentions.MentionScanner):
    """A scanner that reads a group from its opening parenthesis to its closing one."""

    __slots__ = ("_depth", "_many", "_names", "_reset", "_spans")

    def __init__(self, pattern: bytes, caseless: bool) -> None:
        super().__init__(pattern, caseless)
        self._depth = 0  # of parentheses
        self._reset = False  # (?| was used
        self._spans: dict[int, tuple[int, int]] = {}  # where groups begin and end
        self._names: dict[str, list[int]] = {}
        self._many: regex_scan.RegexError | None = None  # a condition has too many branches

    def _choice(self, *, reset: bool = False) -> regex_tree.Node:
        """Read branches up to ) or the end. Args: reset: as in (?|…)"""
        raise NotImplementedError

    def _bounds(self) -> tuple[int, int | None] | None:
        """Read a quantifier's bounds if one stands here."""
        raise NotImplementedError

    # --- groups -----------------------------------------------------------------------------

    def _group(self) -> regex_tree.Node | None:
        """Read what stands after an opening parenthesis."""
        start = self._at - 1
        if self._peek() == "*":
            return self._spelled_group(start)
        if not self._eat("?"):
            return _grouped(self._body()) if self._options.plain else self._capture()
        if self._peek() == "-" and self._digit_follows(1):
            return self._call_by_number()
        char = self._next()
        if char == ">":
            return regex_tree.Atomic(self._body())
        if char in ("=", "!"):
            return self._look(start, char)
        if char == "<":
            if self._eat("="):
                return self._look(start, "<=")
            if self._eat("!"):
                return self._look(start, "<!")
            if self._eat("*"):
                self._refuse("(?<*", start)
                return self._look(start, "<=")
            return self._named(">")
        if char == "'":
            return self._named("'")
        if char == "P":
            return self._python_group()
        if char == "&":
            return self._call_by_name()
        if char and char in "R+0123456789":
            self._at -= 1
            return self._call_by_number()
        if char == "(":
            return self._condition(start)
        if char == "C":
            self._callout()
            return None
        if char == "*":
            self._refuse("(?*", start)
            return self._look(start, "=")
        self._at -= len(char)
        return self._option_group()

    def _python_group(self) -> regex_tree.Node:
        char = self._next()
        if char == "<":
            return self._named(">")
        if char == "=":
            return self._reference_by_name(")")
        if char == ">":
            return self._call_by_name()
        if not char:
            raise self._error(regex_mentions.UNCLOSED)
        raise self._error("unrecognized character after (?P", self._at - 1)

    def _body(
        self, options: regex_scan.Options | None = None, *, reset: bool = False
    ) -> regex_tree.Node:
        """Read a group's inside and its closing parenthesis; options end with the group."""
        self._depth += 1
        outer = self._options
        self._options = options or outer
        body = self._choice(reset=reset)
        self._options = outer
        self._depth -= 1
        if self._quoted or not self._eat(")"):
            raise self._error(regex_mentions.UNCLOSED, len(self._pattern))
        return body

    def _named(self, terminator: str) -> regex_tree.Node:
        """Read a named group from its name on."""
        name = self._name(terminator)
        number = self._groups + 1
        for other, numbers in self._names.items():
            if other == name:
                if number not in numbers and not self._options.duplicates:
                    raise self._error(
                        "two named subpatterns have the same name (PCRE2_DUPNAMES not set)"
                    )
            elif number in numbers:
                raise self._error(
                    "different names for subpatterns of the same number are not allowed"
                )
        if number not in self._names.setdefault(name, []):
            self._names[name].append(number)
        return self._capture()

    def _capture(self) -> regex_tree.Node:
        if self._groups >= regex_mentions.MAX_GROUPS:
            raise self._error("too many capturing groups (maximum 65535)")
        self._groups += 1
        index = self._groups
        begin = self._at
        body = self._body()
        self._spans[index] = (begin, self._at)
        return regex_tree.Capture(index, body)

    def _look(self, start: int, sign: str) -> regex_tree.Node:
        ahead, negative = _LOOKS[sign]
        self._looks += 1
        body = self._body()
        self._looks -= 1
        return regex_tree.Look(body, ahead, negative, start)

    def _option_group(self) -> regex_tree.Node | None:
        """Read (?imsxUnJ-imsxUnJ), (?…:…) or (?|…)."""
        if self._eat("|"):
            self._reset = True
            return _grouped(self._body(reset=True))
        options, on = self._options, True
        hyphen_allowed = True
        if self._eat("^"):
            options = regex_scan.Options(ungreedy=options.ungreedy, duplicates=options.duplicates)
            hyphen_allowed = False
        given: dict[bool, dict[str, bool]] = {True: {}, False: {}}
        while True:
            char = self._next()
            if char in (")", ":"):
                break
            if char == "-":
                if not hyphen_allowed:
                    raise self._error("invalid hyphen in option setting", self._at - 1)
                on = hyphen_allowed = False
            elif char == "x":
                given[on]["extended"] = on
                if self._eat("x"):
                    given[on]["extended_more"] = on
            elif char in _OPTION_LETTERS:
                given[on][_OPTION_LETTERS[char]] = on
            elif char:
                raise self._error(_UNKNOWN_OPTION, self._at - 1)
            else:
                raise self._error(regex_mentions.UNCLOSED)
        one_x = given[True].get("extended") and "extended_more" not in given[True]
        if one_x or "extended" in given[False]:
            given[False]["extended_more"] = False
        options = replace(replace(options, **given[True]), **given[False])
        if char == ":":
            return _grouped(self._body(options))
        self._options = options
        return None

    # --- what is spelled (*NAME) ----------------------------------------------------------------

    def _spelled_group(self, start: int) -> regex_tree.Node | None:
        """Read (*name:…) and (*VERB)."""
        sign = self._pattern[start + 2 : start + 3].decode("latin-1")
        if sign in ("", ")"):
            return None  # the * will be found to repeat nothing
        self._at += 1
        if not (sign.isascii() and sign.islower()):
            return self._verb(start)
        name = self._word(group=False)
        if self._peek() != ":" or name not in (*_SPELLED, *_NOT_ATOMIC):
            raise self._error("(*alpha_assertion) not recognized")
        if name in _NOT_ATOMIC:
            self._refuse(f"(*{name}:", start)
        self._at += 1
        sign = _SPELLED.get(name) or _NOT_ATOMIC[name]
        if sign in _LOOKS:
            # where PCRE says that a lookbehind spelled out stands
            return self._look(self._at - 4 if sign[0] == "<" else start, sign)
        if name in ("atomic_script_run", "asr"):
            return _grouped(regex_tree.Atomic(self._body()))
        return regex_tree.Atomic(self._body()) if sign == ">" else _grouped(self._body())

    def _verb(self, start: int) -> regex_tree.Node | None:
        name = self._word(group=False)
        if self._peek() not in (":", ")") or name not in _VERBS:
            raise self._error(_BAD_VERB)
        argument = self._eat(":") and self._peek() != ")"
        if name in ("", "MARK") and not argument:
            raise self._error("(*MARK) must have an argument")
        if argument:
            begin = self._at
            end = self._pattern.find(b")", begin)
            if end < 0:
                raise self._error(_BAD_VERB, len(self._pattern))
            self._at = end
            if end - begin > MAX_MARK:
                raise self._error("name is too long in (*MARK), (*PRUNE), (*SKIP), or (*THEN)")
        self._at += 1
        if name in ("F", "FAIL"):
            return regex_tree.NOTHING
        if name in ("", "MARK"):
            return None
        self._refuse(self._pattern[start : self._at].decode("latin-1"), start)
        # this one may be repeated
        return regex_tree.EMPTY if name == "ACCEPT" else None

    def _callout(self) -> None:
        """Read (?C…), which nginx takes no notice of."""
        char = self._peek()
        if not char:
            raise self._error(regex_mentions.UNCLOSED)
        start = self._at
        if char == ")" or char.isdigit():
            number = 0
            while self._digit_follows(0):
                number = number * 10 + int(self._next())
                if number > 255:
                    raise self._error("number after (?C is greater than 255")
        elif char in _CALLOUT_ENDS:
            ending = _CALLOUT_ENDS[char]
            self._at += 1
            while True:
                if self._at >= len(self._pattern):
                    raise self._error(
                        "missing terminating delimiter for callout with string argument", start
                    )
                if self._next() == ending and not self._eat(ending):
                    break
        else:
            raise self._error("unrecognized string delimiter follows (?C")
        if not self._eat(")"):
            raise self._error("closing parenthesis for (?C expected")

    # --- conditions -----------------------------------------------------------------------------

    def _condition(self, start: int) -> regex_tree.Node:
        """Read (?(…)yes|no)."""
        if self._at >= len(self._pattern):
            raise self._error(regex_mentions.UNCLOSED)
        if self._peek() in ("?", "*"):
            self._at -= 1
            look = self._asked()
            yes, no = self._branches(0)
            # if the assertion holds, what follows it alone decides; the other says the contrary
            contrary = regex_tree.Look(look.body, look.ahead, not look.negative, look.at)
            return regex_tree.Condition((), yes, no, asked=(look, contrary))
        number = self._number()
        if number is not None:
            if number <= 0:
                raise self._error(regex_mentions.NO_GROUP)
            at = self._at - 2
            self._later.append(regex_mentions.Reference(number, at))
            self._close_condition()
            yes, no = self._branches(at - 2)
            return regex_tree.Condition((number,), yes, no, at=start)
        rest = self._pattern[self._at :]
        if rest.startswith(b"VERSION") and len(rest) >= 10 and rest[7:8] != b")":
            raise self._unsupported("conditional (?(VERSION", start)
        recursion = self._eat("R&")
        terminator = {"<": ">", "'": "'"}.get(self._peek(), ")")
        if terminator != ")":
            self._at += 1
        at = self._at
        name = self._name(terminator)
        if terminator == ")":
            self._at -= 1
        self._close_condition()
        if terminator == ")" and name == "DEFINE":
            # never matched where it stands, but its groups can be called
            body, _ = self._branches(at, most=1)
            return regex_tree.Condition((), body, None, name=regex_tree.DEFINE)
        number_of_r = terminator == ")" and name[0] == "R" and name[1:].isdigit()
        if recursion or number_of_r or (terminator == ")" and name == "R"):
            self._refuse(f"conditional (?({'R&' if recursion else name})", start)
        if recursion or name in self._names or terminator != ")" or name[0] != "R":
            self._later.append(regex_mentions.Reference(name, at))
        elif number_of_r and int(name[1:]):
            self._later.append(regex_mentions.Reference(int(name[1:]), at))
        yes, no = self._branches(at)
        return regex_tree.Condition((), yes, no, name=name, at=start)

    def _assertion(self) -> bytes:
        """Look at how the assertion that must stand here begins."""
        self._skip()
        if self._at == len(self._pattern):
            raise self._error(regex_mentions.UNCLOSED)
        found = _ASSERTION.match(self._pattern, self._at)
        if self._quoted or found is None:
            raise self._error(_NO_ASSERTION)
        return found[0]

    def _asked(self) -> regex_tree.Look:
        """Read the assertion of a condition, which a callout may stand before."""
        if self._assertion() == b"(?C":
            self._at += 3
            self._callout()
            if self._assertion() == b"(?C":
                raise self._error(_NO_ASSERTION)
        spelled = _SPELLED_NAME.match(self._pattern, self._at)
        name = "" if spelled is None else spelled[1].decode("ascii")
        if spelled and name in _NOT_ATOMIC:
            raise self._error("atomic " + _NO_ASSERTION, spelled.end(1))
        if spelled and _SPELLED.get(name, "=") not in _LOOKS:
            raise self._error(_NO_ASSERTION, spelled.end(1))
        self._at += 1
        look = self._group()
        if not isinstance(look, regex_tree.Look):
            raise self._error(_NO_ASSERTION)
        self._skip()
        if not self._quoted and self._bounds() is not None:
            raise self._error(QUANTIFIES_NOTHING, self._at - 1)
        return look

    def _close_condition(self) -> None:
        if not self._eat(")"):
            raise self._error("missing closing parenthesis for condition")

    def _branches(
        self, at: int, *, most: int = 2
    ) -> tuple[regex_tree.Node, regex_tree.Node | None]:
        """Read what follows a condition: what is matched if it holds, and if not."""
        body = self._body()
        branches = body.branches if isinstance(body, regex_tree.Choice) else (body,)
        if len(branches) > most and self._many is None:
            reason = _TOO_MANY_BRANCHES if most > 1 else _TOO_MANY_DEFINED
            self._many = self._error(reason, at)
        if len(branches) > 2:
            return branches[0], regex_tree.Choice(branches[1:])
        return branches[0], branches[1] if len(branches) > 1 else None


def _grouped(body: regex_tree.Node) -> regex_tree.Node:
    """Keep a group an item of its own: it may be repeated, and it has a size."""
    return body if isinstance(body, regex_tree.Sequence) else regex_tree.Sequence((body,))
