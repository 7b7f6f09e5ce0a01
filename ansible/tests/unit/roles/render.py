"""Render the template of the role nats with lists of variables (JSON on standard input); print the texts as JSON.

It is a program of its own, because the tests of the modules import the collection in a way that hides Ansible's own
plugins.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

role = Path(sys.argv[1])
init_plugin_loader()
loader = DataLoader()
loader.set_basedir(str(role))
known = {"inventory_hostname": "web-1"}
for part in ("defaults", "vars"):
    known |= loader.load_from_file(str(role / part / "main.yml"), trusted_as_template=True)
template = trust_as_template((role / "templates" / "nats-server.conf.j2").read_text())
print(json.dumps([str(Templar(loader, variables=known | given).template(template)) for given in json.load(sys.stdin)]))
