"""The source without eBPF: netlink events of the proc connector, completed from `/proc`.

It cannot report credentials of exited processes or other facts that only eBPF can read in time.
"""
