"""The origin of a process: creators, adopters, jobs and package managers."""

from __future__ import annotations

from pipeline.why.proof import Proof
from tests.why.world import BOOT_NS, forked, image, lineage, missing, summary_of, told


def cron(path: str = "/usr/sbin/cron") -> list[list[dict[str, object]]]:
    return [
        [image(10, path)], [forked(11, path)],
        [forked(12, path, uid=1000), image(12, "/usr/bin/dash", uid=1000, argv=["/bin/sh", "-c", "backup"])],
        [forked(13, "/usr/bin/dash", uid=1000), image(13, "/usr/bin/rsync", uid=1000)],
    ]  # fmt: skip


def test_a_job_of_cron() -> None:
    facts = lineage(*cron())
    (job,) = told(facts)["cron_job"]
    assert job.proof is Proof.ROOT and job.facts["job_argv"] == ["/bin/sh", "-c", "backup"]
    assert (job.facts["daemon_pid"], job.facts["job_pid"]) == (10, 12)
    assert "as part of a job of cron" in summary_of(facts)
    assert "crontab" in missing(facts)


def test_a_program_named_cron_elsewhere_proves_nothing() -> None:
    facts = lineage(*cron("/tmp/cron"))
    (job,) = told(facts)["cron_job"]
    assert job.proof is Proof.CLAIMED and "anybody may have named so" in job.text
    assert "cron" not in summary_of(facts).replace("/tmp/cron", "")


def test_cron_that_a_user_executes_starts_no_jobs() -> None:
    """The file is root's, but the user can load a library into it (LD_PRELOAD)."""
    path = "/usr/sbin/cron"
    facts = lineage([image(10, uid=1000)], [image(11, path, uid=1000)], [image(12, "/usr/bin/dash", uid=1000)])
    (job,) = told(facts)["cron_job"]
    assert job.proof is Proof.CLAIMED and "had no rights of root" in job.text
    assert "job of cron" not in summary_of(facts)


def test_atd_without_its_effective_root_is_atd() -> None:
    path = "/usr/sbin/atd"
    facts = lineage([image(10, path, uid=0, euid=1, suid=1)], [image(11, "/usr/bin/dash", uid=1000)])
    assert told(facts)["at_job"][0].proof is Proof.ROOT


def test_cron_itself_is_no_job() -> None:
    assert "cron_job" not in told(lineage([image(10, "/usr/sbin/cron")]))


def test_a_job_of_at() -> None:
    facts = lineage([image(10, "/usr/sbin/atd")], [forked(11, "/usr/sbin/atd"), image(11, "/usr/bin/dash", uid=1000)])
    assert told(facts)["at_job"][0].facts["program"] == "atd" and "at_job" in missing(facts)


def test_a_maintainer_script_below_apt() -> None:
    facts = lineage(
        [image(10, "/usr/bin/apt-get", argv=["apt-get", "install", "nginx"])],
        [image(11, "/usr/bin/dpkg", argv=["dpkg", "--configure", "-a"])],
        [image(12, "/usr/bin/dash", script_path="/var/lib/dpkg/info/nginx-common.postinst")],
        [image(13, "/usr/bin/systemctl")],
    )
    found = told(facts)
    assert [each.facts["program"] for each in found["package_manager"]] == ["apt-get", "dpkg"]
    (script,) = found["maintainer_script"]
    assert (script.facts["package"], script.facts["script"], script.proof) == ("nginx-common", "postinst", Proof.ROOT)
    assert "by a maintainer script of the package nginx-common" in summary_of(facts)


def test_a_maintainer_script_that_a_user_executes_is_no_installation() -> None:
    script = image(12, "/usr/bin/dash", uid=1000, script_path="/var/lib/dpkg/info/nginx-common.postinst")
    facts = lineage([script], [image(13, uid=1000)])
    assert told(facts)["maintainer_script"][0].proof is Proof.CLAIMED
    assert "maintainer script" not in summary_of(facts)


def test_pip_as_a_module_is_a_claim() -> None:
    facts = lineage([image(10, "/usr/bin/python3.13", argv=["python3", "-m", "pip", "install", "x"])], [image(11)])
    (found,) = told(facts)["package_manager"]
    assert (found.facts["program"], found.proof) == ("pip", Proof.CLAIMED)


def test_npm_as_a_script_of_node() -> None:
    facts = lineage(
        [image(10, "/usr/bin/node", script_path="/usr/bin/npm", argv=["node", "/usr/bin/npm", "ci"])], [image(11)]
    )
    (found,) = told(facts)["package_manager"]
    assert (found.facts["program"], found.proof) == ("npm", Proof.ROOT)


def test_an_adopted_daemon_names_its_creator() -> None:
    ended = BOOT_NS + 12 * 10**9
    subject = image(11, "/usr/sbin/daemon", is_adopted=True, creator_pid=10, ppid=1)
    facts = lineage([image(10, exit_time_ns=ended, is_exited=True)], [subject])
    facts.adopter = facts.init
    (found,) = told(facts)["adopted"]
    assert found.facts["creator_pid"] == 10 and found.time_ns == ended and found.proof is Proof.KERNEL
    assert found.text.startswith("Pid 1, /usr/lib/systemd/systemd, adopted it after pid 10")
    subject["marks"] = ["adoption_predicted"]
    assert told(facts)["adopted"][0].proof is Proof.INFERRED


def test_a_parent_is_no_creator() -> None:
    facts = lineage([image(10)], [image(11, marks=["before_capture"])], links="cp", capture_began_ns=BOOT_NS)
    assert told(facts)["parent"][0].facts["creator_pid"] == 10 and "started" not in told(facts)
    assert "who started it is not known" in summary_of(facts)
    assert missing(facts)["creator"].pid == 11


def test_pid_1() -> None:
    facts = lineage()
    assert "It is pid 1, the first process" in summary_of(facts) and not missing(facts)


def test_a_program_that_the_kernel_started() -> None:
    facts = lineage([image(11, "/usr/bin/kmod", ppid=2)])
    facts.lineage.clear()
    assert "The kernel itself started it" in summary_of(facts)
    assert "lineage" not in missing(facts)


def test_where_the_history_ends() -> None:
    facts = lineage([image(11, creator_pid=9)])
    facts.lineage.clear()
    assert "pid 9, which ended so long ago that it is forgotten." in missing(facts)["lineage"].text
    facts = lineage([image(11, ppid=0)])
    facts.lineage.clear()
    assert "from outside of this pid namespace" in missing(facts)["lineage"].text
