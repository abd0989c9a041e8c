"""PCRE's pattern syntax, read into a tree: what nginx would compile, or why it would not.

Answers for the pattern half of core/ngx_regex.c, where nginx leaves it to PCRE2 (pcre2pattern(3)).
Each construct is either understood exactly or refused by name; none is taken with another
meaning.  Options (?i) and the like are resolved here: the tree has no flags left in it.  Reasons
and offsets of plain errors are PCRE2's own.
"""

import re
from dataclasses import dataclass, replace
from typing import Final

from ngxstream.core import (
    regex_chars,
    regex_links,
    regex_mentions,
    regex_scan,
    regex_size,
    regex_tree,
)

MAX_NESTING: Final = 250
MAX_REPEAT: Final = 65535
MAX_MARK: Final = 255


@dataclass(frozen=True, slots=True)
class Syntax:
    """A pattern read: its tree, how many groups it captures and which of them have names.

    Of groups of one name the last gives the name's value: it is what nginx sets last.
    """

    tree: regex_tree.Node
    groups: int
    names: dict[str, int]


_OPTION_LETTERS: Final = {
    "i": "caseless",
    "m": "multiline",
    "s": "dotall",
    "U": "ungreedy",
    "n": "plain",
    "J": "duplicates",
}
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
# what may stand before a pattern and changes nothing that is matched
_START: Final = re.compile(
    rb"\(\*(?:NO_(?:AUTO_POSSESS|DOTSTAR_ANCHOR|JIT|START_OPT)|LF|BSR_UNICODE)\)"
)
_START_ELSE: Final = re.compile(
    rb"\(\*(?:UTF|UCP|NOTEMPTY(?:_ATSTART)?|CRLF|CR|ANY|ANYCRLF|NUL|BSR_ANYCRLF)\)"
    rb"|\(\*LIMIT_(?:DEPTH|HEAP|MATCH|RECURSION)="
)

# PCRE2 10.43 and later take {,3} and { 1, 3 } for quantifiers; before they are plain text, and so
# they are here: Debian's nginx has 10.42
_QUANTIFIER: Final = re.compile(rb"\{([0-9]+)(,([0-9]*))?\}")
_ASSERTION: Final = re.compile(rb"\((?=.{3})(?:\?(?:C|=|!|<[=!])|\*[a-z])", re.DOTALL)
_SPELLED_NAME: Final = re.compile(rb"\(\*([a-z][A-Za-z0-9_]*):")

_QUANTIFIES_NOTHING: Final = "quantifier does not follow a repeatable item"
_UNKNOWN_OPTION: Final = "unrecognized character after (? or (?-"
_NO_ASSERTION: Final = "assertion expected after (?( or (?(?C)"
_TOO_MANY_BRANCHES: Final = "conditional subpattern contains more than two branches"
_TOO_MANY_DEFINED: Final = "DEFINE subpattern contains more than one branch"
_BAD_VERB: Final = "(*VERB) not recognized or malformed"
_CALLOUT_ENDS: Final = {
    "`": "`",
    "'": "'",
    '"': '"',
    "^": "^",
    "%": "%",
    "#": "#",
    "$": "$",
    "{": "}",
}


def parse(pattern: bytes, *, caseless: bool = False) -> Syntax:
    """Read a pattern.

    raises: RegexError with PCRE2's reason, or "... is not supported" for what only PCRE can do.
    """
    return _Parser(pattern, caseless).parse()


