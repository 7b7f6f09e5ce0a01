/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Kernel functions that the programs call in addition to the stable helpers. */
#ifndef PROCLINE_KFUNCS_BPF_H
#define PROCLINE_KFUNCS_BPF_H

/* A typed, read-only view of kernel memory: its fields are plain loads, which read 0 from a bad address. */
extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym __weak;

/* Since Linux v6.10; weak, so that the object also loads on an older kernel. */
extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

#endif
