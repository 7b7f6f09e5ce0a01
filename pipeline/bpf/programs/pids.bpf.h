/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* pid_cache: which process has a pid, and what was last recorded of it. Found by tgid, for who lives and for who has ended
 * not long ago. What is in an entry is in task.bpf.h; user space's half is in pipeline/bpf/maps.py.
 *
 * Places in sets: a process can be in one of the PL_PID_WAYS places of the set that the low bits of its tgid name. pids are
 * given out one after another, so sets fill evenly. A new process takes a free place, else that of who ended longest ago;
 * whoever lives stays. If all of the set live, the new one is a stranger, which is counted.
 *
 * No hash map: there, to enter and to delete a process costs two locks and five cold cache lines each, and an LRU gives out
 * the element that was used longest ago and forgets who lives long. Here the words of a set are one cache line, and an end
 * is a store.
 *
 * A place's word of pid_owners says whose it is:
 *
 *     low 32 bits   tgid; the whole word is 0: free
 *     high 32 bits  0: lives; PL_PLACE_BUSY: the entry is being written; else when it ended, see pl_end_stamp()
 *
 * An entry is taken back by who needs its place, never otherwise: the exits of all whom the programs entered are seen, as the
 * maps are made and go with the capture; user space enters only who is in /proc and no zombie, and of who ended under the
 * capture there is an entry already, which is not overwritten.
 *
 * Who enters a process exchanges the word for one with PL_PLACE_BUSY, writes the entry, and stores the word that others
 * find it by. Between the exchange and the store nobody else touches the place. */
#ifndef PROCLINE_PIDS_BPF_H
#define PROCLINE_PIDS_BPF_H

#define PL_EEXIST 17
#define PL_E2BIG 7
#define PL_EAGAIN 11

struct pl_owners {
	u64 owner[PL_PID_WAYS];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PL_PID_SETS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, u32);
	__type(value, struct pl_owners);
} pid_owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PL_PID_SETS *PL_PID_WAYS);
	__uint(map_flags, BPF_F_MMAPABLE); /* user space gives images a name, in place */
	__type(key, u32);
	__type(value, struct pl_pid);
} pid_cache SEC(".maps");

/* When a process ended, in a half of a word: units of about a millisecond, so that the order of who ended in the same one is
 * lost, and after 26 days an end seems young again. Never 0, and never with PL_PLACE_BUSY. */
static __always_inline u32 pl_end_stamp(u64 boot_ns)
{
	return ((u32)(boot_ns >> 20) & ~PL_PLACE_BUSY) | 1;
}

/* Two searches of a set. Global functions: the verifier looks at such a one by itself, and knows of a call only that it gives
 * a number. In line, or static, it would follow the rest of each program once for every way that a search can end. An
 * object whose programs call them with preemption off defines PL_GLOBAL as static: Linux 6.12 refuses the call. */
#ifndef PL_GLOBAL
#define PL_GLOBAL __attribute__((noinline))
#endif

/* Where in its set a tgid is; PL_PID_WAYS: nowhere. */
PL_GLOBAL u32 pl_place_of(u32 tgid)
{
	u32 key = tgid & (PL_PID_SETS - 1), place = PL_PID_WAYS;
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);

	if (!set)
		return PL_PID_WAYS;
#pragma unroll
	for (u32 way = 0; way < PL_PID_WAYS; way++)
		if ((u32)set->owner[way] == tgid && set->owner[way] >> 32 != PL_PLACE_BUSY)
			place = way;
	return place;
}

/* Where in its set a tgid may go: to its own place, a free one, or that of who ended longest ago; PL_PID_WAYS: all live. */
PL_GLOBAL u32 pl_place_for(u32 tgid)
{
	u32 key = tgid & (PL_PID_SETS - 1), place = PL_PID_WAYS, now = pl_end_stamp(bpf_ktime_get_boot_ns());
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);
	u64 oldest = 0;

	if (!set)
		return PL_PID_WAYS;
