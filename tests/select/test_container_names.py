"""Facts about the container of an entry from the runtimes' files, as values of conditions and columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.screen import columns
from pipeline.select.container_names import facts, text_of
from pipeline.select.where import parse
from pipeline.software.container_files import Containers, Names

ID = "1f2e3d4c" * 8
IN_DOCKER = {"container_id": ID, "container_trust": "root"}
OF_USER = {"container_id": ID, "container_trust": "user"}
BY_VERSION_1 = {"container_id": ID, "container_trust": None}


@pytest.fixture
def containers(tmp_path: Path) -> Containers:
    file = tmp_path / f"var/lib/docker/containers/{ID}/config.v2.json"
    file.parent.mkdir(parents=True)
    config = {"Image": "nginx:1", "Labels": {"tier": "\x1b[31mred"}}
    file.write_text(json.dumps({"Name": "/web", "Config": config}))
    return Containers(str(tmp_path))


def test_conditions_use_the_names_of_the_container(containers: Containers) -> None:
    known = columns.facts(0, containers)

    def matches(condition: str, entry: dict[str, Any]) -> bool:
        return parse(condition, known).matches(entry)

    assert matches("container_name == 'web' and container_image ~ '^nginx'", IN_DOCKER)
    assert matches("container_labels.tier ~ 'red'", IN_DOCKER) and matches("pod == null", IN_DOCKER)
    assert set(parse("container_name == 'web'", known).fields) == {
        "container_id", "container_trust", "container_details"
    }  # fmt: skip
    assert not matches("container_name == 'web'", OF_USER), "a user could have named its cgroup"
    assert matches("container_name == 'web'", BY_VERSION_1)
    assert not matches("container_name == 'web'", {"container_id": None})
    assert not matches("container_name == 'web'", IN_DOCKER | {"container_id": "0" * 64})


def test_columns_show_the_names_and_no_control_characters(containers: Containers) -> None:
    known = columns.facts(0, containers)
    shown = columns.chosen(["container_name", "container_image", "container_labels", "pod"], known)
    cells = ["".join(text for text, _ in each.cell(IN_DOCKER).pieces) for each in shown]
    assert cells == ["web", "nginx:1", "tier=\\x1b[31mred", "-"]
    assert set(columns.needed(shown)) == {"container_id", "container_trust", "container_details"}


def test_keys_of_a_newer_instance_are_not_used(containers: Containers) -> None:
    details = {"name": "shop", "image": None, "pod": None, "namespace": None, "labels": {}, "runtime": "runc"}
    known = columns.facts(0, containers)
    assert parse("container_name == 'shop'", known).matches(IN_DOCKER | {"container_details": details})


def test_the_instance_is_believed_first(containers: Containers) -> None:
    details = {"name": "shop", "image": None, "pod": None, "namespace": None, "labels": {"tier": "back"}}
    known = columns.facts(0, containers)
    for entry in (IN_DOCKER, BY_VERSION_1):
        told = entry | {"container_details": details}
        assert parse("container_name == 'shop' and container_labels.tier == 'back'", known).matches(told)


def test_only_the_values_of_a_file_are_shown() -> None:
    assert set(facts(Containers("/nonexistent"))) == {
        "container_name", "container_image", "container_labels", "pod", "pod_namespace"
    }  # fmt: skip
    assert text_of(Names("f", "web", "nginx:1", "shop", "prod")) == "web, image nginx:1, of the pod prod/shop"
    assert text_of(Names("f", None, "nginx:1")) == "image nginx:1" and text_of(Names("f")) == ""
