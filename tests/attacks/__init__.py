"""Attacks on a live daemon that an unprivileged local user can try. One module per attack."""
