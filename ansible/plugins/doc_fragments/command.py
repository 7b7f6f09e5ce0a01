# Copyright: 2026 The Procline authors
# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Documentation that the modules have in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Options and attributes of every module; the options are those of module_utils/command.py."""

    DOCUMENTATION = r"""
options:
  instance:
    description: Name of the instance.
    type: str
    default: default
  executable:
    description:
      - Path of the command C(procline). By default it is searched in C(PATH) and in C(/opt/procline/bin).
    type: path
attributes:
  check_mode:
    description: The module changes nothing, so it does the same in check mode.
    support: full
  diff_mode:
    description: Nothing changes, so there is no difference to show.
    support: none
"""
