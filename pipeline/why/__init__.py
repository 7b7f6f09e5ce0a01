"""The story of a process: which program it is, who started it, as which user and how, and how it ended.

`gather` reads a process and everything that led to it from the tables into `facts`. `host` adds what files of the host
say about containers, systemd units and login sessions. From both, `findings` makes statements, each with what proves
it; `unknowns` lists what is missing. `story` writes them as text for people, `document` as JSON.

Only `gather`, `host`, `host_files` and `systemd` read anything. All other modules are functions over entries in their
JSON form, so they need neither a daemon nor root. Nothing here changes anything or guesses: what no source says is
listed as unknown.
"""
