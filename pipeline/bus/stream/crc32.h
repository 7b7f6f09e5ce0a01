/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32 of zlib, gzip and PNG. It is the checksum that every language's library has. With carry-less multiplication it
 * costs a tenth of zlib's tables, which matters because the resolver computes it for every byte of the journal.
 *
 * Method and constants: V. Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", Intel 2009, for the reflected polynomial. */
#ifndef PROCLINE_CRC32_H
#define PROCLINE_CRC32_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t pl_crc32_table[8][256];

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

/* `n` is at least 64 and a multiple of 16. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t pl_crc32_by_folding(uint32_t crc, const uint8_t *p, size_t n)
{
	const __m128i k1k2 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
	const __m128i k3k4 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
	const __m128i k5 = _mm_set_epi64x(0, 0x0163cd6124);
	const __m128i poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
	const __m128i mask = _mm_setr_epi32(~0, 0, ~0, 0);
	const __m128i *at = (const __m128i *)p;
	__m128i x1 = _mm_xor_si128(_mm_loadu_si128(at), _mm_cvtsi32_si128((int)crc));
	__m128i x2 = _mm_loadu_si128(at + 1), x3 = _mm_loadu_si128(at + 2), x4 = _mm_loadu_si128(at + 3), y;

	at += 4;
	n -= 64;
	while (n >= 64) {
		x1 = PL_CRC32_FOLD(x1, k1k2, _mm_loadu_si128(at));
		x2 = PL_CRC32_FOLD(x2, k1k2, _mm_loadu_si128(at + 1));
		x3 = PL_CRC32_FOLD(x3, k1k2, _mm_loadu_si128(at + 2));
		x4 = PL_CRC32_FOLD(x4, k1k2, _mm_loadu_si128(at + 3));
		at += 4;
		n -= 64;
	}
	x1 = PL_CRC32_FOLD(x1, k3k4, x2);
	x1 = PL_CRC32_FOLD(x1, k3k4, x3);
	x1 = PL_CRC32_FOLD(x1, k3k4, x4);
	while (n >= 16) {
		x1 = PL_CRC32_FOLD(x1, k3k4, _mm_loadu_si128(at));
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

static int pl_crc32_folds(void)
{
	return __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
}
#else
static uint32_t pl_crc32_by_folding(uint32_t crc, const uint8_t *p, size_t n)
{
	return pl_crc32_by_table(crc, p, n);
}

static int pl_crc32_folds(void)
{
	return 0;
}
#endif

/* Continue `value`, the checksum of what comes before; 0 at the beginning. */
static uint32_t pl_crc32(uint32_t value, const void *data, size_t n, int folds)
{
	const uint8_t *p = data;
	uint32_t crc = ~value;

	if (folds && n >= 64) {
		size_t folded = n & ~(size_t)15;

		crc = pl_crc32_by_folding(crc, p, folded);
		p += folded;
		n -= folded;
	}
	return ~pl_crc32_by_table(crc, p, n);
}

#endif
