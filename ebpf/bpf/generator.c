/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Sends frames for tests and measurements: run by BPF_PROG_TEST_RUN with live frames, each leaves by the interface that the run
 * names. Attached nowhere, and no part of what a node loads.
 *
 * A frame is given whole; here it gets another source, so that a flood of spoofed sources needs no memory in which they stand.
 */
#include "packet.h"

/* Set before loading. */
volatile const u32 spoof_address SEC(".rodata") = 0; /* a random IPv4 address in 198.18.0.0/15, or a random /64 in 2001:db8::/32 */
volatile const u32 spoof_anywhere SEC(".rodata") = 0; /* with it: any IPv4 address, or any /64 in 2000::/3 */
volatile const u32 spoof_port SEC(".rodata") = 0;
volatile const u32 spoof_id SEC(".rodata") = 0; /* eight random bytes of destination ID behind a long header */

/* RFC 791, of a header without options whose checksum is 0. */
INLINE u16 ipv4_checksum(const u8 *ip)
{
    u32 sum = 0;

#pragma unroll
    for (int i = 0; i < IPV4_BYTES; i += 2)
        sum += be16(ip + i);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (u16)~sum;
}

SEC("xdp")
int stoq_generator(struct xdp_md *ctx)
{
    u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end, *ip = data + ETHERNET_BYTES, *udp;
    u32 random = random_u32();

    if (ip + IPV4_BYTES + UDP_BYTES > end)
        return XDP_DROP;
    if (ip[0] == 0x45) {
        udp = ip + IPV4_BYTES;
        if (spoof_address) {
            u16 sum;

            if (spoof_anywhere) {
                ip[12] = (u8)(random >> 24);
                ip[13] = (u8)(random >> 16);
            } else {
                ip[12] = 198;
                ip[13] = 18 | (random >> 16 & 1);
            }
            ip[14] = (u8)(random >> 8);
            ip[15] = (u8)random;
            ip[10] = 0;
            ip[11] = 0;
            sum = ipv4_checksum(ip);
            ip[10] = (u8)(sum >> 8);
            ip[11] = (u8)sum;
            /* The checksum of UDP covers the address, and may be absent. */
            udp[6] = 0;
            udp[7] = 0;
        }
    } else {
        udp = ip + IPV6_BYTES;
        if (udp + UDP_BYTES > end)
            return XDP_DROP;
        if (spoof_address) {
            u32 other = random_u32();

            if (spoof_anywhere) {
                ip[8] = 0x20 | (u8)(other >> 8 & 0x1f);
                ip[9] = (u8)other;
                ip[10] = (u8)(other >> 16);
                ip[11] = (u8)(other >> 24);
            }
            __builtin_memcpy(ip + 12, &random, 4);
        }
    }
    if (spoof_port) {
        u32 port = random_u32() | 0x400;

        udp[0] = (u8)(port >> 8);
        udp[1] = (u8)port;
    }
    if (spoof_id) {
        u8 *id = udp + UDP_BYTES + 6;

        if (id + 8 <= end) {
            u32 a = random_u32(), b = random_u32();

            __builtin_memcpy(id, &a, 4);
            __builtin_memcpy(id + 4, &b, 4);
        }
    }
    return XDP_TX;
}

/* No helper above asks for more. */
const char program_license[] SEC("license") = "MIT";
