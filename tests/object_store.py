"""An S3 server on this machine: moto's, which answers over HTTP as S3 does, and checks keys if it is asked to."""

import json
import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import fsspec
from moto.server import ThreadedMotoServer

BUCKET = "dogs"
READ_ONLY = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:HeadObject", "s3:ListBucket"], "Resource": "*"}


class ObjectStore:
    """One bucket."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=endpoint, **keys)
        self.iam = boto3.client("iam", endpoint_url=endpoint, **keys)

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def put_folder(self, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ())]

    def read_only_keys(self) -> dict[str, str]:
        """The environment of a person who may read and not write; from here on, keys are checked."""
        return self._keys_of("reader", [READ_ONLY])

    def no_keys(self) -> dict[str, str]:
        """The environment of a person who may neither read nor write; from here on, keys are checked."""
        return self._keys_of("stranger", [])

    def _keys_of(self, name: str, allowed: list[dict[str, object]]) -> dict[str, str]:
        self.iam.create_user(UserName=name)
        if allowed:
            policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
            self.iam.put_user_policy(UserName=name, PolicyName="allowed", PolicyDocument=policy)
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        self.check_keys(True)
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def check_keys(self, wanted: bool) -> None:
        self._ask("reset-auth", b"0" if wanted else b"inf")

    def reset(self) -> None:
        self.check_keys(False)
        self._ask("reset", b"")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        self.client.create_bucket(Bucket=BUCKET)

    def _ask(self, what: str, body: bytes) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.endpoint}/moto-api/{what}", body, headers, method="POST")
        urllib.request.urlopen(request).close()


@contextmanager
def running() -> Iterator[ObjectStore]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would print every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield ObjectStore(f"http://{host}:{port}")
    finally:
        server.stop()
