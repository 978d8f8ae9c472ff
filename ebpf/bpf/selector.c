/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Gives each datagram to the worker that its connection ID names.
 *
 * An ID of ours names generation and worker in its first byte. A generation belongs to the sockets of one process, so while a
 * new process takes over, connections of the old one go on where they are and newcomers go to the new one. A newcomer's ID
 * is its own invention: the kernel's hash of its addresses picks the worker, the same for each packet of its first flight. Once
 * an Initial or 0-RTT packet carries an ID of ours it goes to that worker, which the tag tells.
 *
 * Nothing is ever dropped here: where the program cannot tell, the kernel's own hash decides.
 */
#include "map.h"
#include "siphash.h"

MAP(steering, BPF_MAP_TYPE_ARRAY, 1, u32, struct steering);
MAP(sockets, BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, SOCKETS_MAX, u32, u32);
MAP(steered, BPF_MAP_TYPE_PERCPU_ARRAY, STEERS, u32, u64);

/* What the program sees begins with the UDP header. */
#define UDP_BYTES 8
#define LONG_HEADER 0x80
/* Flags 1, version 4, length of the destination ID 1. */
#define ID_OFFSET 6
#define WORKER_MASK 0x3f

INLINE int count(u32 way)
{
    u64 *counter = map_lookup(&steered, &way);

    if (counter)
        (*counter)++;
    return SK_PASS;
}

/* 0: given to socket `number` of the route, counted round. */
INLINE long give(struct sk_reuseport_md *ctx, const struct route *route, u32 number)
{
    u32 workers = route->workers, key;

    if (workers == 0)
        return -1;
    key = route->base + number % workers;
    return select_reuseport(ctx, &sockets, &key, 0);
}

SEC("sk_reuseport")
int stoq_selector(struct sk_reuseport_md *ctx)
{
    u8 head[ID_OFFSET + CID_BYTES] = {};
    u32 zero = 0, generation, tag, named = 0;
    u64 covered;
    const u8 *id = 0;
    const struct steering *s = map_lookup(&steering, &zero);

    if (!s || s->abi != ABI_VERSION)
        return count(STEER_KERNEL);
    /* A shorter datagram is none that could name a worker: SHORT_BYTES_MIN is more. */
    if (!skb_load_bytes(ctx, UDP_BYTES, head, sizeof(head))) {
        if (!(head[0] & LONG_HEADER)) {
            id = head + 1;
        } else if (head[ID_OFFSET - 1] == CID_BYTES) {
            id = head + ID_OFFSET;
            __builtin_memcpy(&covered, id, 8);
            __builtin_memcpy(&tag, id + 8, 4);
            if ((u32)sip24(s->cid_key[id[0] >> 6], covered) != tag)
                id = 0;
        }
    }
    if (id) {
        generation = id[0] >> 6;
        named = s->route[generation].workers != 0;
        if (!give(ctx, &s->route[generation], id[0] & WORKER_MASK))
            return count(STEER_BY_ID);
    }
    if (!give(ctx, &s->route[s->current & (GENERATIONS - 1)], ctx->hash))
        return count(named ? STEER_ORPHAN : STEER_BY_HASH);
    return count(STEER_KERNEL);
}

/* No helper above asks for more. */
const char program_license[] SEC("license") = "MIT";
