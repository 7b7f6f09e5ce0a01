/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32 of zlib, gzip and PNG. It is the checksum that every language's library has. With carry-less multiplication it
 * costs a tenth of zlib's tables, which matters because the resolver computes it for every byte of the journal.
 *
 * Each function takes how many bytes the CPU folds with one instruction: 0 (it has tables only), 16 or 64.
 *
 * Method and constants: V. Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", Intel 2009, for the reflected polynomial. */
#ifndef PROCLINE_CRC32_H
#define PROCLINE_CRC32_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t pl_crc32_table[8][256];

/* By what 512 bits are multiplied that another 2048 or 512 bits follow. */
static uint64_t pl_crc32_wide_keys[2][2];

/* x to the power of `n`, modulo the polynomial, reflected, as the instruction needs it. */
static uint64_t pl_crc32_power(unsigned int n)
{
	uint32_t c = 0x80000000u;

	while (n--)
		c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
	return (uint64_t)c << 1;
}

static void pl_crc32_prepare(void)
{
	for (uint32_t n = 0; n < 256; n++) {
		uint32_t c = n;

		for (int bit = 0; bit < 8; bit++)
			c = c & 1 ? 0xedb88320u ^ c >> 1 : c >> 1;
		pl_crc32_table[0][n] = c;
	}
	for (uint32_t n = 0; n < 256; n++)
		for (int k = 1; k < 8; k++)
			pl_crc32_table[k][n] =
				pl_crc32_table[0][pl_crc32_table[k - 1][n] & 0xff] ^ pl_crc32_table[k - 1][n] >> 8;
	for (int k = 0; k < 2; k++) {
		unsigned int bits = k ? 512 : 2048;

		pl_crc32_wide_keys[k][0] = pl_crc32_power(bits + 32);
		pl_crc32_wide_keys[k][1] = pl_crc32_power(bits - 32);
	}
}

static uint32_t pl_crc32_by_table(uint32_t crc, const uint8_t *p, size_t n)
{
	while (n >= 8) {
		uint32_t low = crc ^ (p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24);

		crc = pl_crc32_table[7][low & 0xff] ^ pl_crc32_table[6][low >> 8 & 0xff] ^
		      pl_crc32_table[5][low >> 16 & 0xff] ^ pl_crc32_table[4][low >> 24] ^ pl_crc32_table[3][p[4]] ^
		      pl_crc32_table[2][p[5]] ^ pl_crc32_table[1][p[6]] ^ pl_crc32_table[0][p[7]];
		p += 8;
		n -= 8;
	}
	while (n--)
		crc = pl_crc32_table[0][(crc ^ *p++) & 0xff] ^ crc >> 8;
	return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define PL_CRC32_FOLD(x, k, y) \
	_mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), y)

/* `n` is at least 64 and a multiple of 16. If `to` is not NULL, the bytes are copied there as well, past the caches: it
 * is aligned to 16 bytes, and it is not read soon. */
