"""Text for people: tables, sizes and times, and nothing that a terminal would obey."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from typing import Any, Final

_UNITS: Final = "kMGTPE"


def clean(text: object) -> str:
    r"""Return a text without what a terminal would obey: `\x1b` stands for ESC."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(
        one if one.isprintable()
        else one.encode("unicode_escape", "surrogatepass").decode("ascii")
        for one in plain
    )


def clean_lines(text: str) -> str:
    """Return clean() of each line of a text."""
    return "\n".join(map(clean, text.split("\n")))


def size(count: float) -> str:
    """Return bytes in a unit of 1000 or more: `4.2M`."""
    if count < 1000:
        return str(int(count))
    power = 0
    while count >= 999.5 and power < len(_UNITS):
        count /= 1000
        power += 1
    unit = _UNITS[power - 1]
    return f"{count:.1f}{unit}" if count < 9.95 else f"{count:.0f}{unit}"


def duration(ms: int) -> str:
    """Return a duration in its two largest units: `2h05m`, `1.5s`."""
    if ms < 1000:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f}s"
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], width: int = 0) -> str:
    """Return lines in columns; numbers stand at the right. Args: width: of a line, 0 for any"""
    texts = [[clean(cell) for cell in row] for row in rows]
    rights = [
        bool(texts) and all(_is_number(row[n]) for row in texts) for n in range(len(head))
    ]
    widths = [max(map(len, [head[n], *(row[n] for row in texts)])) for n in range(len(head))]
    lines = []
    for row in ([*head], *texts):
        cells = [
            cell.rjust(wide) if right else cell.ljust(wide)
            for cell, wide, right in zip(row, widths, rights, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        lines.append(line[:width].rstrip() if width else line)
    return "\n".join(lines)


def screen() -> tuple[int, int]:
    """Return columns and lines of the terminal."""
    found = shutil.get_terminal_size((80, 24))
    return found.columns, found.lines


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text in ("-", "")


def plain(value: Any) -> str:
    """Return a value as people read it, on one line."""
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return clean(value)
