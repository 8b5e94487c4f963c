"""Sample sets in S3-compatible object storage, under `s3://bucket/key`. This folder alone imports boto3.

Endpoint and credentials come from the environment, where boto3 and DVC alike look for them: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE.
"""

import pkgutil

SCHEME = "s3://"
_FILES = {
    "fetch": "mirror",
    "Fetched": "mirror",
    "publish_files": "mirror",
    "explained": "errors",
    "patiently": "errors",
}
"""What this folder offers → the file that has it, which loads boto3."""


def is_remote(path: str) -> bool:
    """Whether a path is an address in object storage."""
    return path.startswith(SCHEME)


def __getattr__(name: str) -> object:
    """Load boto3, which takes its time, with the first name that needs it: every start of `ost` asks `is_remote`."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{_FILES[name]}:{name}")
