"""Attacks that an unprivileged local user can try against a live daemon. One module per attack."""
