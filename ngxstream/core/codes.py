"""What every layer shares: return codes and statuses (ngx_core.h, ngx_stream.h).

They are module-level ints, not enum members: `rc is OK` on an int costs a seventh of the same
test on an IntEnum member, and they are compared for every packet.
"""

from typing import Final

# What a step answers (ngx_core.h).
OK: Final = 0
ERROR: Final = -1
AGAIN: Final = -2
BUSY: Final = -3
DONE: Final = -4
DECLINED: Final = -5

# How a session ended: the value of $status (ngx_stream.h).
STREAM_OK: Final = 200
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
INTERNAL_SERVER_ERROR: Final = 500
BAD_GATEWAY: Final = 502
SERVICE_UNAVAILABLE: Final = 503
