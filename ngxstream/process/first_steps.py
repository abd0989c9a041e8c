"""What a host lacks that never had nginx, and the commands that make it.

The default paths are nginx's: on such a host there is neither a configuration there nor a folder
for the error log. nginx's packages make both; an installation by pip can not.
"""

from __future__ import annotations

import os
import shlex
import site
import sysconfig
from typing import TYPE_CHECKING, Final

import ngxstream
from ngxstream.process import places
from ngxstream.process.options import OURS

if TYPE_CHECKING:
    from ngxstream.process.options import Options

FIRST: Final = "conf/first"  # the first configuration, below share()


def share() -> str:
    """Return the folder of the documents and examples that came with the program, "" for none."""
    package = os.path.dirname(os.path.abspath(ngxstream.__file__))
    beside = os.path.dirname(package)
    folders = [
        places.SHARE, beside,  # a checkout
        *(os.path.join(data, "share", OURS)
          for data in (sysconfig.get_path("data"), site.getuserbase(), beside)),
    ]
    return next((one for one in folders if one and os.path.isdir(os.path.join(one, FIRST))), "")


def missing(options: Options) -> list[str]:
    """Return the commands that make what is missing where the defaults are, [] if nothing is."""
    if options.program != OURS:
        return []  # who calls us nginx hears what nginx says
    conf, log = places.CONF_PATH, places.ERROR_LOG_PATH
    wants_conf = options.conf_file == conf and not os.path.lexists(conf)
    wants_log = options.error_log == log and not os.path.isdir(os.path.dirname(log))
    folders = [os.path.dirname(path) for path, wanted in ((conf, wants_conf), (log, wants_log))
               if wanted]
    if not folders:
        return []
    commands = [f"mkdir -p {' '.join(map(shlex.quote, folders))}"]
    first = os.path.join(share(), FIRST)
    if wants_conf and os.path.exists(os.path.join(first, os.path.basename(conf))):
        commands.append(f"cp -r {shlex.quote(first)}/. {shlex.quote(folders[0])}/")
    return commands