__attribute__((target("pclmul,sse4.1"))) static inline uint32_t
pl_crc32_folded(uint32_t crc, const uint8_t *p, size_t n, __m128i *to)
{
	const __m128i k1k2 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
	const __m128i k3k4 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
	const __m128i k5 = _mm_set_epi64x(0, 0x0163cd6124);
	const __m128i poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
	const __m128i mask = _mm_setr_epi32(~0, 0, ~0, 0);
	const __m128i *at = (const __m128i *)p;
	__m128i x1 = _mm_xor_si128(_mm_loadu_si128(at), _mm_cvtsi32_si128((int)crc));
	__m128i x2 = _mm_loadu_si128(at + 1), x3 = _mm_loadu_si128(at + 2), x4 = _mm_loadu_si128(at + 3), y;

	if (to) {
		for (int i = 0; i < 4; i++)
			_mm_stream_si128(to++, _mm_loadu_si128(at + i));
	}
	at += 4;
	n -= 64;
	while (n >= 64) {
		__m128i y1 = _mm_loadu_si128(at), y2 = _mm_loadu_si128(at + 1);
		__m128i y3 = _mm_loadu_si128(at + 2), y4 = _mm_loadu_si128(at + 3);

		x1 = PL_CRC32_FOLD(x1, k1k2, y1);
		x2 = PL_CRC32_FOLD(x2, k1k2, y2);
		x3 = PL_CRC32_FOLD(x3, k1k2, y3);
		x4 = PL_CRC32_FOLD(x4, k1k2, y4);
		if (to) {
			_mm_stream_si128(to, y1);
			_mm_stream_si128(to + 1, y2);
			_mm_stream_si128(to + 2, y3);
			_mm_stream_si128(to + 3, y4);
			to += 4;
		}
		at += 4;
		n -= 64;
	}
	x1 = PL_CRC32_FOLD(x1, k3k4, x2);
	x1 = PL_CRC32_FOLD(x1, k3k4, x3);
	x1 = PL_CRC32_FOLD(x1, k3k4, x4);
	while (n >= 16) {
		x1 = PL_CRC32_FOLD(x1, k3k4, _mm_loadu_si128(at));
		if (to)
			_mm_stream_si128(to++, _mm_loadu_si128(at));
		at++;
		n -= 16;
	}
	/* 128 bits to 64, and Barrett's reduction to 32. */
	x2 = _mm_clmulepi64_si128(x1, k3k4, 0x10);
	x1 = _mm_xor_si128(_mm_srli_si128(x1, 8), x2);
	y = _mm_srli_si128(x1, 4);
	x1 = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(x1, mask), k5, 0x00), y);
	y = _mm_clmulepi64_si128(_mm_and_si128(x1, mask), poly, 0x10);
	y = _mm_clmulepi64_si128(_mm_and_si128(y, mask), poly, 0x00);
	return (uint32_t)_mm_extract_epi32(_mm_xor_si128(x1, y), 1);
}

__attribute__((target("pclmul,sse4.1"))) static uint32_t pl_crc32_by_16(uint32_t crc, const uint8_t *p, size_t n)
{
	return pl_crc32_folded(crc, p, n, NULL);
}

__attribute__((target("pclmul,sse4.1"))) static uint32_t
pl_crc32_copied_by_16(uint32_t crc, const uint8_t *p, size_t n, uint8_t *to)
{
	return pl_crc32_folded(crc, p, n, (__m128i *)to);
}

#define PL_CRC32_WIDE __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.1")))
#define PL_CRC32_FOLD_WIDE(x, k, y) \
	_mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, k, 0x00), _mm512_clmulepi64_epi128(x, k, 0x11), y, 0x96)

PL_CRC32_WIDE static inline __m512i pl_crc32_wide_key(int k)
{
	const uint64_t *pair = pl_crc32_wide_keys[k];

	return _mm512_set4_epi64((long long)pair[1], (long long)pair[0], (long long)pair[1], (long long)pair[0]);
}

/* `n` is at least 256 and a multiple of 64; `to` is as above, and aligned to 64 bytes. */
PL_CRC32_WIDE static inline uint32_t pl_crc32_folded_wide(uint32_t crc, const uint8_t *p, size_t n, uint8_t *to)
{
	const __m512i far = pl_crc32_wide_key(0), near = pl_crc32_wide_key(1);
	__m512i x[4];
	uint8_t rest[64];

	for (int i = 0; i < 4; i++) {
		x[i] = _mm512_loadu_si512(p + 64 * i);
		if (to)
			_mm512_stream_si512((__m512i *)(to + 64 * i), x[i]);
	}
	x[0] = _mm512_xor_si512(x[0], _mm512_inserti32x4(_mm512_setzero_si512(), _mm_cvtsi32_si128((int)crc), 0));
	for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
		if (to)
			to += 256;
		for (int i = 0; i < 4; i++) {
			__m512i y = _mm512_loadu_si512(p + 64 * i);

			x[i] = PL_CRC32_FOLD_WIDE(x[i], far, y);
			if (to)
				_mm512_stream_si512((__m512i *)(to + 64 * i), y);
		}
	}
	for (int i = 1; i < 4; i++)
		x[0] = PL_CRC32_FOLD_WIDE(x[0], near, x[i]);
	if (to)
		to += 256;
	for (; n >= 64; p += 64, n -= 64) {
		__m512i y = _mm512_loadu_si512(p);

		x[0] = PL_CRC32_FOLD_WIDE(x[0], near, y);
		if (to) {
			_mm512_stream_si512((__m512i *)to, y);
			to += 64;
		}
	}
	_mm512_storeu_si512(rest, x[0]);
	return pl_crc32_by_table(0, rest, sizeof(rest));
}

