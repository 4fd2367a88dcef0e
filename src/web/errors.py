"""What goes wrong, as the page says it: a sentence, the key to change, and the HTTP status."""

import re
from collections.abc import Sequence

from starlette.exceptions import HTTPException

from ..config.keys import list_keys
from ..config.overrides import name_key
from ..config.schema import TrainConfig


class PageError(HTTPException):
    """An answer with a sentence for people; key: the one to change, if it is one."""

    def __init__(self, message: str, status: int = 400, key: str | None = None) -> None:
        super().__init__(status, message)
        self.message, self.status, self.key = message, status, key


def find_key(message: str, words: Sequence[str]) -> str | None:
    """Return the key that an error of the command line is about: the first typed one that it names, or any other."""
    keys = sorted(list_keys(TrainConfig), key=len, reverse=True)
    pattern = r"(?<![\w.])(" + "|".join(map(re.escape, keys)) + r")(?=[=\s:,;']|$)"
    named = re.findall(pattern, message)
    typed = [key for key in named if key in {name_key(word) for word in words}]
    return next(iter([*typed, *named]), None)
