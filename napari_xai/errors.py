"""What can go wrong between a scan, a model and a question, beside what the two libraries say themselves."""

from methods3d import Methods3dError
from xai_io import XaiIOError

__all__ = ["USER_ERRORS", "ExplainError"]


class ExplainError(Exception):
    """Scan, model and question do not fit together; the message says what to do."""


USER_ERRORS = (Methods3dError, XaiIOError, ExplainError)
"""Everything whose message is one sentence for a user: shown as it is, without a traceback."""
