"""Errors of object stores, with what to do about them."""

import errno

from vidcomp.store.files import AdvisedError

__all__ = ["RemoteDeniedError", "RemoteError", "TransientError"]


class RemoteError(AdvisedError):
    """An object store said no, and would again."""


class TransientError(RemoteError):
    """An object store did not answer as it should; it may when it is asked again."""

    def __init__(self, reason: str, number: int = errno.EIO) -> None:
        advice = "check the network and the service, then run again, nothing committed is lost"
        super().__init__(number, reason, advice)


class RemoteDeniedError(RemoteError, PermissionError):
    """The credentials are missing, wrong, or not enough."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(errno.EACCES, reason, advice)
