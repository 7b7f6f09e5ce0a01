/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every program that reads processes includes first. */
#ifndef PROCLINE_PROGRAM_BPF_H
#define PROCLINE_PROGRAM_BPF_H

#include "vmlinux_min.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "records.h"
#include "shared.h"
#include "kfuncs.bpf.h"
#include "sets.bpf.h"
#include "scope.bpf.h"
#include "maps.bpf.h"
#include "ring.bpf.h"
#include "task.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#endif
