"""OCSF's Common Process Identifier in C: SHA-256 of one block, as a UUIDv8, as in `pipeline.host.boot.cpid`.

Events arrive every few microseconds and a dump has tens of thousands of processes. hashlib with its objects is too slow
for both. The digest is that of FIPS 180-4, for the only length that is needed: 40 bytes. With their padding they fill
one block of 64 bytes.
"""

from libc.stdint cimport uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static const uint32_t pl_sha256_k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };

    static inline uint32_t pl_ror32(uint32_t v, int n) { return v >> n | v << (32 - n); }

    /* One round. In the next one, each word has the following name: this round's `h` is its `a`. */
    #define PL_SHA256_ROUND(a, b, c, d, e, f, g, h, i) do { \
            h += (pl_ror32(e, 6) ^ pl_ror32(e, 11) ^ pl_ror32(e, 25)) + (g ^ (e & (f ^ g))) + pl_sha256_k[i] + w[i]; \
            d += h; \
            h += (pl_ror32(a, 2) ^ pl_ror32(a, 13) ^ pl_ror32(a, 22)) + ((a & b) | (c & (a | b))); \
        } while (0)

    /* The first 16 bytes of the digest of 40 bytes, as two numbers, the more significant one first. */
    static void pl_sha256_40(const unsigned char *data, uint64_t *high, uint64_t *low)
    {
        static const uint32_t start[8] = {
            0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
        };
        uint32_t w[64], a = start[0], b = start[1], c = start[2], d = start[3], e = start[4], f = start[5];
        uint32_t g = start[6], h = start[7];
        int i;

        for (i = 0; i < 10; i++) {
            memcpy(&w[i], data + 4 * i, 4);
            w[i] = __builtin_bswap32(w[i]);
        }
        w[10] = 0x80000000; /* the padding: a single 1 bit, and the length in bits at the end */
        for (i = 11; i < 15; i++)
            w[i] = 0;
        w[15] = 320;
        for (i = 16; i < 64; i++)
            w[i] = w[i - 16] + (pl_ror32(w[i - 15], 7) ^ pl_ror32(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
                   (pl_ror32(w[i - 2], 17) ^ pl_ror32(w[i - 2], 19) ^ w[i - 2] >> 10);
        /* After eight rounds each word has its former name again, so that no word is moved. */
        for (i = 0; i < 64; i += 8) {
            PL_SHA256_ROUND(a, b, c, d, e, f, g, h, i);
            PL_SHA256_ROUND(h, a, b, c, d, e, f, g, i + 1);
            PL_SHA256_ROUND(g, h, a, b, c, d, e, f, i + 2);
            PL_SHA256_ROUND(f, g, h, a, b, c, d, e, i + 3);
            PL_SHA256_ROUND(e, f, g, h, a, b, c, d, i + 4);
            PL_SHA256_ROUND(d, e, f, g, h, a, b, c, i + 5);
            PL_SHA256_ROUND(c, d, e, f, g, h, a, b, i + 6);
            PL_SHA256_ROUND(b, c, d, e, f, g, h, a, i + 7);
        }
        *high = (uint64_t)(a + start[0]) << 32 | (b + start[1]);
        *low = (uint64_t)(c + start[2]) << 32 | (d + start[3]);
    }
    #undef PL_SHA256_ROUND

    /* The 36 characters of a cpid. Numbers are hashed in native order, 8 bytes each. */
    static void pl_cpid(char *text, const unsigned char *boot, uint64_t pid_ns, uint64_t start_ticks, uint64_t ns_pid)
    {
        static const char digits[] = "0123456789abcdef";
        unsigned char data[40];
        uint64_t half[2];
        int i;

        memcpy(data, boot, 16);
        memcpy(data + 16, &pid_ns, 8);
        memcpy(data + 24, &start_ticks, 8);
        memcpy(data + 32, &ns_pid, 8);
        pl_sha256_40(data, &half[0], &half[1]);
        half[0] = (half[0] & ~0xf000ull) | 0x8000ull;
        half[1] = (half[1] & ~(3ull << 62)) | 2ull << 62;
        for (i = 0; i < 32; i++) {
            if (i == 8 || i == 12 || i == 16 || i == 20)
                *text++ = '-';
            *text++ = digits[half[i / 16] >> (60 - 4 * (i % 16)) & 15];
        }
    }
    """
    void pl_cpid(
        char *text, const unsigned char *boot, uint64_t pid_ns, uint64_t start_ticks, uint64_t ns_pid
    ) noexcept nogil
