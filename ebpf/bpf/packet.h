/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * From a frame to the header of UDP or TCP. What cannot be read up to a port is not ours and passes: the stack judges it.
 */
#ifndef STOQ_PACKET_H
#define STOQ_PACKET_H

#include "kernel.h"

#define ETHERNET_BYTES 14
#define VLAN_BYTES 4
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_QINQ 0x88a8
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define UDP_BYTES 8
#define TCP_BYTES 20
#define PROTOCOL_HOP_BY_HOP 0
#define PROTOCOL_TCP 6
#define PROTOCOL_UDP 17
#define PROTOCOL_ROUTING 43
#define PROTOCOL_FRAGMENT 44
#define PROTOCOL_AUTHENTICATION 51
#define PROTOCOL_DESTINATION 60
/* Stands for "more extension headers than are followed"; no protocol has this number. */
#define PROTOCOL_BEYOND 256
/* Where the last header can begin: Ethernet, tags, IPv6, and EXTENSIONS_MAX headers of 2048 bytes, the longest there are. */
#define TRANSPORT_OFFSET_MAX (ETHERNET_BYTES + VLANS_MAX * VLAN_BYTES + IPV6_BYTES + EXTENSIONS_MAX * 2048)

/* What is known of the packet that is judged. */
struct packet {
    u64 now_ns;
    u64 source; /* as keys of `validated` */
    u64 prefix;
    u64 id[3]; /* destination connection ID of a newcomer, zeroes after it */
    const struct settings *settings;
    u32 address[4]; /* network order, IPv4 mapped into IPv6 */
    u32 frame_bytes;
    u32 offset;    /* of the UDP or TCP header */
    u32 ip_end;    /* offset where the IP packet says it ends */
    u32 protocol;  /* 6, 17, PROTOCOL_BEYOND, or another that is not ours */
    u32 fragment;  /* the first of several */
    u32 v6;
    u32 shed;
    u16 source_port;
    u16 port;
};

/* Follows extension headers from p->offset on; p->protocol says what stands there. */
NOINLINE int walk_extensions(struct xdp_md *ctx, struct packet *p)
{
    u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;

    for (int i = 0; i <= EXTENSIONS_MAX; i++) {
        u32 kind = p->protocol, bytes;
        const u8 *head;

        if (kind != PROTOCOL_HOP_BY_HOP && kind != PROTOCOL_ROUTING && kind != PROTOCOL_FRAGMENT &&
            kind != PROTOCOL_AUTHENTICATION && kind != PROTOCOL_DESTINATION)
            return 1;
        if (i == EXTENSIONS_MAX) {
            p->protocol = PROTOCOL_BEYOND;
            return 1;
        }
        /* Never more; said for the verifier. */
        if (p->offset > TRANSPORT_OFFSET_MAX)
            return 0;
        head = data + p->offset;
        if (head + 8 > end)
            return 0;
        if (kind == PROTOCOL_FRAGMENT) {
            u32 place = be16(head + 2);

            /* A later fragment has no ports. Its first was dropped if it was for us, so it is never put together. */
            if (place & 0xfff8)
                return 0;
            /* RFC 6946: an atomic fragment is a whole packet. */
            if (place & 1)
                p->fragment = 1;
            bytes = 8;
        } else if (kind == PROTOCOL_AUTHENTICATION) {
            bytes = ((u32)head[1] + 2) * 4;
        } else {
            bytes = ((u32)head[1] + 1) * 8;
        }
        p->protocol = head[0];
        p->offset += bytes;
    }
    return 1;
}

/* Finds the transport header. 0: not ours. */
INLINE int parse(struct xdp_md *ctx, struct packet *p)
{
    u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end, *at = data;
    u32 type;

    p->frame_bytes = (u32)(end - data);
    if (at + ETHERNET_BYTES > end)
        return 0;
    type = be16(at + 12);
    at += ETHERNET_BYTES;
#pragma unroll
    for (int i = 0; i < VLANS_MAX; i++) {
        if (type != ETHERTYPE_VLAN && type != ETHERTYPE_QINQ)
            break;
        if (at + VLAN_BYTES > end)
            return 0;
        type = be16(at + 2);
        at += VLAN_BYTES;
    }
    p->offset = (u32)(at - data);

    if (type == ETHERTYPE_IPV4) {
        u32 head_bytes, total, place;

        if (at + IPV4_BYTES > end)
            return 0;
        head_bytes = (at[0] & 15) * 4;
        total = be16(at + 2);
        place = be16(at + 6);
        if (at[0] >> 4 != 4 || head_bytes < IPV4_BYTES || total < head_bytes)
            return 0;
        /* A later fragment, as in IPv6. */
        if (place & 0x1fff)
            return 0;
        p->fragment = place & 0x2000;
        p->protocol = at[9];
        p->v6 = 0;
        p->address[0] = 0;
        p->address[1] = 0;
        p->address[2] = 0xffff0000; /* 00 00 ff ff in memory */
        __builtin_memcpy(&p->address[3], at + 12, 4);
        p->source = 0x0000ffff00000000ULL | be32(at + 12);
        p->prefix = p->source & (~0ULL << (32 - PREFIX_BITS_V4));
        p->ip_end = p->offset + total;
        p->offset += head_bytes;
        return 1;
    }
    if (type == ETHERTYPE_IPV6) {
        u32 payload;

        if (at + IPV6_BYTES > end)
            return 0;
        if (at[0] >> 4 != 6)
            return 0;
        payload = be16(at + 4);
        p->fragment = 0;
        p->protocol = at[6];
        p->v6 = 1;
        __builtin_memcpy(p->address, at + 8, 16);
        p->source = (u64)be32(at + 8) << 32 | be32(at + 12);
        p->prefix = p->source & (~0ULL << (64 - PREFIX_BITS_V6));
        p->offset += IPV6_BYTES;
        /* Zero is a jumbogram (RFC 2675), or what the stack drops itself. */
        p->ip_end = payload ? p->offset + payload : p->frame_bytes;
        if (p->protocol != PROTOCOL_UDP && p->protocol != PROTOCOL_TCP)
            return walk_extensions(ctx, p);
        return 1;
    }
    return 0;
}

#endif
