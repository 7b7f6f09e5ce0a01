"""The source without eBPF: netlink events of the proc connector, completed from `/proc`.

It has no information about credentials of exited processes or other facts that only eBPF can read in time.
"""
