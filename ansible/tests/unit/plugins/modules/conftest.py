"""A module run in this process, with a fake command `procline`."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args


class ModuleEnd(Exception):
    """The module ended with this result."""


class FakeCommand:
    """Answers of `procline`, by its arguments without --json and --name."""

    def __init__(self):
        self.answers = {}
        self.calls = []

    def answer(self, *arguments, code=0, out=None, err=""):
        """Add an answer. The last one for the same arguments is repeated."""
        self.answers.setdefault(arguments, []).append((code, json.dumps(out), err))

    def __call__(self, argv, **_):
        """Take the place of AnsibleModule.run_command."""
        self.calls.append(argv)
        words = []
        skip = False
        for word in argv[1:]:
            if skip or word == "--json":
                skip = False
            elif word == "--name":
                skip = True
            else:
                words.append(word)
        waiting = self.answers[tuple(words)]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@pytest.fixture
def command(monkeypatch):
    """Replace the command of the host."""
    fake = FakeCommand()
    monkeypatch.setattr(basic.AnsibleModule, "run_command", fake)
    return fake


@pytest.fixture
def run(monkeypatch):
    """Run the main function of a module; return its result."""

    def end(module, **result):
        raise ModuleEnd(result)

    def fail(module, msg, **result):
        raise ModuleEnd({"failed": True, "msg": msg, **result})

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", end)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", fail)

    def run(module, check_mode=False, **arguments):
        arguments = {"executable": "/opt/procline/bin/procline", **arguments}
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(ModuleEnd) as ended:
            module.main()
        return ended.value.args[0]

    return run
