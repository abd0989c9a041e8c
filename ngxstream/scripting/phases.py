"""What functions of phases return, besides nothing."""

from __future__ import annotations

import enum
from typing import Final


class Wish(enum.Enum):
    """What a function wants of the phase that has called it."""

    MORE = "more"


# a py_preread function returns it to be called again when the client has sent more
MORE: Final = Wish.MORE
