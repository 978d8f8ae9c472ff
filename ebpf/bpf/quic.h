/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the first bytes of a datagram say without any state: a class, or the reason to drop it.
 */
#ifndef STOQ_QUIC_H
#define STOQ_QUIC_H

#include "packet.h"
#include "siphash.h"

#define LONG_HEADER 0x80
#define FIXED_BIT 0x40
/* Flags 1, version 4, length of the destination ID 1: where that ID stands. */
#define ID_OFFSET 6
/* RFC 9369. Its types are those of version 1, one further. */
#define VERSION_2 0x6b3343cf
#define TYPE_INITIAL 0
#define TYPE_HANDSHAKE 2
#define TYPE_RETRY 3

/* A class is told from a reason by this bit. */
#define IS_CLASS 0x80000000u
/* Beside it: of a handshake that we answered, for it carries an ID of ours. */
#define IS_ANSWERED 0x40000000u
#define CLASS_MASK 0xffffu

/* Whether the 12 bytes at `id` are an ID of ours. */
INLINE int is_ours(const struct settings *settings, const u8 *id)
{
    u32 generation = id[0] >> 6, tag;
    u64 head;

    if (!(settings->cid_generations >> generation & 1))
        return 0;
    __builtin_memcpy(&head, id, 8);
    __builtin_memcpy(&tag, id + 8, 4);
    return (u32)sip24(settings->cid_key[generation], head) == tag;
}

INLINE int speaks(const struct settings *settings, u32 version)
{
    int found = 0;

#pragma unroll
    for (int i = 0; i < VERSIONS; i++)
        found |= settings->versions[i] == version;
    return found;
}

/* `bytes` of payload stand at `at`, and the frame holds them all; the comparisons with `end` are for the verifier. */
INLINE u32 classify_short(const struct settings *settings, u32 port_flags, const u8 *at, const u8 *end, u32 bytes)
{
    if (bytes < (port_flags & PORT_KEYED ? SHORT_BYTES_MIN : SHORT_ANY_BYTES_MIN))
        return DROP_SHORT_SMALL;
    if (port_flags & PORT_KEYED && settings->flags & FLAG_CHECK_CID) {
        if (at + 1 + CID_BYTES > end)
            return DROP_TRUNCATED;
        if (!is_ours(settings, at + 1))
            return DROP_CID_TAG;
    }
    return IS_CLASS | CLASS_SHORT;
}

/* Keeps of an ID's 24 bytes from `at` on the first `bytes`. */
INLINE void keep_id(struct packet *p, const u8 *at, u32 bytes)
{
#pragma unroll
    for (u32 i = 0; i < 3; i++) {
        u64 word;

        __builtin_memcpy(&word, at + 8 * i, 8);
        if (bytes <= 8 * i)
            word = 0;
        else if (bytes < 8 * i + 8)
            word &= ~0ULL >> (64 - 8 * (bytes - 8 * i));
        p->id[i] = word;
    }
}

/* Whether an Initial has a token: 1 or 0, -1 where its length does not fit. `at` is where the length stands, `left` bytes
 * of datagram from there on. */
INLINE int has_token(const u8 *at, const u8 *end, u32 left)
{
    u32 form;
    u64 bytes;

    if (left < 1 || at + 1 > end)
        return -1;
    /* RFC 9000, section 16: two bits say how many bytes the integer has. */
    form = at[0] >> 6;
    bytes = at[0] & 63;
    if (form == 0)
        return bytes > left - 1 ? -1 : bytes != 0;
    if (left < 1u << form)
        return -1;
    if (form == 1) {
        if (at + 2 > end)
            return -1;
        bytes = bytes << 8 | at[1];
        return bytes > left - 2 ? -1 : bytes != 0;
    }
    if (at + 4 > end)
        return -1;
    bytes = be32(at) & 0x3fffffff;
    if (form == 2)
        return bytes > left - 4 ? -1 : bytes != 0;
    if (at + 8 > end)
        return -1;
    bytes = bytes << 32 | be32(at + 4);
    return bytes > left - 8 ? -1 : bytes != 0;
}

