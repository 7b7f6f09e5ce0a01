"""The capabilities of the kernel, as in capabilities(7)."""

#: Names by number.
NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip

# Numbers of those that the code asks for.
CAP_DAC_READ_SEARCH = NAMES.index("dac_read_search")
CAP_SETGID = NAMES.index("setgid")
CAP_SETUID = NAMES.index("setuid")
CAP_SYS_PTRACE = NAMES.index("sys_ptrace")
CAP_SYS_ADMIN = NAMES.index("sys_admin")
CAP_PERFMON = NAMES.index("perfmon")
CAP_BPF = NAMES.index("bpf")
CAP_CHECKPOINT_RESTORE = NAMES.index("checkpoint_restore")
