"""Why something failed, as one failure with a reason: the one that was raised with it, or InternalError for what nobody expected."""

from __future__ import annotations

from dsort_api.reasons import DSortError, Reason


def reason_in(error: BaseException) -> DSortError | None:
    """The first failure with a reason, in a group of exceptions or alone."""
    if isinstance(error, DSortError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if (found := reason_in(inner)) is not None:
                return found
    return None


def unexpected(error: BaseException, *, where: str) -> DSortError:
    """InternalError in one line, of the first in a group; its trace belongs in the log."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return DSortError(Reason.INTERNAL, f"{where}: {type(error).__name__}: {' '.join(str(error).split())}")
