#!/bin/sh
# Install one package in a fresh root, and use it: a daemon, a reader without privileges, a subscriber.
# Runs inside the root; packages.py copies the packages to /packages and calls it with the kind. A second argument: the
# daemon runs outside, and /run/procline is its directory.
set -eu
kind=$1
outside=${2:-}
export DEBIAN_FRONTEND=noninteractive

fail() {
    echo "packages: $kind: $*" >&2
    exit 1
}

apt_install() { apt-get update > /dev/null && apt-get install -y --no-install-recommends "$@" > /var/log/apt-install || fail "apt-get install $*"; }

# A user without privileges, and one in the group that may read arguments and subscribe.
stranger() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }
member() { setpriv --reuid=65534 --regid=65534 --groups="$group" -- "$@"; }
group=users

# Start a daemon: as root, or as the unit of the Debian package does.
as_root() { exec "$1/procline" run --set access.group=users; }
as_unit() {
    capabilities=-all,+bpf,+perfmon,+sys_ptrace
    exec setpriv --reuid=procline --regid=procline --init-groups --inh-caps="$capabilities" \
        --ambient-caps="$capabilities" --bounding-set="$capabilities" --no-new-privs -- \
        "$1/procline" run --config /etc/procline/procline.toml
}

# Run a daemon from $1, and read and subscribe with the command and the Python of $2. $3: how to start it.
use() {
    daemon=$1
    reader=$2
    (umask 077 && "$3" "$daemon") > /var/log/daemon 2>&1 &
    pid=$!
    "$daemon/procline" wait --timeout 120 || { cat /var/log/daemon; fail "the daemon is not ready"; }
    read_and_subscribe
    kill "$pid"
    wait "$pid" || { cat /var/log/daemon; fail "the daemon did not end cleanly"; }
    [ ! -e /run/procline/default ] || fail "the daemon left its directory"
}

# Read and subscribe with the command and the Python of $reader.
read_and_subscribe() {
    sleep 4711 &
    sleeper=$!
    stranger "$reader/procline" resolve "$sleeper" --json > /var/log/seen || fail "a stranger cannot resolve $sleeper"
    grep -q '"argv": *null' /var/log/seen || fail "a stranger sees arguments: $(cat /var/log/seen)"
    member "$reader/procline" resolve "$sleeper" --json | grep -q '"4711"' || fail "a member does not see arguments"
    stranger "$reader/python3" -c "
from pipeline import ProcessTable
with ProcessTable.attach() as table:
    entry = table.resolve($sleeper)
    assert entry is not None and entry.comm == 'sleep', entry
    assert [each.pid for each in table.ancestors(entry)][-1] == 1
" || fail "ProcessTable does not work for a stranger"
    if stranger "$reader/procline" subscribe --count 1 --timeout 20 > /dev/null 2>&1; then fail "a stranger can subscribe"; fi
    member "$reader/procline" subscribe proc.exec --count 1 --timeout 60 > /var/log/event &
    subscriber=$!
    while kill -0 "$subscriber" 2> /dev/null; do
        /bin/true
        sleep 0.2
    done
    wait "$subscriber" || fail "no event arrived"
    grep -q '"event": *"exec"' /var/log/event || fail "this is no event: $(cat /var/log/event)"
    "$reader/procline" stat --json | python3 -c 'import json, sys; sys.exit(any(json.load(sys.stdin)["lost"].values()))' ||
        { "$reader/procline" stat; fail "records were lost"; }
    kill "$sleeper"
}

# Files of ours, except logs and what apt keeps.
ours() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /packages -o -path /var/log -o -path /var/cache \) -prune \
        -o -name '*procline*' -print
}

# What a reader does not need must not be installed with it.
check_light() {
    "$1/pip" list --format freeze > /var/log/light
    if grep -Eiq '^(llvmlite|pylibbpf|msgspec|google-re2|prometheus)' /var/log/light; then
        fail "pip install procline installs too much: $(cat /var/log/light)"
    fi
    stranger "$1/procline" run 2> /var/log/refused && fail "run works without the daemon's packages"
    grep -q "pip install 'procline\[daemon\]'" /var/log/refused || fail "no hint how to install the daemon: $(cat /var/log/refused)"
    echo "packages: $kind: for readers: $(tr '\n' ' ' < /var/log/light)"
}

