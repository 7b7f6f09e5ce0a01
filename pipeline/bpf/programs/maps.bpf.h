/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps that the objects share. procline.bpf.o creates them; the loader sets them, by name, in every other object
 * that it opens (loader.py). */
#ifndef PROCLINE_MAPS_BPF_H
#define PROCLINE_MAPS_BPF_H

/* Values that were stored before are loaded again after this. It stands between the steps of a program: a value that
 * went through a map is an unknown number for the verifier, which then does not follow every earlier branch to the end.
 * For the exec program it verifies 3,200 instructions instead of 62,000. */
#define pl_forget() asm volatile("" ::: "memory")

/* The inner map declares the kind of the rings; the loader inserts the real ones, of the configured size. */
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

/* The last sender of a signal to a process, for its exit. A process is identified by number and start, so a later owner
 * of the number inherits nothing. */
#define PL_SENDERS 1024
struct pl_target {
	u64 start_boot_ns;
	u64 tgid; /* in the initial pid namespace */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PL_SENDERS);
	__type(key, struct pl_target);
	__type(value, struct pl_sender);
} pl_senders SEC(".maps");

/* Memory in which a program builds a record too large for its stack: `elements` for each CPU. */
#define PL_SCRATCH(name, element, elements)                                                                            \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                                               \
		__uint(max_entries, elements);                                                                         \
		__type(key, u32);                                                                                      \
		__type(value, element);                                                                                \
	} name SEC(".maps")

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

static __always_inline bool pl_is_recording(const struct pl_settings *settings)
{
	return settings && settings->flags & PL_CAPTURE_ON;
}

static __always_inline void pl_count(u64 *counter)
{
	/* A relaxed atomic, as the result is not used. Another program can run on this CPU in between, and on kernels
	 * with preemptible tracepoints another task can. */
	__sync_fetch_and_add(counter, 1);
}

/* Increment a counter of this CPU; `counter` is a field of struct pl_cpu. */
#define pl_count_here(counter)                                                                                         \
	do {                                                                                                           \
		struct pl_cpu *here = pl_this_cpu();                                                                   \
                                                                                                                       \
		if (here)                                                                                              \
			pl_count(&here->counter);                                                                      \
	} while (0)

#ifdef PL_NO_FETCH

/* Atomic operations that return a value came with Linux 5.12, and locks in these programs with 5.11. Before, an element
 * of this map is a lock: insertion fails if it is there. Programs take it for a few instructions; user space cannot, so
 * it runs pl_exchange (procline.bpf.c). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32); /* set of pid_cache */
	__type(value, u32);
} pl_locks SEC(".maps");

#define PL_LOCK_TRIES 8

/* Store `after` if the word is `before`; returns whether it did. It may fail although the word is `before`: then
 * another program has the lock. */
static __always_inline bool pl_swap(u64 *word, u64 before, u64 after, u32 key)
{
	u32 one = 1;
	bool is_mine = false, is_done = false;

#pragma unroll
	for (u32 i = 0; i < PL_LOCK_TRIES; i++)
		if (!is_mine)
			/* An int, as in pl_is_first_exit(). */
			is_mine = !(int)bpf_map_update_elem(&pl_locks, &key, &one, BPF_NOEXIST);
	if (!is_mine)
		return false;
	if (*(volatile u64 *)word == before) {
		*(volatile u64 *)word = after;
		is_done = true;
	}
	bpf_map_delete_elem(&pl_locks, &key);
	return is_done;
}

/* Store a word; what was stored before is visible to every reader that sees it, as on x86 always. */
static __always_inline void pl_store(u64 *word, u64 value)
{
	*(volatile u64 *)word = value;
}

/* Two records may both wake the shard; it does no harm. */
static __always_inline bool pl_clear_sleeping(struct pl_cpu *owner)
{
	*(volatile u32 *)&owner->sleeping = 0;
	return true;
}

#else

#define pl_swap(word, before, after, key) (__sync_val_compare_and_swap(word, before, after) == (before))
#define pl_store(word, value) __sync_lock_test_and_set(word, value)
#define pl_clear_sleeping(owner) __sync_lock_test_and_set(&(owner)->sleeping, 0)

#endif

#include "pids.bpf.h"

#endif
