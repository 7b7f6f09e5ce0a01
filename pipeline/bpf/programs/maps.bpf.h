/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps that the objects share. procline.bpf.o creates them; every other object is given the same ones by name when
 * it is opened (loader.py). */
#ifndef PROCLINE_MAPS_BPF_H
#define PROCLINE_MAPS_BPF_H

/* What was stored before is loaded again after. Between the steps of a program: a value that went through a map is just a
 * number to the verifier, which then does not follow each earlier branch to the end (of the exec program it looked at
 * 62,000 instructions, and now at 3,200). */
#define pl_forget() asm volatile("" ::: "memory")

/* The inner map says what kind a ring is; the real ones, of the configured size, are put in by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, PL_MAX_CPUS);
	__type(key, u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_RINGBUF);
		__uint(max_entries, 4096);
	});
} pl_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PL_MAX_CPUS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct pl_cpu);
} pl_shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct pl_settings);
} pl_settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PL_PROC_CACHE_ENTRIES);
	__type(key, u64);
	__type(value, struct pl_image);
} proc_cache SEC(".maps");

static __always_inline struct pl_cpu *pl_this_cpu(void)
{
	u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&pl_shared, &cpu);
}

static __always_inline struct pl_settings *pl_get_settings(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&pl_settings, &zero);
}

static __always_inline void pl_count(u64 *counter)
{
	/* No result used: a relaxed atomic. Another program can run on this CPU in between, and on kernels whose
	 * tracepoints can be preempted another task can. */
	__sync_fetch_and_add(counter, 1);
}

#include "pids.bpf.h"

#endif
