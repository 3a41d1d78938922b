"""One tree of exceptions. Each carries the values it speaks of as attributes.

An error that a user can cause says what was wrong and where, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecsimError(Exception):
    """Base of everything that recsim_env raises on purpose; the command line prints it without a traceback."""


class UnknownNameError(RecsimError):
    """A plug-in, data set, key or column that does not exist."""

    def __init__(self, kind: str, name: str, allowed: Iterable[str], where: str = "", remedy: str = "") -> None:
        self.kind, self.name, self.allowed, self.where = kind, name, sorted(allowed), where
        text = f"Unknown {kind} {name!r}{f' ({where})' if where else ''}."
        super().__init__(f"{text}{self._nearest('Allowed')} {remedy}".rstrip())

    def _nearest(self, word: str) -> str:
        """The name that was meant, or all that there are after a word."""
        near = difflib.get_close_matches(self.name, self.allowed, n=1, cutoff=0.6)
        if near:
            return f" Did you mean {near[0]!r}?"
        return f" {word}: {', '.join(self.allowed)}." if self.allowed else ""


class MissingColumnError(UnknownNameError):
    """A table lacks a column."""

    def __init__(self, name: str, columns: Iterable[str], where: str, remedy: str = "") -> None:
        super().__init__("column", name, columns, where, remedy)
        self.args = (f"{where} has no column {name!r}.{self._nearest('It has')} {remedy}".rstrip(),)


class DuplicateNameError(RecsimError):
    """Two plug-ins claim one name."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"Two {kind}s are called {name!r}. Rename one of them; names must be unique.")


class MissingDependencyError(RecsimError):
    """An optional package is needed and absent, or too old."""

    def __init__(self, what: str, package: str, install: str, instead: str = "") -> None:
        self.what, self.package, self.install = what, package, install
        hint = f", or {instead}" if instead else ""
        super().__init__(f"{what} needs the package {package}. Install it with: {install}{hint}.")


class ScenarioError(RecsimError):
    """A scenario file or a ``--set`` override that cannot be used."""


class DataError(RecsimError):
    """Ratings or items that cannot be loaded.

    Attributes:
        path: The file.
        row: Line number in the file, counted from 1, or None.
    """

    def __init__(self, message: str, path: object = None, row: int | None = None, remedy: str = "") -> None:
        self.path, self.row = path, row
        where = f"{path}{f', line {row}' if row is not None else ''}: " if path is not None else ""
        super().__init__(f"{where}{message}{f' {remedy}' if remedy else ''}")


class RunFolderError(RecsimError):
    """A run folder that cannot be written, resumed or read."""


class EngineError(RecsimError):
    """A language-model engine that cannot answer."""


class ContractError(RecsimError):
    """A plug-in broke its contract, for example a slate with an item outside the catalogue."""


class SeatError(RecsimError):
    """What a person in a user's seat cannot do."""
