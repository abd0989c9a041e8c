"""What nginx -t and this program say of one configuration, in one form, to be compared.

A message is ``[level] text`` with the place of the configuration spelled the same by both.
"""

from pathlib import Path

from ngxstream.core import errors
from tests.support import in_process, proxies

EVENTS = "events {} "


def nginx_says(text: str, folder: Path, others: dict[str, bytes] | None = None) -> list[str]:
    """Return the warnings and the error of ``nginx -t``, in order.

    Args: text without its events block; others are files to include, by name
    """
    nginx = proxies.Nginx(EVENTS + text, folder)
    for name, raw in (others or {}).items():
        (nginx.conf_file.parent / name).write_bytes(raw)
    said = nginx.test().stderr.splitlines()
    messages = [
        line.removeprefix("nginx: ").replace(f"{nginx.prefix}/", "/p/") for line in said
    ]
    return [m for m in messages if m.startswith("[") and "[notice]" not in m]


def we_say(text: str, others: dict[str, bytes] | None = None) -> list[str]:
    """Return the warnings and the error of this program in the same form."""
    places = {f"/p/conf/{name}": raw for name, raw in (others or {}).items()}
    built = in_process.build(text, others=places)
    if not built.error:
        try:
            built.zones.build()
        except errors.ConfError as error:
            built.error = str(error)
        built.zones.close()
    return [*built.warnings, *([f"[emerg] {built.error}"] if built.error else [])]
