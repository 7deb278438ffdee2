"""An S3 server: moto's, behind a proxy that can refuse."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from servers.programs import Server, free_port, listens
from servers.refusing_proxy import RefusingProxy

REGION = "us-east-1"


class ObjectStore:
    """An S3 endpoint, its keys, and what tests do to it.

    Attributes:
        proxy: refuses and counts.
        environment: what a user sets to reach it.
    """

    def __init__(self, port: int, access_key: str, secret_key: str) -> None:
        self.proxy = RefusingProxy(port)
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # ask no address outside this machine
        }
        self._buckets = 0

    def new_bucket(self) -> str:
        """A bucket of its own for each test; its ``s3://`` address."""
        self._buckets += 1
        name = f"bucket-{os.getpid()}-{self._buckets}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def client(self) -> Any:
        """boto3's, as another tool would look at the store."""
        import boto3

        with self.reachable():
            return boto3.client("s3", region_name=REGION)

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """This process finds the store, as if the user had set the environment."""
        with mock.patch.dict(os.environ, self.environment):
            yield


@pytest.fixture(scope="session")
def object_store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The S3 server of the session: its data lie in memory, so it is never started again."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    server = Server(command, log=folder / "moto.log", ready=lambda: listens(port))
    server.start()
    store = ObjectStore(port, "key", "secret")
    yield store
    store.proxy.close()
    server.stop()


@pytest.fixture
def s3(object_store_server: ObjectStore) -> Iterator[ObjectStore]:
    """The S3 server, reachable by the environment as users set it, refusing nothing."""
    object_store_server.proxy.refuse(0)
    object_store_server.proxy.pause_s = 0.0
    with object_store_server.reachable():
        yield object_store_server


def stored(client: Any, uri: str) -> dict[str, int]:
    """Key -> size of all objects of a bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=Path(uri).name)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}