INLINE u32 classify_long(struct packet *p, u32 port_flags, const u8 *at, const u8 *end, u32 bytes)
{
    const struct settings *settings = p->settings;
    u32 version, id_bytes, source_id_bytes, left, type;
    const u8 *source_id;
    int peers = port_flags & PORT_PEERS, keyed = port_flags & PORT_KEYED, token = 0;

    if (bytes < ID_OFFSET + 1 || at + ID_OFFSET + 1 > end)
        return DROP_LONG_TRUNCATED;
    version = be32(at + 1);
    id_bytes = at[5];
    /* RFC 8999, section 6: version negotiation, which answers a client. */
    if (version == 0)
        return peers ? IS_CLASS | CLASS_LONG : DROP_VERSION_ZERO;
    if (id_bytes > CID_BYTES_MAX)
        return DROP_CID_LONG;
    if (bytes < ID_OFFSET + 1 + id_bytes)
        return DROP_LONG_TRUNCATED;
    source_id = at + ID_OFFSET + id_bytes;
    if (source_id + 1 > end)
        return DROP_LONG_TRUNCATED;
    source_id_bytes = source_id[0];
    if (source_id_bytes > CID_BYTES_MAX)
        return DROP_CID_LONG;
    if (bytes < ID_OFFSET + 1 + id_bytes + source_id_bytes)
        return DROP_LONG_TRUNCATED;
    left = bytes - (ID_OFFSET + 1 + id_bytes + source_id_bytes);
    if (bytes >= ID_OFFSET + 24 && at + ID_OFFSET + 24 <= end)
        keep_id(p, at + ID_OFFSET, id_bytes);

    if (!speaks(settings, version)) {
        /* RFC 9000, section 5.2.2: smaller ones earn no version negotiation. A larger one is a newcomer. */
        return bytes < INITIAL_BYTES_MIN ? DROP_VERSION_SMALL : IS_CLASS | CLASS_INITIAL;
    }
    type = at[0] >> 4 & 3;
    if (version == VERSION_2)
        type = (type + 3) & 3;
    if (type == TYPE_RETRY)
        return peers ? IS_CLASS | CLASS_LONG : DROP_RETRY;
    if (type == TYPE_INITIAL) {
        if (!peers) {
            if (id_bytes < CID_BYTES_MIN)
                return DROP_CID_SHORT;
            if (bytes < INITIAL_BYTES_MIN)
                return DROP_INITIAL_SMALL;
        }
        token = has_token(source_id + 1 + source_id_bytes, end, left);
        if (token < 0)
            return DROP_LONG_TRUNCATED;
    }
    if (keyed && id_bytes == CID_BYTES && at + ID_OFFSET + CID_BYTES <= end && is_ours(settings, at + ID_OFFSET))
        return IS_CLASS | IS_ANSWERED | CLASS_LONG;
    /* A client that was sent a token by a Retry was sent an ID with it, so a token with another ID proves nothing. */
    if (type == TYPE_INITIAL)
        return IS_CLASS | (token && (peers || !keyed) ? CLASS_TOKEN : CLASS_INITIAL);
    /* RFC 9000, section 7.2: by the time of a Handshake packet a peer uses the ID that we chose. And clients are not offered 0-RTT. */
    if (keyed && settings->flags & FLAG_CHECK_CID && (type == TYPE_HANDSHAKE || !peers))
        return DROP_CID_TAG;
    return IS_CLASS | CLASS_LONG;
}

INLINE u32 classify(struct packet *p, u32 port_flags, const u8 *at, const u8 *end, u32 bytes)
{
    if (bytes == 0)
        return DROP_EMPTY;
    if (at + 1 > end)
        return DROP_TRUNCATED;
    if (p->settings->flags & FLAG_FIXED_BIT && !(port_flags & PORT_PEERS) && !(at[0] & FIXED_BIT))
        return DROP_FIXED_BIT;
    if (at[0] & LONG_HEADER)
        return classify_long(p, port_flags, at, end, bytes);
    return classify_short(p->settings, port_flags, at, end, bytes);
}

#endif
