"""``ccaas schema``, run as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devstack.stack import LocalStack
from schemas.canonical import AVRO_DIR, latest_schema, write_version
from schemas.promoted import PromotedField, with_promoted
from schemas.registry import Registry
from streaming.settings import RegistrySettings

SCORE = PromotedField("genesys_score", "genesys.score", "long")
V1 = latest_schema()
V2 = with_promoted(V1, [SCORE])
V3 = with_promoted(V2, [PromotedField("genesys_mood", "genesys.mood", "string")])
RETYPED = with_promoted(V1, [SCORE._replace(type="boolean")])
NOBODY = "http://127.0.0.1:9/apis/ccompat/v7"

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "avro"
    shutil.copytree(AVRO_DIR, made)
    return made


@pytest.fixture
def schema(folder: Path, tmp_path: Path) -> Command:
    """The command: its exit code, and all that it prints."""

    def run(*arguments: str | Path, url: str = NOBODY) -> tuple[int, str]:
        environment = os.environ | {
            "CCAAS_REGISTRY__URL": url, "CCAAS_REGISTRY__SCHEMA_DIR": str(folder), "CCAAS_DATA_DIR": str(tmp_path),
            "COLUMNS": "250",
        }  # fmt: skip
        command = [sys.executable, "-c", "from streaming.cli import main; main()", "schema", *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def written(folder: Path, text: str | bytes) -> Path:
    file = folder.parent / "proposed.avsc"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_a_file_is_checked_against_the_registry_and_the_project(
    schema: Command, folder: Path, own_registry: LocalStack
) -> None:
    url = own_registry.registry_url
    with_registry = Registry(RegistrySettings(url=url, schema_dir=folder))
    with_registry.register(V1)
    with_registry.register(V2)
    with_registry.close()
    assert schema("check", written(folder, V3), url=url)[0] == 0
    code, output = schema("check", written(folder, RETYPED), url=url)
    assert code == 2
    assert "registry, v2" in output
    assert "genesys_score" in output
    # The project does not know the field yet.
    code, output = schema("check", "--offline", written(folder, RETYPED), url=url)
    assert code == 0
    assert "registry" not in output
    write_version(folder, 2, V2)
    code, output = schema("check", "--offline", written(folder, RETYPED), url=url)
    assert code == 2
    assert "project, v2" in output
    assert schema("check", url=url)[0] == 0
    assert schema("register", url=url)[0] == 0


def test_the_project_is_checked_version_by_version(schema: Command, folder: Path) -> None:
    write_version(folder, 2, V2)
    write_version(folder, 3, RETYPED)
    code, output = schema("check", "--offline")
    assert code == 2
    (line,) = (line for line in output.splitlines() if "genesys_score" in line and "new reader" in line)
    assert "v3" in line
    assert "project, v2" in line


def test_the_shipped_versions_pass(schema: Command) -> None:
    assert schema("check", "--offline")[0] == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{not json", "no Avro schema"),
        (b"\xff\xfe", "can't be read"),
        ("[]", "no record"),
        ('"string"', "no record"),
        ('{"type": "record", "name": "A"}', "no Avro schema"),
        (V1.replace('"CanonicalCcaaEvent"', '"Another"'), "com.enterprise.eventbus.Another"),
        (V1.replace('"name": "tenant_id"', '"name": "tenant"'), "tenant_id is missing"),
        (V1.replace('"name": "timestamp", "type": "long"', '"name": "timestamp", "type": "string"'), "timestamp"),
        (json.dumps({**json.loads(V1), "fields": [*json.loads(V1)["fields"], "odd"]}), "no Avro schema"),
        (V2.replace('["null", "long"]', '["null", "bytes"]'), "genesys_score"),
    ],
)
def test_a_file_that_is_no_version_is_named_with_its_fault(
    schema: Command, folder: Path, text: str | bytes, says: str
) -> None:
    code, output = schema("check", "--offline", written(folder, text))
    assert code == 2
    assert "proposed.avsc" in output
    assert says in output


def test_what_is_missing_is_named(schema: Command, folder: Path, tmp_path: Path) -> None:
    code, output = schema("check", "--offline", tmp_path / "none.avsc")
    assert (code, "none.avsc" in output) == (2, True)
    code, output = schema("check")
    assert (code, NOBODY in output) == (2, True)
    shutil.rmtree(folder)
    code, output = schema("check", "--offline")
    assert (code, "registry.schema_dir" in output) == (2, True)
