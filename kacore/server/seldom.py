"""What takes long to say, said anew less often the longer it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# At least so many seconds between two calls, and so many times as long as one took: a fifth of a percent of the time.
AT_LEAST, PATIENCE = 2.0, 500.0


class Seldom:
    """The last answer of `call`, until it is time for another; None is no answer yet."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._next = 0.0
        self._last: Any = None

    def __call__(self) -> Any:
        began = time.monotonic()
        if began >= self._next or self._last is None:
            self._last = self._call()
            self._next = began + max(AT_LEAST, (time.monotonic() - began) * PATIENCE)
        return self._last
