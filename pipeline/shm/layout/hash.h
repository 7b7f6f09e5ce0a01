/* SPDX-License-Identifier: Apache-2.0 */
/* A seeded hash of bytes, and the checksum that rows carry in tests. Not cryptographic. */
#ifndef PROCLINE_HASH_H
#define PROCLINE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "layout.h"

/* Odd numbers without a pattern (bytes of /dev/urandom); the exact values do not matter. */
#define PL_HASH_K0 0x9d1f6ba0c7e25a4dULL
#define PL_HASH_K1 0xe3b7c915f2846d0bULL
#define PL_HASH_K2 0x5bd2a76e13f90c87ULL
#define PL_HASH_K3 0xc64e8f31a90b7d25ULL

static inline uint64_t pl_hash_fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t pl_hash_load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

static inline uint64_t pl_hash_load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return v;
}

/* Multiply and fold, 16 bytes per step. Any user can choose command lines, so the seed is secret: nobody can aim at one
 * bucket. Long strings use four lanes, because a single chain of multiplications would wait for itself. */
static inline uint64_t pl_hash64(const void *data, size_t n, uint64_t seed)
{
	const uint8_t *p = data;
	size_t left = n;
	uint64_t h = seed ^ PL_HASH_K0, a, b;

	if (left > 64) {
		uint64_t h1 = h ^ PL_HASH_K1, h2 = h ^ PL_HASH_K2, h3 = h ^ PL_HASH_K3;

		do {
			h = pl_hash_fold(pl_hash_load64(p) ^ PL_HASH_K0, pl_hash_load64(p + 8) ^ h);
			h1 = pl_hash_fold(pl_hash_load64(p + 16) ^ PL_HASH_K1, pl_hash_load64(p + 24) ^ h1);
			h2 = pl_hash_fold(pl_hash_load64(p + 32) ^ PL_HASH_K2, pl_hash_load64(p + 40) ^ h2);
			h3 = pl_hash_fold(pl_hash_load64(p + 48) ^ PL_HASH_K3, pl_hash_load64(p + 56) ^ h3);
			p += 64;
			left -= 64;
		} while (left > 64);
		h = pl_hash_fold(h ^ h1, PL_HASH_K2) ^ pl_hash_fold(h2 ^ h3, PL_HASH_K3);
	}
	while (left > 16) {
		h = pl_hash_fold(pl_hash_load64(p) ^ PL_HASH_K1, pl_hash_load64(p + 8) ^ h);
		p += 16;
		left -= 16;
	}
	if (left >= 8) {
		a = pl_hash_load64(p);
		b = pl_hash_load64(p + left - 8);
	} else if (left >= 4) {
		a = pl_hash_load32(p);
		b = pl_hash_load32(p + left - 4);
	} else if (left) {
		a = (uint64_t)p[0] << 16 | (uint64_t)p[left >> 1] << 8 | p[left - 1];
		b = 0;
	} else {
		a = b = 0;
	}
	h = pl_hash_fold(a ^ PL_HASH_K2, b ^ h);
	return pl_hash_fold(h ^ n, PL_HASH_K3);
}

/* Checksum of everything in a row that one begin/end pair changes together: the hot part between generation and check,
 * the cold part, and the costs if it has them. A reader recomputes it to check whether its copy of a row is
 * consistent. */
static inline uint32_t pl_row_check(const struct pl_hot *hot, const struct pl_cold *cold, const struct pl_costs *costs)
{
	uint64_t h = pl_hash64(&hot->tgid, offsetof(struct pl_hot, check) - offsetof(struct pl_hot, tgid), 0);

	h = pl_hash64(cold, sizeof(*cold), h);
	return (uint32_t)(hot->known & PL_KNOWN_COST ? pl_hash64(costs, sizeof(*costs), h) : h);
}

#endif
