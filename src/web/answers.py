"""Answers that any browser can read, whatever the files of runs hold: NaN, infinity, names that are not text."""

import json
import math
from typing import Any

from fastapi.responses import JSONResponse


class Answer(JSONResponse):
    """JSON in ASCII, in which unknown numbers are null, and bytes of file names that are not UTF-8 become ?."""

    def render(self, content: Any) -> bytes:
        return json.dumps(clean(content), allow_nan=False).encode("ascii")


def clean(value: Any) -> Any:
    """Return a value without what JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value
