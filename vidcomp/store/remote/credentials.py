"""AWS credentials and endpoints, found where the AWS tools find them.

obstore itself looks at environment variables and at the metadata service of cloud machines; people
also have ``~/.aws`` and profiles.
"""

import configparser
import importlib
import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidcomp.store.remote.errors import RemoteDeniedError

__all__ = ["aws_defaults"]

_KEYS = ("access_key_id", "secret_access_key", "session_token", "token", "region")
_SILENT = ("skip_signature", "aws_skip_signature")
_ELSEWHERE = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
)
_METADATA = ("169.254.169.254", 80)
_METADATA_S = 1.0
_ADVICE = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws, or "
    "skip_signature=true in client_options for a public bucket"
)


def aws_defaults(options: Mapping[str, str]) -> dict[str, Any]:
    """What has to be added to ``options`` for a store on S3.

    Args:
        options: what the user said, names in lower case.

    Returns:
        ``allow_http`` for an endpoint that is http://, keys of a profile, or a
        ``credential_provider`` of boto3 if it is installed and there is a profile.

    Raises:
        RemoteDeniedError: there are no credentials, and this is no machine that is given some.
    """
    found: dict[str, Any] = {}
    endpoint = options.get("endpoint") or options.get("endpoint_url") or _environment_endpoint()
    if endpoint and endpoint.lower().startswith("http://"):
        found["allow_http"] = "true"
    if _has_credentials(options):
        return found
    profile = os.environ.get("AWS_PROFILE", "default")
    values = _profile(profile)
    if not values and "AWS_PROFILE" not in os.environ:
        _check_metadata()
    elif "access_key_id" in values:
        found.update(values)
    elif importlib.util.find_spec("boto3"):
        found.update(_from_boto3(profile))
    else:
        raise RemoteDeniedError(
            f"the profile {profile!r} of ~/.aws has no keys of its own",
            "pip install boto3, which can follow it, or set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    return found


def _environment_endpoint() -> str | None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _has_credentials(options: Mapping[str, str]) -> bool:
    said = {name.removeprefix("aws_") for name in options}
    return (
        "access_key_id" in said
        or any(str(options.get(name, "")).lower() in ("true", "1") for name in _SILENT)
        or bool(os.environ.get("AWS_ACCESS_KEY_ID"))
        or any(os.environ.get(name) for name in _ELSEWHERE)
        or any(name.startswith(("container_", "web_identity", "metadata_")) for name in said)
    )


def _profile(name: str) -> dict[str, str]:
    """Settings of a profile from both files, with obstore's names; empty if there is none."""
    home = Path.home() / ".aws"
    files = (
        (os.environ.get("AWS_CONFIG_FILE") or home / "config", f"profile {name}"),
        (os.environ.get("AWS_CONFIG_FILE") or home / "config", name),
        (os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials", name),
    )
    raw: dict[str, str] = {}
    for path, section in files:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if parser.has_section(section):
            raw.update(parser.items(section))
    values = {key.removeprefix("aws_"): value for key, value in raw.items()}
    if raw and "access_key_id" not in values:
        return values
    return {key: value for key, value in values.items() if key in _KEYS}


def _from_boto3(profile: str) -> dict[str, Any]:
    session_of = importlib.import_module("boto3.session").Session
    provider_of = importlib.import_module("obstore.auth.boto3").Boto3CredentialProvider
    failed = importlib.import_module("botocore.exceptions").BotoCoreError
    try:
        return {"credential_provider": provider_of(session_of(profile_name=profile))}
    except (failed, ValueError) as error:
        raise RemoteDeniedError(f"the profile {profile!r} of ~/.aws: {error}", _ADVICE) from error


def _check_metadata() -> None:
    """See at once that there is no metadata service; obstore would ask it for a minute."""
    disabled = os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    try:
        if not disabled:
            socket.create_connection(_METADATA, _METADATA_S).close()
            return
    except OSError:
        pass
    raise RemoteDeniedError("no AWS credentials were found", _ADVICE)