class _Parser(regex_mentions.MentionScanner):
    """A recursive descent over one pattern."""

    __slots__ = (
        "_depth",
        "_many",
        "_names",
        "_reset",
        "_spans",
    )

    def __init__(self, pattern: bytes, caseless: bool) -> None:
        super().__init__(pattern, caseless)
        self._depth = 0  # of parentheses
        self._reset = False  # (?| was used
        self._spans: dict[int, tuple[int, int]] = {}  # where groups begin and end
        self._names: dict[str, list[int]] = {}
        self._many: regex_scan.RegexError | None = None  # a condition has too many branches

    def parse(self) -> Syntax:
        self._start()
        tree = self._choice()
        if self._at < len(self._pattern):
            raise self._error("unmatched closing parenthesis", self._at)
        names = {name: tuple(numbers) for name, numbers in self._names.items()}
        links = regex_links.Links(self._pattern, tree, names, self._spans, reset=self._reset)
        links.check_lookbehinds()
        for item in self._later:
            if not isinstance(item, regex_mentions.Reference):
                raise item
            if not self._numbers(item.group):
                raise self._error(regex_mentions.NO_GROUP, item.at)
        if not regex_size.fits(links.tree):
            raise self._error("regular expression is too large", len(self._pattern))
        if self._many is not None:
            raise self._many
        if self._refused is not None:
            raise self._refused
        last = {name: numbers[-1] for name, numbers in names.items()}
        return Syntax(links.resolve(), self._groups, last)

    def _numbers(self, group: int | str) -> tuple[int, ...]:
        """List the numbers of a group that is meant; none if there is no such group."""
        if isinstance(group, str):
            return tuple(self._names.get(group, ()))
        return (group,) if 0 < group <= self._groups else ()

    def _start(self) -> None:
        """Read the settings (*NAME) before a pattern."""
        while True:
            found = _START.match(self._pattern, self._at)
            if found is None:
                break
            self._at = found.end()
        found = _START_ELSE.match(self._pattern, self._at)
        if found:
            raise self._unsupported(found.group().decode("ascii"), self._at)

    # --- structure --------------------------------------------------------------------------

    def _choice(self, *, reset: bool = False) -> regex_tree.Node:
        """Read branches up to ) or the end; options set in one hold for those after it.

        Args:
            reset: Number the groups of each branch from the same number on: (?|…).
        """
        first = most = self._groups
        branches = [self._sequence()]
        while not self._quoted and self._eat("|"):
            if reset:
                most = max(most, self._groups)
                self._groups = first
            branches.append(self._sequence())
        self._groups = max(most, self._groups)
        return branches[0] if len(branches) == 1 else regex_tree.Choice(tuple(branches))

    def _sequence(self) -> regex_tree.Node:
        items: list[regex_tree.Node] = []
        while True:
            if self._depth > MAX_NESTING and self._at < len(self._pattern):
                raise self._error("parentheses are too deeply nested")
            self._skip()
            if self._at == len(self._pattern) or (not self._quoted and self._peek() in ("|", ")")):
                # a group stays one: it has a size, and its branches are not those around it
                alone = len(items) == 1 and not isinstance(
                    items[0], regex_tree.Sequence | regex_tree.Choice
                )
                return items[0] if alone else regex_tree.Sequence(tuple(items))
            atom = self._atom()
            if isinstance(atom, tuple):  # only the last of these is repeated
                items.extend(atom[:-1])
                atom = atom[-1]
            self._skip()
            bounds = None if self._quoted else self._bounds()
            if bounds is None:
                if atom is not None:
                    items.append(atom)
                continue
            if (
                atom is None
                or atom is regex_tree.NOTHING
                or isinstance(atom, regex_tree.At | regex_tree.Keep)
            ):
                raise self._error(_QUANTIFIES_NOTHING, self._at - 1)
            items.append(self._repeat(atom, *bounds))

    def _bounds(self) -> tuple[int, int | None] | None:
        """Read a quantifier's bounds if one stands here."""
        for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._eat(sign):
                return bounds
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return None
        low = self._count(found, 1)
        high = low if found[2] is None else self._count(found, 3) if found[3] else None
        if high is not None and high < low:
            raise self._error("numbers out of order in {} quantifier", found.end() - 1)
        self._at = found.end()
        return low, high

    def _count(self, found: re.Match[bytes], group: int) -> int:
        digits = found[group]
        for end in range(1, len(digits) + 1):
            if int(digits[:end]) > MAX_REPEAT:
                raise self._error("number too big in {} quantifier", found.start(group) + end)
        return int(digits)

    def _repeat(self, atom: regex_tree.Node, low: int, high: int | None) -> regex_tree.Node:
        self._skip()
        if not self._quoted and self._eat("+"):
            mode = regex_tree.Mode.POSSESSIVE
        elif (not self._quoted and self._eat("?")) != self._options.ungreedy:
            mode = regex_tree.Mode.LAZY
        else:
            mode = regex_tree.Mode.GREEDY
        return regex_tree.Repeat(atom, low, high, mode)

    def _atom(self) -> "regex_tree.Node | tuple[regex_tree.Node, ...] | None":
        """Read one item; None for an option setting, which is no item."""
        char = self._next()
        if self._quoted:
            return self._chars(1 << ord(char))
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char == ".":
            newline = 0 if self._options.dotall else regex_chars.NEWLINE
            return regex_tree.Chars(regex_chars.EVERY & ~newline, regex_tree.SIZE_TYPE)
        if char == "^":
            return regex_tree.At(
                regex_tree.Place.LINE_START if self._options.multiline else regex_tree.Place.START
            )
        if char == "$":
            return regex_tree.At(
                regex_tree.Place.LINE_END if self._options.multiline else regex_tree.Place.LAST_LINE
            )
        self._at -= 1
        if self._bounds() is not None:
            raise self._error(_QUANTIFIES_NOTHING, self._at - 1)
        self._at += 1
        return self._chars(1 << ord(char))

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
            raise self._error(_QUANTIFIES_NOTHING, self._at - 1)
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
