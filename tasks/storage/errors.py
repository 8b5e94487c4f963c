"""What boto3 raises: outages, which are waited for, and refusals, which a person is told how to mend."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from boto3.exceptions import Boto3Error, S3UploadFailedError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from ost.errors import DataError
from ost.settings import without_userinfo

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE, PAUSE = 180.0, 3.0
"""Seconds for which a server that is down is waited for, and between two tries."""

_KEYS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to some that may"

REMEDIES = {
    "NoSuchBucket": "there is no such bucket: check its name, and AWS_ENDPOINT_URL",
    "AccessDenied": f"these credentials may not: {_KEYS}",
    "InvalidAccessKeyId": f"nobody there knows this access key: {_KEYS}",
    "SignatureDoesNotMatch": f"the secret key is not this access key's: {_KEYS}",
    "ExpiredToken": "the session token has expired: sign in anew",
}
"""What to do about a refusal, by its code. The server's own words are left out: they may quote the credentials."""


def patiently(call: Callable[[], Result], come: Callable[[], int] = lambda: 0) -> Result:
    """What a call returns; it is made again while the server is down, for as long as PATIENCE.

    That is counted from the first failure on, and anew where more has come since the one before. `come`: how much has.
    """
    known, since = -1, 0.0
    while True:
        try:
            return call()
        except (BotoCoreError, ClientError, S3UploadFailedError) as error:
            if come() > known:
                known, since = come(), time.monotonic()
            if time.monotonic() - since >= PATIENCE or not is_outage(error):
                raise
            log.warning("the object storage does not answer (%s); trying again", type(error).__name__)
        time.sleep(PAUSE)


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the server cannot be reached, or is in trouble, rather than that it refuses."""
    if isinstance(error, S3UploadFailedError) and error.__context__:
        return is_outage(error.__context__)
    if isinstance(error, ClientError):
        return status_of(error) >= 500
    return isinstance(error, ConnectionError | HTTPClientError | IncompleteReadError)


def status_of(error: ClientError) -> int:
    """The HTTP status that the server answered with; 0 where it is not known."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


@contextlib.contextmanager
def explained(address: str, doing: str = "read") -> Iterator[None]:
    """Turn what boto3 raises into a DataError that says what to do."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DataError(f"cannot {doing} {address}: there are no credentials: {_KEYS}") from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise DataError(f"cannot {doing} {address}: {REMEDIES.get(code, f'refused with {code}')}") from None
    except PermissionError as error:
        if error.filename:  # a local file
            raise
        raise DataError(f"cannot {doing} {address}: {REMEDIES['AccessDenied']}") from None
    except (BotoCoreError, Boto3Error) as error:
        text = without_userinfo(str(error))
        cause = error if text == str(error) else None  # which a log would show
        raise DataError(f"cannot {doing} {address}: {text}; check AWS_ENDPOINT_URL and the network") from cause
