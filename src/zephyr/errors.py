"""The exceptions a user can cause, and how their messages are worded.

Everything here is printed by the command line without a traceback and ends it with exit code 2.
Misuse of a Python function is a ValueError, a broken promise of our own an AssertionError: neither is here.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

LISTED_NAMES = 12


class ZephyrError(Exception):
    """An error that a user can fix: where it is, what is wrong, and what to do about it."""

    def __init__(self, where: str, what: str, remedy: str) -> None:
        # All three go to the base class, so that the error survives pickling between worker processes.
        super().__init__(where, what, remedy)
        self.where = where
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        """The message on one line, as `where: what; remedy`."""
        return f"{self.where}: {self.what}; {self.remedy}"


class DataError(ZephyrError):
    """Unusable rows, files or tokens."""


class NothingToPreferError(DataError):
    """Rated answers of which no training row can be made: no prompt has one that is rated better than another."""


class UnknownFormatError(DataError):
    """A row of which no records of the wanted kind can be made."""


class RecipeError(ZephyrError):
    """A setting that is unknown, missing, out of range, or in conflict with another."""


class ModelError(ZephyrError):
    """A model, tokenizer or adapter that is missing, broken, or does not fit its data."""


class TeacherError(ZephyrError):
    """A teacher that cannot be called: no API key, no answer from its server, or the spend cap reached."""


class CheckpointError(ZephyrError):
    """A checkpoint that is damaged, incomplete, or belongs to another run."""


class InvariantError(ZephyrError):
    """Training stopped, because a self-check failed."""


class ResourceError(ZephyrError):
    """A resource of the machine is missing or exhausted: disk, memory, ports, programs."""


class DeviceError(ResourceError):
    """A device or backend that is missing, or does not support what is requested."""


class ProblemsError(ZephyrError):
    """Several errors that were found together; `what` lists them line by line, each with its remedy."""

    def __init__(self, problems: Sequence[ZephyrError]) -> None:
        super().__init__(f"{len(problems)} problems", "\n  ".join(map(str, problems)), "fix them")
        self.problems = tuple(problems)
        self.args = (self.problems,)

    def __str__(self) -> str:
        """The message, a line for each mistake."""
        return f"{self.where}:\n  {self.what}"


class Problems:
    """Mistakes that are gathered, so that a user hears of all of them at once."""

    def __init__(self) -> None:
        self._found: dict[str, ZephyrError] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep a mistake that ends the block, and go on after the block."""
        try:
            yield
        except ZephyrError as error:
            for one in error.problems if isinstance(error, ProblemsError) else (error,):
                self._found.setdefault(str(one), one)

    def raise_any(self) -> None:
        """Raise the one mistake that was kept, or one ProblemsError that lists all of them."""
        if len(self._found) > 1:
            raise ProblemsError(list(self._found.values()))
        for error in self._found.values():
            raise error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: `; did you mean 'x'?`, or the names there are."""
    names = sorted(set(known))
    if not names:
        return "; there are none to choose from"
    # Matched in lower case: a wrong capital is the commonest slip of all.
    by_lower = {candidate.lower(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if nearest:
        return f"; did you mean '{by_lower[nearest[0]]}'?"
    more = len(names) - LISTED_NAMES
    tail = f" and {more} more" if more > 0 else ""
    return f"; known are {', '.join(names[:LISTED_NAMES])}{tail}"
