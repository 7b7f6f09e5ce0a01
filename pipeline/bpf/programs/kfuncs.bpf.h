/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Kernel functions that the programs call beside the stable helpers. */
#ifndef PROCLINE_KFUNCS_BPF_H
#define PROCLINE_KFUNCS_BPF_H

/* A typed, read-only view of kernel memory: fields of it are plain loads that read 0 where there is nothing. */
extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym;

/* Since Linux v6.10; weak, so that an older kernel loads what does without. */
extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

#endif
