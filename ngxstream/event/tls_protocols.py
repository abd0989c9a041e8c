"""The versions of TLS as bits, for configurations and for contexts (src/event/ngx_event_openssl.h).

They stand apart from libssl_context.py so that a configuration without TLS loads no library.
"""

from __future__ import annotations

from typing import Final

SSLV2: Final = 0x02
SSLV3: Final = 0x04
TLSV1: Final = 0x08
TLSV1_1: Final = 0x10
TLSV1_2: Final = 0x20
TLSV1_3: Final = 0x40
DEFAULT: Final = TLSV1_2 | TLSV1_3
