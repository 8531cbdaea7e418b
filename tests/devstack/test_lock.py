"""The committed lock file and its form."""

from __future__ import annotations

from pathlib import Path

import pytest

from devstack.errors import ArtifactError
from devstack.lock import Lock, Pin, read_lock, split_path, write_lock


def test_the_committed_lock_is_kafka_with_its_log_binding_and_the_registry() -> None:
    lock = read_lock()
    names = {pin.name for pin in lock.kafka}
    assert {"kafka_2.13-4.3.1.jar", "kafka-tools-4.3.1.jar", "log4j-slf4j-impl-2.25.4.jar"} <= names
    versions = {split_path(pin.path)[2] for pin in lock.kafka if split_path(pin.path)[0] == "org.apache.kafka"}
    assert versions == {"4.3.1"}
    assert lock.registry.name == "apicurio-registry-app-2.5.11.Final-all.tar.gz"
    artifacts = [split_path(pin.path)[:2] for pin in lock.kafka]
    assert len(artifacts) == len(set(artifacts)), "two versions of one jar on a class path"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    jar = Pin("org/example/thing/1.0/thing-1.0.jar", 3, "a" * 64)
    lock = Lock((jar,), Pin("org/example/server/1.0/server-1.0-all.tar.gz", 4, "b" * 64))
    write_lock(lock, tmp_path / "lock.toml")
    assert read_lock(tmp_path / "lock.toml") == lock


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("org/example/thing/1.0/thing-1.0.jar", ("org.example", "thing", "1.0", "", "jar")),
        ("a/kafka_2.13/4.3.1/kafka_2.13-4.3.1.jar", ("a", "kafka_2.13", "4.3.1", "", "jar")),
        ("a/s/1.Final/s-1.Final-all.tar.gz", ("a", "s", "1.Final", "all", "tar.gz")),
    ],
)
def test_a_path_holds_the_coordinate(path: str, parts: tuple[str, ...]) -> None:
    assert split_path(path) == parts


@pytest.mark.parametrize("path", ["thing.jar", "a/thing/1.0/other-1.0.jar", "a/thing/1.0/thing-1.0x.jar", "a/b/c/b-c"])
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path of a Maven artifact"):
        split_path(path)


@pytest.mark.parametrize(
    "text",
    [
        "kafka = [",
        "",
        '[[kafka]]\npath = "a/b/1/b-1.jar"\nsize = 1\nsha256 = "short"\n',
        '[[kafka]]\npath = "a/b/1/b-1.jar"\nsize = "1"\nsha256 = "x"\n',
    ],
    ids=["syntax", "empty", "digest", "type"],
)
def test_a_damaged_lock_says_how_to_mend_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.toml").write_text(text)
    with pytest.raises(ArtifactError, match=r"lock\.toml.*restore it from version control"):
        read_lock(tmp_path / "lock.toml")
