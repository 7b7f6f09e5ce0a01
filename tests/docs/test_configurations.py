"""Configurations that the documents show are accepted by the programs that they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.config import loading
from tests.docs.blocks import SHOWN, Block, all_blocks
from tests.docs.citations import ROOT
from tests.forward.credentials import certificates

Missing = Callable[[str], NoReturn]
ANSIBLE = ROOT / ".cache" / "ansible" / "bin"


def check(*command: str | Path, **variables: str) -> str:
    done = subprocess.run(
        command, env=dict(os.environ, **variables), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def need(program: str, missing: Missing) -> None:
    if shutil.which(program) is None:
        missing(f"{program} is not installed")


def of_procline(block: Block, directory: Path, missing: Missing) -> None:
    (directory / "procline.toml").write_text(block.text)
    # Keys that the settings name are on the server only.
    loading.load(directory / "procline.toml", {})


def of_systemd(block: Block, directory: Path, missing: Missing) -> None:
    need("systemd-analyze", missing)
    (directory / "shown.service").write_text(re.sub("ExecStart=[^ ]+", "ExecStart=/bin/true", block.text))
    (directory / "procline.service").write_text("[Service]\nExecStart=/bin/true\n")
    said = check(
        "systemd-analyze", "verify", "--man=no", directory / "shown.service", SYSTEMD_UNIT_PATH=f"{directory}:"
    )
    # It only warns of what systemd would ignore.
    assert "shown.service" not in said, said


def of_prometheus(block: Block, directory: Path, missing: Missing) -> None:
    need("promtool", missing)
    text = block.text
    if text.startswith("receivers:"):
        yaml = pytest.importorskip("yaml")
        # The collector's receiver has a configuration of Prometheus.
        text = json.dumps(yaml.safe_load(text)["receivers"]["prometheus"]["config"])
    (directory / "prometheus.yml").write_text(text)
    check("promtool", "check", "config", directory / "prometheus.yml")


def of_ansible(block: Block, directory: Path, missing: Missing) -> None:
    if not (ANSIBLE / "ansible-playbook").exists():
        missing("script/collection setup has not run")
    tasks = re.sub("^", "    ", block.text, flags=re.MULTILINE)
    (directory / "shown.yml").write_text(f"- hosts: localhost\n  tasks:\n{tasks}")
    place = directory / "ansible_collections" / "procline"
    place.mkdir(parents=True)
    (place / "procline").symlink_to(ROOT / "ansible")
    check(
        ANSIBLE / "ansible-playbook", "--syntax-check", "-i", "localhost,", directory / "shown.yml",
        ANSIBLE_COLLECTIONS_PATH=str(directory), ANSIBLE_HOME=str(directory),
    )  # fmt: skip


def of_datadog(block: Block, directory: Path, missing: Missing) -> None:
    """The agent is not there: it is YAML, and its patterns are regular expressions."""
    yaml = pytest.importorskip("yaml")
    for instance in yaml.safe_load(block.text)["instances"]:
        assert [re.compile(each) for each in instance["metrics"]] and instance["openmetrics_endpoint"]


def of_nats(block: Block, directory: Path, missing: Missing) -> None:
    need("nats-server", missing)
    certificates(directory)
    for name in ("hub.pem", "hub.key"):
        shutil.copy(directory / f"server{Path(name).suffix}", directory / name)
    (directory / "rack7.creds").write_text("")
    text = block.text.replace("/etc/nats/", f"{directory}/").replace("/var/lib/nats", f"{directory}/store")
    (directory / "nats.conf").write_text(text)
    check("nats-server", "-t", "-c", directory / "nats.conf")


def of_json(block: Block, directory: Path, missing: Missing) -> None:
    json.loads(block.text)


def program_of(block: Block) -> Callable[[Block, Path, Missing], None] | None:
    """Return what checks a block; None: it is no configuration."""
    by_language = {"toml": of_procline, "ini": of_systemd, "json": of_json}
    if block.language in by_language:
        return by_language[block.language]
    if block.language == "text":
        return (
            of_nats if re.search(r"^(?:jetstream|leafnodes|accounts|authorization|tls) \{", block.text, re.M) else None
        )
    if block.language != "yaml":
        return None
    if block.text.startswith("- name:"):
        return of_ansible
    return of_datadog if block.text.startswith("instances:") else of_prometheus


CONFIGURATIONS = [
    each for each in all_blocks() if each.language in SHOWN and program_of(each) and each.mark != "run by"
]


def test_each_kind_is_found() -> None:
    kinds = {program_of(each) for each in CONFIGURATIONS}
    assert kinds == {of_procline, of_systemd, of_prometheus, of_ansible, of_datadog, of_nats, of_json}


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=lambda block: f"{Path(block.page).name}:{block.line}")
@pytest.mark.expensive
def test_it_is_accepted(block: Block, tmp_path: Path, missing: Missing) -> None:
    found = program_of(block)
    assert found is not None
    found(block, tmp_path, missing)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("toml", "[forward]\ntoo = 1\n"),
        ("ini", "[Service]\nExecStart=/bin/x\nUser=a b\nRestart=sometimes\n"),
        ("yaml", "scrape_configs: 7\n"),
        ("yaml", "- name: x\n  procline.procline.no_such_module:\n"),
        ("text", "jetstream { store_dir: 7 }\n"),
        ("json", "{'x': 1}"),
    ],
)
@pytest.mark.expensive
def test_a_wrong_one_is_found(language: str, text: str, tmp_path: Path, missing: Missing) -> None:
    block = Block("x.md", 1, language, text)
    found = program_of(block)
    assert found is not None
    with pytest.raises(Exception, match=r"(?s)."):
        found(block, tmp_path, missing)


@pytest.mark.expensive
def test_the_commands_that_prepare_a_fleet(tmp_path: Path, missing: Missing) -> None:
    """docs/operations.md: build the collection, install it, and copy the example, whose playbook Ansible accepts."""
    if not (ANSIBLE / "ansible-galaxy").exists():
        missing("script/collection setup has not run")
    (block,) = [each for each in all_blocks() if each.detail == "tests/docs/test_configurations.py"]
    text = block.script.replace("script/collection build", f"{ROOT}/script/collection build {tmp_path}/dist")
    (tmp_path / "ansible").symlink_to(ROOT / "ansible")
    command = f"cd {tmp_path}\n{text}\nansible-playbook -i inventory site.yml --syntax-check"
    check(
        "sh", "-euc", command, PATH=f"{ANSIBLE}:{os.environ['PATH']}", ANSIBLE_HOME=f"{tmp_path}/home",
        ANSIBLE_COLLECTIONS_PATH=f"{tmp_path}/collections",
    )  # fmt: skip
