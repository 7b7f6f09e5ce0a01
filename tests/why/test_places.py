"""Units, timers, login sessions and containers: the facts in the host's files, and how far they are trusted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.software import container_files
from pipeline.why import systemd
from pipeline.why.host import Host
from pipeline.why.proof import Proof
from tests.why.world import BOOT_NS, image, lineage, missing, told

ID = "1f2e3d4c" * 8


class Systemctl:
    """Answers of systemctl, by unit."""

    def __init__(self, **units: str) -> None:
        self.units = {name.replace("_", "."): text for name, text in units.items()}

    def __call__(self, arguments: Sequence[str]) -> str | None:
        if arguments[0] == "busctl":
            return self.units.get(f"busctl {arguments[3]}")
        assert arguments[-2] == "--"  # a unit's name is never read as an option
        return self.units.get(arguments[-1])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


def write(root: Path, path: str, content: Any) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_a_unit(root: Path) -> None:
    facts = lineage([image(11, "/usr/sbin/nginx", cgroup="/system.slice/nginx.service")])
    host = Host(
        str(root), Systemctl(nginx_service="LoadState=loaded\nDescription=web\nInvocationID=abc\nTriggeredBy=\n")
    )
    (unit,) = told(facts, host)["unit"]
    assert unit.proof is Proof.ROOT and unit.facts["unit"] == "nginx.service" and unit.facts["invocation_id"] == "abc"
    assert "triggered_by" not in told(facts, host) and "trigger" not in missing(facts, host)


def test_a_cgroup_named_like_a_unit_without_systemd() -> None:
    facts = lineage([image(11, cgroup="/system.slice/nginx.service")])
    assert facts.init is not None
    facts.init["path"] = "/sbin/other"
    (unit,) = told(facts)["unit"]
    assert unit.proof is Proof.INFERRED and "is named like" in unit.text


def test_the_unit_of_a_creator_is_inferred_for_the_child(root: Path) -> None:
    cgroup = "/system.slice/nginx.service"
    facts = lineage([image(11, cgroup=cgroup, cgroup_source="inherited")])
    (unit,) = told(facts, Host(str(root), Systemctl()))["unit"]
    assert unit.proof is Proof.INFERRED and "is named like" not in unit.text


def test_the_name_of_a_users_unit_is_a_claim(root: Path) -> None:
    cgroup = "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service"
    found = told(lineage([image(11, uid=1000, cgroup=cgroup)]), Host(str(root), Systemctl()))
    assert found["user_manager"][0].facts["uid"] == 1000 and found["user_unit"][0].proof is Proof.CLAIMED
    assert "unit" not in found


STARTED = BOOT_NS + 11 * 10**9


@pytest.mark.parametrize(
    ("details", "last_ns", "proof"),
    [
        ('a(ss) 2 "trigger_unit" "backup.timer" "trigger_timer_realtime_usec" "1795854114696000"', 0, Proof.ROOT),
        ("", STARTED - 2 * 10**9, Proof.INFERRED),
        ("", STARTED - 60 * 10**9, None),
        ("", STARTED + 60 * 10**9, None),
        ("", None, None),
    ],
)
def test_a_unit_that_a_timer_starts(root: Path, details: str, last_ns: int | None, proof: Proof | None) -> None:
    from datetime import UTC, datetime

    shown = "n/a" if last_ns is None else f"{datetime.fromtimestamp(last_ns / 1e9, UTC):%a %Y-%m-%d %H:%M:%S.%f} UTC"
    text = "LoadState=loaded\nTriggeredBy=backup.timer\n"
    systemctl = Systemctl(backup_service=text, backup_timer=f"LastTriggerUSec={shown}\n")
    systemctl.units["busctl /org/freedesktop/systemd1/unit/backup_2eservice"] = details
    host = Host(str(root), systemctl)
    facts = lineage(
        [image(11, cgroup="/system.slice/backup.service")], [image(12, cgroup="/system.slice/backup.service")]
    )
    found = told(facts, host).get("triggered_by", [])
    assert [(each.proof, each.facts["unit"]) for each in found] == ([(proof, "backup.timer")] if proof else [])
    assert ("trigger" in missing(facts, host)) == (proof is None)


def test_a_process_that_a_former_run_of_its_unit_left(root: Path) -> None:
    """Facts of systemd about the present run are not used for an earlier one."""
    from datetime import UTC, datetime

    began = datetime.fromtimestamp(STARTED / 1e9 + 60, UTC)
    text = f"LoadState=loaded\nTriggeredBy=x.timer\nInvocationID=abc\nInactiveExitTimestamp={began:%Y-%m-%d %T} UTC\n"
    systemctl = Systemctl(x_service=text)
    systemctl.units["busctl /org/freedesktop/systemd1/unit/x_2eservice"] = '"trigger_unit" "x.timer"'
    facts = lineage([image(11, cgroup="/system.slice/x.service")])
    found = told(facts, Host(str(root), systemctl))
    assert "invocation_id" not in found["unit"][0].facts and "triggered_by" not in found
    later = lineage([image(111, cgroup="/system.slice/x.service")])
    assert told(later, Host(str(root), systemctl))["unit"][0].facts["invocation_id"] == "abc"


def test_a_hostile_unit_is_no_option(root: Path) -> None:
    assert systemd.unit_facts("--help", Systemctl()) is None and systemd.unit_facts("a b.service", Systemctl()) is None


def test_a_login_session(root: Path) -> None:
    write(
        root,
        "run/systemd/sessions/3",
        "# private\nUID=1000\nUSER=alice\nSERVICE=sshd\nREMOTE_HOST=203.0.113.7\nLEADER=10\n",
    )
    facts = lineage([image(11, uid=1000, cgroup="/user.slice/user-1000.slice/session-3.scope")])
    (session,) = told(facts, Host(str(root), Systemctl()))["login_session"]
    assert session.proof is Proof.ROOT and session.facts["leader_pid"] == 10
    assert "of the user alice, opened by sshd from 203.0.113.7" in session.text
    assert "login_session" in missing(
        lineage([image(11, cgroup="/user.slice/session-4.scope")]), Host(str(root), Systemctl())
    )


RUNTIMES = {
    "docker": ("var/lib/docker/containers/{id}/config.v2.json", {"Name": "/web", "Config": {"Image": "nginx:1"}}),
    "podman": (
        "var/lib/containers/storage/overlay-containers/containers.json",
        [{"id": "0" * 64, "names": ["other"]}, {"id": ID, "names": ["web"], "metadata": '{"image-name": "nginx:1"}'}],
    ),
    "containerd": (
        "run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/config.json",
        {"annotations": {"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.image-name": "nginx:1",
                         "io.kubernetes.cri.sandbox-name": "shop", "io.kubernetes.cri.sandbox-namespace": "prod"}},
    ),
    "cri-o": (
        "run/containers/storage/overlay-containers/{id}/userdata/config.json",
        {"annotations": {"io.kubernetes.container.name": "web", "io.kubernetes.cri-o.ImageName": "nginx:1"}},
    ),
    "kubelet": ("var/log/containers/shop_prod_web-{id}.log", ""),
}  # fmt: skip


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_names_of_containers(root: Path, runtime: str) -> None:
    path, content = RUNTIMES[runtime]
    file = write(root, path.format(id=ID), content)
    facts = lineage([image(10, "/usr/bin/conmon")], [image(11, container_id=ID, cgroup=f"/docker/{ID}")])
    (found,) = told(facts, Host(str(root), Systemctl()))["container"]
    assert (found.proof, found.facts["name"], found.facts["file"]) == (Proof.ROOT, "web", str(file))
    assert found.facts["trust"] == "root" and "named by a user" not in found.text
    assert found.facts["entered_pid"] == 11 and "container_name" not in missing(facts, Host(str(root), Systemctl()))
    if runtime in {"containerd", "kubelet"}:
        assert (found.facts["pod"], found.facts["namespace"]) == (
            "shop",
            "prod",
        ) and "of the pod prod/shop" in found.text


def test_a_user_that_names_a_cgroup_like_a_container_is_not_in_it(root: Path) -> None:
    path, content = RUNTIMES["docker"]
    write(root, path.format(id=ID), content)
    cgroup = f"/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope"
    facts = lineage([image(11, uid=1000, container_id=ID, cgroup=cgroup)])
    (found,) = told(facts, Host(str(root), Systemctl()))["container"]
    assert found.proof is Proof.INFERRED and found.facts["name"] is None and found.facts["trust"] == "user"
    assert f"container {ID[:12]} (named by a user?)" in found.text
    assert "somebody other than root" in missing(facts, Host(str(root), Systemctl()))["container_name"].text


def test_labels_are_bounded_and_text(root: Path) -> None:
    """Docker's labels, and the annotations of an OCI runtime."""
    labels = {f"l{number:04d}": "x" * 1000 for number in range(500)} | {"a": "1", "b": 7, "c": None}
    write(root, f"var/lib/docker/containers/{ID}/config.v2.json", {"Name": "/web", "Config": {"Labels": labels}})
    found = container_files.names_of(ID, str(root))
    assert found is not None and len(found.labels) == container_files.LABELS_MAX
    assert found.labels["a"] == "1" and not {"b", "c"} & set(found.labels)
    assert {len(text) for text in found.labels.values()} == {1, container_files.LABEL_CHARACTERS_MAX}
    (root / f"var/lib/docker/containers/{ID}/config.v2.json").unlink()
    write(root, RUNTIMES["cri-o"][0].format(id=ID), RUNTIMES["cri-o"][1])
    oci = container_files.names_of(ID, str(root))
    assert oci is not None and oci.labels["io.kubernetes.container.name"] == "web"


