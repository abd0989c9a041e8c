"""ngxstream: the ``stream {}`` block of an nginx.conf, served in Python."""

from typing import Final

VERSION: Final = "1.0.0"  # our own
NGINX_VERSION: Final = "1.31.5"  # the nginx we answer as: $nginx_version, -v, -V
