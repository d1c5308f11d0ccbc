"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Input or environment that a person has to mend: what is wrong, and the way out.

    The command line prints both on standard error and exits with code 2; nothing is left half-written.
    """

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message, fix)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}"