def test_each_file_is_read_once_for_a_list(root: Path) -> None:
    file = write(root, RUNTIMES["docker"][0].format(id=ID), RUNTIMES["docker"][1])
    containers = container_files.Containers(str(root))
    first = containers.names_of(ID)
    file.unlink()
    assert first is not None and first.name == "web" and containers.names_of(ID) is first
    assert containers.names_of("0" * 64) is None and not containers.is_denied
    assert container_files.Containers(str(root)).names_of(ID) is None


def test_a_name_that_another_user_could_have_written_is_not_believed(root: Path) -> None:
    file = write(root, RUNTIMES["docker"][0].format(id=ID), RUNTIMES["docker"][1])
    assert container_files.names_of(ID, str(root)) is not None
    file.chmod(0o666)
    assert container_files.names_of(ID, str(root)) is None
    file.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
        assert container_files.names_of(ID, str(root)) is None


BROKEN = (
    "", "[]", "7", '{"Config": 3}', "[[]]", '{"Name": 7}', "[" * 100_000, json.dumps([{"id": ID, "names": {"a": 1}}]),
)  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
def test_broken_files_are_no_names(root: Path, content: str) -> None:
    for path, _ in RUNTIMES.values():
        if not path.endswith(".log"):
            write(root, path.format(id=ID), content)
    found = container_files.names_of(ID, str(root))
    assert found is None or found.name is None


def test_an_unknown_container_has_the_reason_for_its_missing_name(root: Path) -> None:
    facts = lineage([image(11, container_id=ID, cgroup=f"/docker/{ID}")])
    (found,) = told(facts, Host(str(root), Systemctl()))["container"]
    assert found.proof is Proof.INFERRED and found.facts["runtime"] == "docker"
    assert "no files of a container runtime" in missing(facts, Host(str(root), Systemctl()))["container_name"].text
    (root / "var/lib/docker").mkdir(parents=True)
    assert "has it" in missing(facts, Host(str(root), Systemctl()))["container_name"].text


def test_a_container_id_never_leads_out_of_the_runtimes_directory(root: Path) -> None:
    write(root, "var/lib/docker/containers/x/config.v2.json", {"Name": "/web"})
    assert (
        container_files.names_of("x", str(root)) is None
        and container_files.names_of("../containers/x", str(root)) is None
    )
