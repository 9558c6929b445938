"""Storages of kopf that store nothing: nothing is left on any object, and no object is copied to be compared."""

from __future__ import annotations

from typing import Any

import kopf


class NoDifferences(kopf.DiffBaseStorage):
    """For handlers that see every event and ask for no difference."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object is worth comparing."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was seen before."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is kept."""


class NoProgress(kopf.ProgressStorage):
    """For handlers that are done when they return."""

    def fetch(self, **_: Any) -> kopf.ProgressRecord | None:
        """Nothing is under way."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is kept."""

    def purge(self, **_: Any) -> None:
        """Nothing is there to be taken away."""

    def touch(self, **_: Any) -> None:
        """No object is changed to get an event of it."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """What was never stored need not be cleared."""
        return essence
