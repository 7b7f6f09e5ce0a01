#!/bin/sh
# The unit under systemd as process 1, on Debian's own kernel: everything that the unit asks for, its mounts too.
#
# Usage: tests/vm/run --systemd --timeout 900 -- tests/packaging/guest.sh
# The guest is emulated, so a start takes minutes. Everything else that the unit does is tested by test_service.py.
set -eu
checkout=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
unit=procline.service

fail() {
    echo "guest: $*"
    systemctl --no-pager status $unit || true
    journalctl -u $unit -o cat --no-pager || true
    exit 1
}

show() { systemctl show $unit -P "$1"; }
procline() { /opt/procline/bin/procline "$@"; }

mkdir -p /opt/procline/bin /etc/procline /run/systemd/system/$unit.d
printf '#!/bin/sh\nPYTHONPATH=%s exec %s/.venv/bin/python -P -m pipeline.cli.main "$@"\n' "$checkout" "$checkout" > /opt/procline/bin/procline
chmod 755 /opt/procline/bin/procline
systemd-sysusers "$checkout/packaging/sysusers.d/procline.conf"
cp "$checkout/packaging/systemd/$unit" /run/systemd/system/
# Time passes slowly there. Nothing else of the unit is changed.
printf '[supervision]\nstart_timeout_s = 500.0\n' > /etc/procline/procline.toml
printf '[Service]\nTimeoutStartSec=600s\nWatchdogSec=300s\n' > /run/systemd/system/$unit.d/slow.conf
systemctl daemon-reload

systemctl start $unit || fail "it does not start"
pid=$(show MainPID)
[ "$(sed -n 's/^CapEff:\t//p' "/proc/$pid/status")" = 000000c000080000 ] || fail "it has other capabilities"
seen=/proc/$pid/root
[ "$(stat -c %U "$seen/run/procline/default")" = procline ] || fail "its directory belongs to somebody else"
for namespace in mnt ipc; do
    [ "$(readlink "/proc/$pid/ns/$namespace")" != "$(readlink "/proc/1/ns/$namespace")" ] || fail "it is in the host's $namespace namespace"
done
grep -q ' /proc/kallsyms ' "/proc/$pid/mountinfo" || fail "ProtectKernelTunables= has no effect"
procline doctor -v | grep -E '^(ok|without) +tier' || fail "no tiers"
procline doctor -v | grep -q '^ok  *tier cred_fentry' || fail "changes of credentials are not captured by fentry"

/bin/true &
ended=$!
wait "$ended"
sleep 2
procline stat | grep -q '^ *lost *nothing' || fail "records were lost"
setpriv --reuid=65534 --regid=65534 --clear-groups /opt/procline/bin/procline resolve "$ended" | grep -q /bin/true || fail "a stranger cannot resolve $ended"

systemctl restart $unit || fail "it does not restart"
procline resolve "$ended" | grep -q /bin/true || fail "the history is gone after a restart"
procline stat -v | grep -q '^takeovers *1' || fail "the tables were not taken over"
[ -z "$(journalctl -u $unit -o cat -p err --no-pager)" ] || fail "errors in the journal"

systemctl stop $unit
[ "$(show Result)" = success ] || fail "it did not stop cleanly"
[ ! -e /run/procline ] || fail "it left /run/procline"
echo "guest: the unit works"