PL_CRC32_WIDE static uint32_t pl_crc32_by_64(uint32_t crc, const uint8_t *p, size_t n)
{
	return pl_crc32_folded_wide(crc, p, n, NULL);
}

PL_CRC32_WIDE static uint32_t pl_crc32_copied_by_64(uint32_t crc, const uint8_t *p, size_t n, uint8_t *to)
{
	return pl_crc32_folded_wide(crc, p, n, to);
}

static void pl_crc32_settle(void)
{
	_mm_sfence();
}

static int pl_crc32_folds(void)
{
	if (!__builtin_cpu_supports("pclmul") || !__builtin_cpu_supports("sse4.1"))
		return 0;
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq") ? 64 : 16;
}
#else
static uint32_t pl_crc32_by_16(uint32_t crc, const uint8_t *p, size_t n)
{
	return pl_crc32_by_table(crc, p, n);
}

static uint32_t pl_crc32_copied_by_16(uint32_t crc, const uint8_t *p, size_t n, uint8_t *to)
{
	memcpy(to, p, n);
	return pl_crc32_by_table(crc, p, n);
}

#define pl_crc32_by_64 pl_crc32_by_16
#define pl_crc32_copied_by_64 pl_crc32_copied_by_16

static void pl_crc32_settle(void)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static int pl_crc32_folds(void)
{
	return 0;
}
#endif

/* How many of `n` bytes the CPU folds by 64 and by 16; the tables do the rest. */
static size_t pl_crc32_part(size_t n, int folds, int by)
{
	return folds >= by && n >= 4 * (size_t)by ? n & ~(size_t)(by - 1) : 0;
}

/* Continue `value`, the checksum of what comes before; 0 at the beginning. */
static uint32_t pl_crc32(uint32_t value, const void *data, size_t n, int folds)
{
	const uint8_t *p = data;
	uint32_t crc = ~value;
	size_t part;

	if ((part = pl_crc32_part(n, folds, 64)) != 0) {
		crc = pl_crc32_by_64(crc, p, part);
		p += part;
		n -= part;
	}
	if ((part = pl_crc32_part(n, folds, 16)) != 0) {
		crc = pl_crc32_by_16(crc, p, part);
		p += part;
		n -= part;
	}
	return ~pl_crc32_by_table(crc, p, n);
}

/* Do the same, and copy the bytes to `to`. Other processes may see them late, but not after `pl_crc32_settle`. */
static uint32_t pl_crc32_copy(uint8_t *to, uint32_t value, const void *data, size_t n, int folds)
{
	const uint8_t *p = data;
	uint32_t crc = ~value;
	size_t part = 0;

	if (((uintptr_t)to & 63) == 0 && (part = pl_crc32_part(n, folds, 64)) != 0)
		crc = pl_crc32_copied_by_64(crc, p, part, to);
	else if (((uintptr_t)to & 15) == 0 && (part = pl_crc32_part(n, folds, 16)) != 0)
		crc = pl_crc32_copied_by_16(crc, p, part, to);
	memcpy(to + part, p + part, n - part);
	return pl_crc32(~crc, p + part, n - part, folds);
}

#endif
