"""Programs of attackers that more than one test runs."""

from __future__ import annotations

#: Runs commands in new user namespaces, as "root" or not, some with own files at /etc/passwd and /etc/group.
FORGE = """
import subprocess, sys, tempfile, time
uid = sys.argv[1]
directory = tempfile.mkdtemp()
for name in ("passwd", "group"):
    with open(f"{directory}/{name}", "w") as file:
        file.write(f"root:x:0:0::/:/bin/sh\\nevil:x:{uid}:{uid}::/:/bin/sh\\n")
mounts = 'mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && '
nap = "{ sleep 300 & echo $!; wait; }"  # begins after the mounts
for options, script in (
    (("-Ur",), nap),  # the host's files, and root through the id map
    (("-Urm",), nap),
    (("-Urm",), mounts + nap),
    (("-Um",), nap),
    (("-Urm",), mounts + 'exec unshare -Um --map-user=' + uid + ' sh -c "' + nap.replace("$", chr(92) + "$") + '"'),
):
    child = subprocess.Popen(["unshare", *options, "sh", "-c", script, directory], stdout=subprocess.PIPE, text=True)
    print(child.stdout.readline().strip(), flush=True)
print("done", flush=True)
subprocess.call(["rm", "-r", directory])
time.sleep(300)
"""


#: Connects repeatedly, with and without a request, and keeps many connections open.
CHURN = """
import os, socket, sys
path, workers = sys.argv[1], int(sys.argv[2])
for _ in range(workers - 1):
    if os.fork() == 0:
        break
request = bytes.fromhex("82a17601a3706964cd2710")  # {"v": 1, "pid": 10000}
held = []
print("ready", flush=True)
while True:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        client.connect(path)
        client.send(request)
    except OSError:
        pass
    held.append(client)
    if len(held) > 150:
        for old in held[:100]:
            old.close()
        del held[:100]
"""
