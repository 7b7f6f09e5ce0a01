/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of (pid, pid namespace) keys, which maps processes known by their number in a namespace to slots of the
 * index. Contents: `pl_keys`, then a u64 for each slot (its key, 0 free), then the buckets: u32, slot + 1, 0 empty.
 * Open addressing with linear probing. At least half of the buckets are empty, so every search ends.
 *
 * The release store of its bucket makes a key visible. The slot's key is stored before it, so the acquire load that
 * sees the bucket also sees the key (stlr and ldar on aarch64). A bucket does not change until the buckets are rebuilt.
 * Keys are removed all at once by rebuilding the buckets between an odd and an even `rebuild_seq`. So a key that is
 * found was in the hash at the time of the comparison, whatever `rebuild_seq` is. Only "not found" depends on
 * `rebuild_seq`: it is valid if the number was even and is unchanged. */
#ifndef PROCLINE_KEYS_H
#define PROCLINE_KEYS_H

#include "layout.h"

/* pid in the low half, namespace in the high half; 0 is no key, because there is no pid 0. */
static inline uint64_t pl_ns_key(uint32_t pid, uint32_t pid_ns) { return pid | (uint64_t)pid_ns << 32; }

/* Number of buckets for `capacity` slots: a power of two, at least twice as many. */
static inline uint32_t pl_key_buckets(uint32_t capacity)
{
	uint32_t count = 4;

	while (count < 2 * (uint64_t)capacity && count < 1u << 31) /* a damaged control segment can have any capacity */
		count *= 2;
	return count;
}

static inline uint64_t pl_keys_bytes(uint32_t capacity)
{
	return sizeof(struct pl_keys) + 8 * (uint64_t)capacity + 4 * (uint64_t)pl_key_buckets(capacity);
}

static inline uint64_t *pl_key_names(const struct pl_keys *keys)
{
	return (uint64_t *)(uintptr_t)(keys + 1);
}

static inline uint32_t *pl_key_table(const struct pl_keys *keys, uint32_t capacity)
{
	return (uint32_t *)(uintptr_t)(pl_key_names(keys) + capacity);
}

static inline uint32_t pl_key_home(uint64_t key, uint32_t buckets)
{
	key ^= key >> 32;
	key *= 0x9E3779B97F4A7C15u;
	return (uint32_t)(key >> 32) & (buckets - 1);
}

/* Search once. Returns 1 if found, 0 if absent, -1 to retry because the buckets were being rebuilt. */
static inline int pl_key_once(const struct pl_keys *keys, uint32_t capacity, uint64_t key, uint32_t *slot)
{
	const uint64_t *names = pl_key_names(keys);
	const uint32_t *table = pl_key_table(keys, capacity);
	uint32_t buckets = pl_key_buckets(capacity), at = pl_key_home(key, buckets);
	uint32_t seq = pl_load_acquire32(&keys->rebuild_seq), number;

	for (uint32_t n = 0; n < buckets; n++) {
		number = pl_load_acquire32(&table[at]);
		if (number == 0)
			break;
		if (number <= capacity && pl_load_relaxed64(&names[number - 1]) == key) {
			*slot = number - 1;
			return 1;
		}
		at = (at + 1) & (buckets - 1);
	}
	/* Pairs with the release fence after the odd number: a search that read a bucket of the new layout sees it. */
	pl_fence_acquire();
	return seq & 1 || pl_load_relaxed32(&keys->rebuild_seq) != seq ? -1 : 0;
}

#endif
