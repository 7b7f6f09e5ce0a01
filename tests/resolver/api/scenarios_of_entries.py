"""E1 to E9: the scenarios of specification 8.3, from the reference's tests of entries, without a table and on rows."""

from __future__ import annotations

from typing import Any

from pipeline.resolver.entries.model import (
    CGroupContext,
    ContainerContext,
    Credentials,
    FileEvent,
    PathKey,
    ProcessIncompleteLineageError,
    ProcessMissingParentNodeError,
    ProcessWrongParentNodeError,
    SSHSessionContext,
    UserSessionContext,
)
from tests.resolver.api.scenario_checks import ancestor, children, credentials, equal, has, inherits, lineage
from tests.resolver.api.scenario_happens import (
    change,
    ebpf,
    entry_exec,
    entry_fork,
    free,
    put,
    set_exec_parent,
    set_fork_parent,
)
from tests.resolver.api.scenario_steps import given, then, when

#: The facts that descendants inherit from an ancestor.
HERITAGE: dict[str, Any] = {
    "cgroup": CGroupContext("/docker/abc", PathKey(10, 2)), "container": ContainerContext("abc"), "mnt_ns": 1234,
    "net_ns": 5678, "user_session": UserSessionContext(ssh=SSHSessionContext(9876, "alice")),
    "credentials": Credentials(auid=1234),
}  # fmt: skip

#: E5 for two empty entries.
EQUALITY = [
    then(equal("A", "B")),
    when(change("A", file_event=FileEvent(inode=33)), change("B", file_event=FileEvent(inode=44))),
    then(equal("A", "B", False)),
    when(change("B", file_event=FileEvent(inode=33, pathname="/another/name"))), then(equal("A", "B")),
    when(change("B", args=["aaa"])), then(equal("A", "B", False)),
    when(change("A", cut_args=["aaa"])), then(equal("A", "B")),
    when(change("B", envs=["A=1"])), then(equal("A", "B", False)),
    when(change("A", envs=["A=1"])), then(equal("A", "B")),
    when(change("B", credentials=Credentials(cap_effective=1))), then(equal("A", "B", False)),
    when(change("A", credentials=Credentials(cap_effective=1, auid=7, user="x"))), then(equal("A", "B")),
]  # fmt: skip

OF_ENTRIES = {
    "E1 lineage valid": ebpf(
        when(free("A", 1), free("B", 2, above="A"), free("C", 3, above="B")), then(lineage("C", None)),
    ),
    "E1b lineage valid, rows": ebpf(
        when(put("A", 0, 1), put("B", 1, 2, above="A"), put("C", 2, 3, above="B")), then(lineage("C", None)),
    ),
    "E2 pid 1 missing": ebpf(
        when(free("B", 2), free("C", 3, above="B")), then(lineage("C", ProcessIncompleteLineageError)),
    ),
    "E2b pid 1 missing, rows": ebpf(
        when(put("B", 0, 2), put("C", 2, 3, above="B")), then(lineage("C", ProcessIncompleteLineageError)),
    ),
    # For rows: an exec of pid 1, which is valid.
    "E3 two pid 1": ebpf(
        when(free("A", 1), free("B", 1, above="A"), free("C", 3, above="B")),
        then(lineage("C", ProcessWrongParentNodeError)),
    ),
    "E4 parent missing": ebpf(
        when(free("A", 1), free("B", 2, above="A", is_parent_missing=True), free("C", 3, above="B")),
        then(lineage("C", ProcessMissingParentNodeError)),
    ),
    "E4b parent missing, rows": ebpf(
        when(put("A", 0, 1), put("B", 1, 2, above="A", is_parent_missing=True), put("C", 2, 3, above="B")),
        then(lineage("C", ProcessMissingParentNodeError)),
    ),
    "E5 Equals": ebpf(given(free("A", 2), free("B", 3)), *EQUALITY),
    "E5b Equals, rows": ebpf(given(put("A", 0, 2), put("B", 0, 3)), *EQUALITY),
    "E6 inheritance by Fork": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(entry_fork("P", "C")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E6b inheritance by Fork, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(entry_fork("P", "C")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
    "E7 inheritance by Exec": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(entry_exec("P", "C")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E7b inheritance by Exec, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(entry_exec("P", "C")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
    "E8 inheritance by SetForkParent": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(set_fork_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E8b inheritance by SetForkParent, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(set_fork_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
    # A cgroup identifies its container, so in another cgroup the container would be a guess. A root login is certain.
    "E8c inheritance fills gaps only": ebpf(
        given(
            free("P", 1, **HERITAGE),
            free("C", 2, cgroup=CGroupContext("/other", PathKey(11)), mnt_ns=9, credentials=Credentials(auid=0)),
        ),
        when(set_fork_parent("C", "P")),
        then(
            has("C", cgroup=CGroupContext("/other", PathKey(11)), container=ContainerContext(), mnt_ns=9, net_ns=5678),
            credentials("C", auid=0),
        ),
    ),
    "E9 inheritance by SetExecParent": ebpf(
        given(free("P", 1, **HERITAGE), free("C", 2)),
        when(set_exec_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P")),
    ),
    "E9b inheritance by SetExecParent, rows": ebpf(
        given(put("P", 0, 1, **HERITAGE), put("C", 0, 2)),
        when(set_exec_parent("C", "P")), then(ancestor("C", "P"), inherits("C", "P"), children("P", "C")),
    ),
}  # fmt: skip
