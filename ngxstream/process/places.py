"""Where things are unless options or the configuration say otherwise: as in nginx.org's packages.

nginx has this from its ./configure. An installation that has places of its own (`make install`, the
Debian package) writes these into its copy of this file (conf/packaging/lay_out.py).
"""

from typing import Final

PREFIX: Final = "/etc/nginx/"
CONF_PATH: Final = "/etc/nginx/nginx.conf"
ERROR_LOG_PATH: Final = "/var/log/nginx/error.log"
PID_PATH: Final = "/run/nginx.pid"
LOCK_PATH: Final = "/run/nginx.lock"
# examples and documents; "" for share/ngxstream beside this Python, or the checkout
SHARE: Final = ""