#pragma unroll
	for (u32 way = 0; way < PL_PID_WAYS; way++) {
		u64 age = 0, word = set->owner[way];

		if ((u32)word == tgid)
			age = ~0ull; /* the same process, or one that had the pid before it */
		else if (!word)
			age = 1ull << 32;
		else if (word >> 32 && word >> 32 != PL_PLACE_BUSY)
			age = 1 + ((now - (u32)(word >> 32)) & ~PL_PLACE_BUSY);
		if (age > oldest) {
			oldest = age;
			place = way;
		}
	}
	return place;
}

/* The entry of a tgid, or nothing; *word is its word. */
static __always_inline struct pl_pid *pl_pid_at(u32 tgid, u64 **word)
{
	u32 key = tgid & (PL_PID_SETS - 1), place = pl_place_of(tgid);
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);

	if (!set || place >= PL_PID_WAYS)
		return NULL;
	*word = &set->owner[place];
	place += key * PL_PID_WAYS;
	return bpf_map_lookup_elem(&pid_cache, &place);
}

/* One attempt of pl_add_pid; -EAGAIN: another CPU was quicker at the place. */
static __noinline long pl_try_add_pid(u32 tgid, const struct pl_pid *entry, bool is_new)
{
	u32 key = tgid & (PL_PID_SETS - 1), place = pl_place_for(tgid);
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);
	u64 before, word;
	struct pl_pid *at;
	bool others = false;
	u32 index;

	if (!set || place >= PL_PID_WAYS)
		return -PL_E2BIG;
	index = key * PL_PID_WAYS + place;
	at = bpf_map_lookup_elem(&pid_cache, &index);
	if (!at)
		return -PL_E2BIG;
	before = set->owner[place];
	if ((u32)before == tgid) {
		if (before >> 32 == PL_PLACE_BUSY || (is_new && at->start_boot_ns >= entry->start_boot_ns))
			return -PL_EEXIST;
	} else if (before && (!(before >> 32) || before >> 32 == PL_PLACE_BUSY)) {
		return -PL_EAGAIN;
	}
	word = (u64)PL_PLACE_BUSY << 32 | tgid;
	if (__sync_val_compare_and_swap(&set->owner[place], before, word) != before)
		return -PL_EAGAIN;
	/* Entered elsewhere in the set meanwhile: of two that do so at once each sees the other, behind the full barrier of
	 * its exchange, and at least one gives up. */
#pragma unroll
	for (u32 way = 0; way < PL_PID_WAYS; way++)
		if (way != place && (u32)set->owner[way] == tgid)
			others = true;
	if (others) {
		__sync_lock_test_and_set(&set->owner[place], 0);
		return -PL_EEXIST;
	}
	*at = *entry;
	/* A full barrier: who sees the word sees the entry. */
	__sync_lock_test_and_set(&set->owner[place], tgid);
	return 0;
}

/* Enter a process.
 *
 * @is_new: not over an entry of the same process, or of a later owner of the pid; then it is -EEXIST.
 *
 * -E2BIG: there is no place, which is counted. The process is a stranger then, until it changes and there is one.
 * Global, as the searches above are. */
PL_GLOBAL long pl_add_pid(u32 tgid, const struct pl_pid *entry, bool is_new)
{
	long error;

	if (!entry) /* never; the verifier does not know */
		return -PL_E2BIG;
	error = pl_try_add_pid(tgid, entry, is_new);
	if (error == -PL_EAGAIN)
		error = pl_try_add_pid(tgid, entry, is_new);
	if (error && error != -PL_EEXIST) {
		struct pl_cpu *cpu = pl_this_cpu();

		if (cpu)
			pl_count(&cpu->pids_full);
	}
	return error;
}

/* The process has ended: its entry stays until another one needs the place. */
static __always_inline void pl_end_pid(u32 tgid, u64 boot_ns)
{
	u64 *word;

	if (pl_pid_at(tgid, &word))
		__sync_lock_test_and_set(word, (u64)pl_end_stamp(boot_ns) << 32 | tgid);
}

#endif
