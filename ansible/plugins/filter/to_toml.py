# Copyright: 2026 The Procline authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Write settings as TOML."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: to_toml
short_description: Write settings as TOML
version_added: "0.1.0"
author:
  - The Procline authors (@procline)
description:
  - Writes a dictionary as TOML, in the form that a settings file of Procline has. Values are texts, numbers, booleans
    and lists of these; a dictionary is a section.
options:
  _input:
    description: The settings. Sections are dictionaries of settings.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the settings of a host
  ansible.builtin.debug:
    msg: "{{ {'source': 'ebpf', 'tables': {'retention_s': 60.0}} | procline.procline.to_toml }}"
"""

RETURN = r"""
_value:
  description: The settings as TOML.
  type: str
"""

import json
import re
from collections.abc import Mapping, Sequence

from ansible.errors import AnsibleFilterError


def to_toml(settings):
    """Return settings as TOML; settings come before sections, as TOML requires."""
    if not isinstance(settings, Mapping):
        raise AnsibleFilterError("to_toml needs a dictionary, not %r" % (settings,))
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    lines = ["%s = %s" % (_key(key), _value(key, value)) for key, value in plain.items()]
    for section, members in settings.items():
        if isinstance(members, Mapping):
            lines += ["", "[%s]" % _key(section)] if lines else ["[%s]" % _key(section)]
            for key, value in members.items():
                lines.append("%s = %s" % (_key(key), _value("%s.%s" % (section, key), value)))
    return "".join(line + "\n" for line in lines)


def _key(key):
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]+", str(key)) else json.dumps(str(key))


def _value(name, value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        # A string of JSON is a basic string of TOML, except that TOML allows no DEL in it.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return "[%s]" % ", ".join(_value(name, each) for each in value)
    raise AnsibleFilterError("%s: TOML has no value for %r" % (name, value))


class FilterModule:
    """Filters of the collection."""

    def filters(self):
        """Return them by name."""
        return {"to_toml": to_toml}
