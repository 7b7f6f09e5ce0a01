/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* pid_cache: the process that has a pid, and its last record. It holds live processes, and processes that ended
 * recently, by tgid. task.bpf.h fills the entries; the user-space half is in pipeline/bpf/maps.py.
 *
 * Places are in sets: the low bits of a tgid select the set, which has PL_PID_WAYS places. The kernel allocates pids in
 * sequence, so sets fill evenly. A new process gets a free place, else the place of the process that ended longest ago.
 * Live processes are never evicted. If every process of the set is alive, the new process gets no entry, which is
 * counted.
 *
 * This is not a hash map: there, every insertion and deletion costs two locks and five cold cache lines. An LRU map
 * would evict the entries that were used longest ago, and thus long-lived processes. Here the words of a set are one
 * cache line, and an end is one store.
 *
 * The word of a place in pid_owners names its owner:
 *
 *     low 32 bits   tgid; the whole word is 0: free
 *     high 32 bits  0: alive; PL_PLACE_BUSY: the entry is being written; else the time of its end, see pl_end_stamp()
 *
 * An entry is replaced only when another process needs its place. No exit is missed: the maps exist exactly as long as
 * the capture, so the programs see the exit of every process that they entered. User space enters only processes that
 * are in /proc and are not zombies. A process that ended under the capture already has an entry, which is not
 * overwritten.
 *
 * To enter a process, a writer exchanges the word for one with PL_PLACE_BUSY, writes the entry, and stores the final
 * word. Between the exchange and the store no other writer touches the place. */
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
	__uint(map_flags, BPF_F_MMAPABLE); /* user space sets cookies of images in place */
	__type(key, u32);
	__type(value, struct pl_pid);
} pid_cache SEC(".maps");

/* The time of an end in half a word, in units of about a millisecond. Ends in the same unit have no order, and after 26
 * days an end looks recent again. Never 0, and never with PL_PLACE_BUSY. */
static __always_inline u32 pl_end_stamp(u64 boot_ns)
{
	return ((u32)(boot_ns >> 20) & ~PL_PLACE_BUSY) | 1;
}

/* Two searches of a set. They are global functions: the verifier verifies these separately, and assumes only that a
 * call returns a number. Inline or static, it would follow the rest of each program once for every result of a search.
 * An object that calls them with preemption disabled defines PL_GLOBAL as static, because Linux 6.12 rejects the
 * call. */
#ifndef PL_GLOBAL
#define PL_GLOBAL __attribute__((noinline))
#endif
/* A global function that has a pointer: since Linux 5.12. */
#ifdef PL_OLD
#define PL_GLOBAL_ENTRY static __noinline __attribute__((unused))
#else
#define PL_GLOBAL_ENTRY PL_GLOBAL
#endif

/* The place of a tgid in its set; PL_PID_WAYS if it has none. */
PL_GLOBAL u32 pl_place_of(u32 tgid)
{
	u32 key = tgid & (PL_PID_SETS - 1);
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);

	if (!set)
		return PL_PID_WAYS;
	/* Unrolling adds 240 bytes of machine code and is slower. */
#pragma clang loop unroll(disable)
	for (u32 way = 0; way < PL_PID_WAYS; way++)
		if ((u32)set->owner[way] == tgid && set->owner[way] >> 32 != PL_PLACE_BUSY)
			return way;
	return PL_PID_WAYS;
}

/* The place in its set that a tgid can get at the time `boot_ns`: its own, a free one, or that of the process that
 * ended longest ago; PL_PID_WAYS if all are alive. */
PL_GLOBAL u32 pl_place_for(u32 tgid, u64 boot_ns)
{
	u32 key = tgid & (PL_PID_SETS - 1), place = PL_PID_WAYS, now = pl_end_stamp(boot_ns);
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);
	u64 oldest = 0;

	if (!set)
		return PL_PID_WAYS;
#pragma unroll
	for (u32 way = 0; way < PL_PID_WAYS; way++) {
		u64 age = 0, word = set->owner[way];

		if ((u32)word == tgid)
			age = ~0ull; /* the same process, or an earlier owner of the pid */
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

/* The entry of a tgid, or NULL; *word points to its word. */
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

/* One attempt of pl_add_pid; -EAGAIN if another CPU got the place first. */
static __noinline long pl_try_add_pid(u32 tgid, const struct pl_pid *entry, bool is_new)
{
	/* The entry of a fork has the time: reading the clock again takes as long as the search. */
	u64 now = entry->fork_boot_ns ? entry->fork_boot_ns : bpf_ktime_get_boot_ns(), before, word;
	u32 key = tgid & (PL_PID_SETS - 1), place = pl_place_for(tgid, now);
	struct pl_owners *set = bpf_map_lookup_elem(&pid_owners, &key);
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
	if (!pl_swap(&set->owner[place], before, word, key))
		return -PL_EAGAIN;
	/* Another CPU may have entered the same process in another place of the set. Each of the two sees the other,
	 * after the full barrier of its exchange, and at least one gives up. */
#pragma unroll
	for (u32 way = 0; way < PL_PID_WAYS; way++)
		if (way != place && (u32)set->owner[way] == tgid)
			others = true;
	if (others) {
		pl_store(&set->owner[place], 0);
		return -PL_EEXIST;
	}
	*at = *entry;
	/* A full barrier: a reader that sees the word sees the entry. */
	pl_store(&set->owner[place], tgid);
	return 0;
}

/* Enter a process.
 *
 * @is_new: fail with -EEXIST if there is an entry of the same process, or of a later owner of the pid.
 *
 * -E2BIG: the set is full, which is counted. The process is entered at a later change if a place is free then.
 * Global for the same reason as the searches above. */
PL_GLOBAL_ENTRY long pl_add_pid(u32 tgid, const struct pl_pid *entry, bool is_new)
{
	long error;

	if (!entry) /* never, but the verifier cannot know that */
		return -PL_E2BIG;
	if (pl_scope.pid_ns && !tgid) /* it has lost its pid by now */
		return -PL_EEXIST;
	error = pl_try_add_pid(tgid, entry, is_new);
	if (error == -PL_EAGAIN)
		error = pl_try_add_pid(tgid, entry, is_new);
	if (error && error != -PL_EEXIST)
		pl_count_here(pids_full);
	return error;
}

/* The process has ended: its entry stays until another process needs the place, which this word is of. */
static __always_inline void pl_end_place(u64 *word, u32 tgid, u64 boot_ns)
{
	pl_store(word, (u64)pl_end_stamp(boot_ns) << 32 | tgid);
}

static __always_inline void pl_end_pid(u32 tgid, u64 boot_ns)
{
	u64 *word;

	if (pl_pid_at(tgid, &word))
		pl_end_place(word, tgid, boot_ns);
}

#endif
