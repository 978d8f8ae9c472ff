/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * SipHash (Aumasson and Bernstein, 2012) of messages that are whole 64-bit words: no other is hashed here.
 *
 * 2-4 for the tags of connection IDs, which others compute too. 1-3 for places in tables: keyed so that nobody outside can
 * aim at a cell, and cheaper; what it gives is not seen.
 */
#ifndef STOQ_SIPHASH_H
#define STOQ_SIPHASH_H

#include "kernel.h"

struct sip {
    u64 a, b, c, d;
};

#define ROTATE(x, bits) ((x) << (bits) | (x) >> (64 - (bits)))

INLINE void sip_round(struct sip *s)
{
    s->a += s->b;
    s->b = ROTATE(s->b, 13) ^ s->a;
    s->a = ROTATE(s->a, 32);
    s->c += s->d;
    s->d = ROTATE(s->d, 16) ^ s->c;
    s->a += s->d;
    s->d = ROTATE(s->d, 21) ^ s->a;
    s->c += s->b;
    s->b = ROTATE(s->b, 17) ^ s->c;
    s->c = ROTATE(s->c, 32);
}

INLINE struct sip sip_begin(const u64 *key)
{
    struct sip s = {
        .a = key[0] ^ 0x736f6d6570736575ULL,
        .b = key[1] ^ 0x646f72616e646f6dULL,
        .c = key[0] ^ 0x6c7967656e657261ULL,
        .d = key[1] ^ 0x7465646279746573ULL,
    };
    return s;
}

INLINE void sip_word(struct sip *s, u64 word, int rounds)
{
    s->d ^= word;
    for (int i = 0; i < rounds; i++)
        sip_round(s);
    s->a ^= word;
}

INLINE u64 sip_end(struct sip *s, u64 bytes, int rounds, int last_rounds)
{
    sip_word(s, bytes << 56, rounds);
    s->c ^= 0xff;
    for (int i = 0; i < last_rounds; i++)
        sip_round(s);
    return s->a ^ s->b ^ s->c ^ s->d;
}

/* SipHash-2-4 of 8 bytes. */
NOINLINE u64 sip24(const u64 *key, u64 word)
{
    struct sip s = sip_begin(key);
    sip_word(&s, word, 2);
    return sip_end(&s, 8, 2, 4);
}

/* SipHash-1-3 of 8 bytes. */
NOINLINE u64 sip13(const u64 *key, u64 word)
{
    struct sip s = sip_begin(key);
    sip_word(&s, word, 1);
    return sip_end(&s, 8, 1, 3);
}

#endif
