/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The little of the kernel's interface that the programs use, so that an object does not depend on a machine's headers.
 * All of it is fixed by the kernel's user ABI: numbers of helpers, layouts of contexts.
 */
#ifndef STOQ_KERNEL_H
#define STOQ_KERNEL_H

#include "abi.h"

#define SEC(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
/* Bodies used from several places: inlined they would be 27 KB of machine code, which no instruction cache holds. */
#define NOINLINE static __attribute__((noinline, unused))

/* Only little-endian objects are built: words of packets and keys are read as they lie. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bpfel only");

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_LPM_TRIE 11
#define BPF_MAP_TYPE_REUSEPORT_SOCKARRAY 20
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_F_NO_PREALLOC 1

enum xdp_action {
    XDP_ABORTED = 0,
    XDP_DROP = 1,
    XDP_PASS = 2,
    XDP_TX = 3,
};

struct xdp_md {
    u32 data;
    u32 data_end;
    u32 data_meta;
    u32 ingress_ifindex;
    u32 rx_queue_index;
    u32 egress_ifindex;
};

enum sk_action {
    SK_DROP = 0,
    SK_PASS = 1,
};

struct sk_reuseport_md {
    void *data;
    void *data_end;
    u32 len;
    u32 eth_protocol;
    u32 ip_protocol;
    u32 bind_inany;
    u32 hash;
};

static void *(*const map_lookup)(const void *map, const void *key) = (void *)1;
static u64 (*const monotonic_ns)(void) = (void *)5;
static u32 (*const random_u32)(void) = (void *)7;
static long (*const skb_load_bytes)(const void *ctx, u32 offset, void *to, u32 bytes) = (void *)26;
static long (*const select_reuseport)(struct sk_reuseport_md *ctx, void *map, void *key, u64 flags) = (void *)82;
static void *(*const ring_reserve)(void *ring, u64 bytes, u64 flags) = (void *)131;
static void (*const ring_submit)(void *data, u64 flags) = (void *)132;
/* As of the last tick, 1 to 10 ms ago, for a tenth of the price. Since Linux 5.11. */
static u64 (*const monotonic_coarse_ns)(void) = (void *)160;

INLINE u16 be16(const u8 *at)
{
    return (u16)(at[0] << 8 | at[1]);
}

INLINE u32 be32(const u8 *at)
{
    return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
}

#endif
