"""Records of other software of this host: names and labels of containers, and which package installed a file.

Only records that root alone can change are used. `_container_paths` says for which containers root chose the name.

It does not say in which container a process is, and does not open executables: `pipeline.procfs` does.
"""
