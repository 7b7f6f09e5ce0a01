"""`procline completion`: the completion script of a shell, made from the command's own parser."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from pipeline.cli import common

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  source <(procline completion bash)                                       in ~/.bashrc
  source <(procline completion zsh)                                        in ~/.zshrc, after compinit
  procline completion fish > ~/.config/fish/completions/procline.fish      once
"""
)
@click.argument("shell", type=common.OneOf(SHELLS))
def command(shell: str) -> int:
    """Print the completion script of SHELL: bash, zsh or fish.

    The packages install it. The script asks `procline` at each press of TAB, so it always knows the options of the
    installed version, and also live pids, names of instances, topics and settings.
    """
    click.echo(script(shell), nl=False)
    return 0


def script(shell: str) -> str:
    """Return the completion script for bash, zsh or fish."""
    from pipeline.cli import commands

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(commands.cli, {}, "procline", "_PROCLINE_COMPLETE")
    # Not source(): for bash it runs the shell of this machine to check its version.
    return f"{(made.source_template % made.source_vars()).strip()}\n"
