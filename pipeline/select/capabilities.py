"""Names of capabilities, as in capabilities(7)."""

from __future__ import annotations

#: By number.
NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip


def names_of(mask: int) -> list[str]:
    """Return the capabilities in a mask, as in ``CAP_KILL``; one that is not known here by its number.

    Example:
        >>> names_of(0b100001)
        ['CAP_CHOWN', 'CAP_KILL']
    """
    return [
        f"CAP_{NAMES[number].upper()}" if number < len(NAMES) else f"capability {number}"
        for number in range(mask.bit_length())
        if mask >> number & 1
    ]