case $kind in
    wheel | sdist)
        packages="python3 python3-venv"
        [ "$kind" = wheel ] || packages="$packages python3-dev gcc libc6-dev"
        # shellcheck disable=SC2086 # a list of names
        apt_install $packages
        file=$(echo /packages/*.whl)
        [ "$kind" = wheel ] || file=$(echo /packages/procline-*.tar.gz)
        python3 -m venv /opt/light
        /opt/light/bin/pip install -q "$file" || fail "pip install $file"
        check_light /opt/light/bin
        if [ -n "$outside" ]; then
            reader=/opt/light/bin
            read_and_subscribe
        elif [ "$kind" = sdist ]; then
            # The same extension modules once more would only take time.
            /opt/light/bin/pip install -q "procline[daemon] @ file://$file" || fail "pip install procline[daemon]"
            use /opt/light/bin /opt/light/bin as_root
        else
            python3 -m venv /opt/daemon
            /opt/daemon/bin/pip install -q "$file[daemon]" || fail "pip install procline[daemon]"
            use /opt/daemon/bin /opt/light/bin as_root
        fi
        ;;
    wheelhouse)
        apt_install python3 python3-venv
        mkdir /house
        tar -xf /packages/*-wheelhouse.tar -C /house --strip-components 1
        cd /house
        # As README.txt says, without a network.
        sed -n 's/^    //p' README.txt | sed -n '1,/pip install/p' > /install
        unshare --net sh -eu /install > /var/log/install 2>&1 || { cat /var/log/install; fail "the commands of README.txt"; }
        use /opt/procline/bin /opt/procline/bin as_root
        ;;
    deb)
        ours > /var/before
        apt-get update > /dev/null
        apt-get install -y --no-install-recommends /packages/procline_*.deb > /var/log/install 2>&1 || { cat /var/log/install; fail "apt-get install"; }
        id procline > /dev/null || fail "no user procline"
        [ -f /etc/procline/procline.toml ] || fail "no settings"
        procline config --config /etc/procline/procline.toml > /dev/null || fail "the settings cannot be used"
        ! systemctl is-enabled --quiet procline-forward.service || fail "the forwarder is enabled without a destination"
        ! systemctl is-enabled --quiet procline-fleet-ingest.service || fail "the fleet store is enabled without a server"
        systemctl is-enabled --quiet procline.service || fail "the service is not enabled"
        # The store of a fleet has an environment of its own, which an administrator makes.
        mkdir -p /opt/procline-fleet/bin && ln -s /bin/true /opt/procline-fleet/bin/procline
        systemd-analyze verify --man=no procline.service procline-forward.service procline-fleet-ingest.service > /var/log/verify 2>&1 || { cat /var/log/verify; fail "the units"; }
        rm -r /opt/procline-fleet
        group=procline
        use /usr/bin /opt/procline/bin as_unit
        # The completions of all three shells, and the man pages.
        apt_install bash-completion zsh fish man-db
        bash -c '. /usr/share/bash-completion/bash_completion; _comp_load procline 2> /dev/null || __load_completion procline
            COMP_WORDS=(procline res); COMP_CWORD=1; _procline_completion procline; [ "${COMPREPLY[0]}" = resolve ]' || fail "bash completion"
        fish -c 'complete -C "procline stat --j"' | grep -q -- --json || fail "fish completion"
        # Outside of the line editor _describe cannot be called: show what it would get, the array named by its third argument.
        zsh -fc 'fpath=(/usr/share/zsh/vendor-completions $fpath); autoload -U compinit; compinit -u -D
            _describe() { print -rl -- "${(@P)3}" }
            words=(procline res); CURRENT=2; [ "${_comps[procline]}" = _procline ] && _procline' |
            grep -q '^resolve:' || fail "zsh completion"
        man procline-run | grep -q 'keep it running' || fail "man procline-run"
        # A second version over the first keeps changed settings; purging leaves nothing.
        echo '# changed' >> /etc/procline/procline.toml
        dpkg -i /packages/procline_*.deb > /var/log/again 2>&1 || { cat /var/log/again; fail "dpkg -i again"; }
        grep -q '# changed' /etc/procline/procline.toml || fail "changed settings are lost"
        apt-get purge -y procline > /var/log/purge 2>&1 || { cat /var/log/purge; fail "apt-get purge"; }
        left=$(ours | grep -vxFf /var/before || true)
        [ -z "$left" ] || fail "purging left: $left"
        if getent passwd procline || getent group procline; then fail "purging left the user or its group"; fi
        ;;
    *) fail "no such kind" ;;
esac
echo "packages: $kind: works"
