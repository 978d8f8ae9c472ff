/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Sheds load at the NIC, for configured ports only.
 *
 * A packet is parsed up to its port; one to a port that is not ours passes, and costs one look into an array. Then, cheapest
 * first: is anybody alive who answers for us (heartbeat), what do the rules say of its source, can it be QUIC at all, is it
 * within the budgets of its class. Whatever the verdict, there is one reason and one counter for it. src/model/ is the same
 * in Rust, and tests hold both to the same answers.
 */
#include "map.h"
#include "packet.h"
#include "quic.h"
#include "siphash.h"

MAP(settings, BPF_MAP_TYPE_ARRAY, SETTINGS_SLOTS, u32, struct settings);
MAP(control, BPF_MAP_TYPE_ARRAY, 1, u32, struct control);
MAP(ports, BPF_MAP_TYPE_ARRAY, PORTS_MAX, u32, u32);
MAP(validated, BPF_MAP_TYPE_HASH, VALIDATED_MAX, u64, u64);
MAP(filter, BPF_MAP_TYPE_ARRAY, 1 << (FILTER_BITS_LOG - 6), u32, u64);
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, REASONS + 1, u32, struct counter);
MAP(sources, BPF_MAP_TYPE_ARRAY, GLOBALS * SKETCH_ROWS * SOURCE_CELLS, u32, u64);
MAP(prefixes, BPF_MAP_TYPE_ARRAY, CLASSES * SKETCH_ROWS * PREFIX_CELLS, u32, u64);
MAP(globals, BPF_MAP_TYPE_ARRAY, GLOBALS, u32, u64);
struct greylist_row {
    u32 cell[GREYLIST_WAYS];
};
MAP(greylist, BPF_MAP_TYPE_ARRAY, GREYLIST_CELLS / GREYLIST_WAYS, u32, struct greylist_row);

MAP_WITH_FLAGS(rules_v4, BPF_MAP_TYPE_LPM_TRIE, RULES_MAX, struct key_v4, struct rule, BPF_F_NO_PREALLOC);
MAP_WITH_FLAGS(rules_v6, BPF_MAP_TYPE_LPM_TRIE, RULES_MAX, struct key_v6, struct rule, BPF_F_NO_PREALLOC);
RING(events, EVENTS_BYTES);

/* TESTING_REPLAY while a test runs the program: the clock then comes with the packet, and the reason goes back with it.
 * TESTING_SPOOF while its cost is measured: each run has another source, though it has the same frame. Set before loading or
 * never; the verifier removes what it guards. */
volatile const u32 testing SEC(".rodata") = 0;

/* How often a cell that another CPU changed is tried again. Then the packet passes uncharged: seldom, for each failure is
 * another CPU's packet that was charged meanwhile. */
#define TRIES 8

/* A word on the wire may be changed by another CPU at any time: read once. */
#define READ(place) (*(volatile u64 *)&(place))

/* GCRA over two cells, of which the lower counts: what collides in one row seldom does in the other. A refusal writes
 * nothing. A global budget has one cell, given twice.
 *
 * The higher is raised first, and the packet is charged by the change of the lower alone: were the lower changed first, another CPU
 * could find the other one still low and be charged there for the same arrival. */
NOINLINE int charge(u64 *first, u64 *second, u64 now, u64 interval_ns, u64 burst_ns)
{
    for (int i = 0; i < TRIES; i++) {
        u64 a = READ(*first), b = READ(*second), arrival = a < b ? a : b;

        if (arrival < now)
            arrival = now;
        arrival += interval_ns;
        if (arrival > now + burst_ns)
            return 0;
        if (a <= b) {
            if (first != second && b < arrival &&
                __sync_val_compare_and_swap(second, b, arrival) != b)
                continue;
            if (__sync_val_compare_and_swap(first, a, arrival) != a)
                continue;
        } else {
            if (first != second && a < arrival &&
                __sync_val_compare_and_swap(first, a, arrival) != a)
                continue;
            if (__sync_val_compare_and_swap(second, b, arrival) != b)
                continue;
        }
        return 1;
    }
    return 1;
}

NOINLINE int charge_source(const struct packet *p, u32 class, const struct budget *budget)
{
    u64 hash;
    u32 key;
    u64 *first, *second;

    if (!budget->interval_ns)
        return 1;
    hash = sip13(p->settings->hash_key, p->source);
    key = class * SKETCH_ROWS * SOURCE_CELLS + ((u32)hash & (SOURCE_CELLS - 1));
    first = map_lookup(&sources, &key);
    key = (class * SKETCH_ROWS + 1) * SOURCE_CELLS + ((u32)(hash >> 32) & (SOURCE_CELLS - 1));
    second = map_lookup(&sources, &key);
    if (!first || !second)
        return 1;
    return charge(first, second, p->now_ns, budget->interval_ns, budget->burst_ns);
}

NOINLINE int charge_prefix(const struct packet *p, u32 class, const struct budget *budget)
{
    u64 hash;
    u32 key;
    u64 *first, *second;

    if (!budget->interval_ns)
        return 1;
    hash = sip13(p->settings->hash_key, p->prefix);
    key = class * SKETCH_ROWS * PREFIX_CELLS + ((u32)hash & (PREFIX_CELLS - 1));
    first = map_lookup(&prefixes, &key);
    key = (class * SKETCH_ROWS + 1) * PREFIX_CELLS + ((u32)(hash >> 32) & (PREFIX_CELLS - 1));
    second = map_lookup(&prefixes, &key);
    if (!first || !second)
        return 1;
    return charge(first, second, p->now_ns, budget->interval_ns, budget->burst_ns);
}

/* A budget of all. Whether it has room; charged if it is to be. */
NOINLINE int has_room(const struct packet *p, u32 class, int is_charged)
{
    const struct budget *budget;
    u64 *cell, arrival;

    if (class >= GLOBALS)
        return 1;
    budget = &p->settings->global[class];
    if (!budget->interval_ns)
        return 1;
    cell = map_lookup(&globals, &class);
    if (!cell)
        return 1;
    if (is_charged)
        return charge(cell, cell, p->now_ns, budget->interval_ns, budget->burst_ns);
    arrival = READ(*cell);
    if (arrival < p->now_ns)
        arrival = p->now_ns;
    return arrival + budget->interval_ns <= p->now_ns + budget->burst_ns;
}

/* Of a source and a destination ID: a place in the greylist, a mark there, and who is shed. Keyed, but three multiplications
 * and no more: a flood pays this for each packet, and nobody but he who is let through sees what comes of it. */
INLINE u64 mix(const struct packet *p)
{
    u64 x = (p->source ^ p->settings->hash_key[0]) * 0x9e3779b97f4a7c15ULL;

    x ^= x >> 32;
    x ^= p->settings->hash_key[1] ^ p->id[0] ^ ROTATE(p->id[1], 21) ^ ROTATE(p->id[2], 42);
    x *= 0xd6e8feb86659fd93ULL;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93ULL;
    return x ^ x >> 32;
}

/* What needs no state is told from the last tick; budgets count finer. */
INLINE void tell_time(struct packet *p)
{
    if (testing != TESTING_REPLAY)
        p->now_ns = monotonic_ns();
}

/* Whether the source completed a handshake not long ago. Most that are asked about did not, and the filter knows. */
NOINLINE int is_validated(const struct packet *p)
{
    u32 bit = (u32)(p->source * FILTER_FACTOR >> (64 - FILTER_BITS_LOG)), word = bit >> 6;
    u64 *bits = map_lookup(&filter, &word);
    const u64 *until;

    if (!bits || !(READ(*bits) >> (bit & 63) & 1))
        return 0;
    until = map_lookup(&validated, &p->source);
    return until && p->now_ns < *until;
}

/* Whether there is room for one more repeated Initial. Its source is charged first: one that repeats itself without end uses up what it has
 * itself, and not what all have. */
NOINLINE int may_repeat(struct packet *p, const struct profile *profile)
{
    tell_time(p);
    return has_room(p, CLASS_RETRANSMISSION, 0) &&
           charge_source(p, CLASS_RETRANSMISSION, &profile->source[CLASS_RETRANSMISSION]) &&
           has_room(p, CLASS_RETRANSMISSION, 1);
}

/* Whether the same source sent an Initial to the same ID a while ago, as a client does that was not answered, and the budgets for
 * those have room. Remembers the packet otherwise. `hash` is of source and ID. */
NOINLINE int is_retransmission(struct packet *p, const struct profile *profile, u64 hash)
{
    const u32 time_mask = (1 << GREYLIST_TIME_BITS) - 1;
    u32 row = ((u32)hash & (GREYLIST_CELLS - 1)) / GREYLIST_WAYS, oldest_age = 0;
    u32 now = (u32)(p->now_ns >> GREYLIST_SHIFT) & time_mask, mark = (u32)(hash >> 28) << GREYLIST_TIME_BITS;
    volatile u32 *cell = map_lookup(&greylist, &row), *oldest = cell;

    if (!cell)
        return 0;
#pragma unroll
    for (u32 i = 0; i < GREYLIST_WAYS; i++) {
        u32 then = cell[i], age = (now - then) & time_mask;

        if (!then)
            age = time_mask + 1;
        else if ((then & ~time_mask) == mark && age <= GREYLIST_UNITS_MAX)
            return age >= GREYLIST_UNITS_MIN && may_repeat(p, profile);
        if (age > oldest_age) {
            oldest = cell + i;
            oldest_age = age;
        }
    }
    *oldest = mark | now;
    return 0;
}

/* Whether a packet of this class is within its budgets. What all share is asked first: it is one cell, and in a flood of spoofed
 * sources it is what refuses, before their cells are touched, of which none is in the cache. A handshake that we answered is not held
 * to it: who spoofs could use it up, and has no ID of ours. */
INLINE u32 ration(struct packet *p, u32 judged, u32 number)
{
    const struct profile *profile;
    u32 class = judged & CLASS_MASK, refused = 0;
    int is_newcomer = class == CLASS_INITIAL, is_answered = judged & IS_ANSWERED, is_spared = 0;
    u64 hash = 0;

    if (class >= CLASSES || number >= PROFILES)
        return PASS_OFF;
    profile = &p->settings->profile[number];
    if (is_newcomer) {
        hash = mix(p);
        /* The bits that name no place in the greylist, else part of it would stay empty. */
        if (hash >> 48 < p->shed)
            refused = DROP_SHED;
    }
    if (!refused) {
        tell_time(p);
        if (!is_answered && !has_room(p, class, 0))
            refused = DROP_GLOBAL_INITIAL + class;
    }
    if (refused) {
        is_spared = is_validated(p);
        if (!is_spared)
            return is_newcomer && is_retransmission(p, profile, hash) ? PASS_RETRANSMISSION : refused;
        tell_time(p);
    }
    if (!charge_source(p, class, &profile->source[class]))
        refused = DROP_SOURCE_INITIAL + class;
    else if (!charge_prefix(p, class, &profile->prefix[class]))
        refused = DROP_PREFIX_INITIAL + class;
    else if (is_spared)
        return PASS_VALIDATED;
    else if (is_answered || has_room(p, class, 1))
        return PASS_INITIAL + class;
    else
        /* There was room, which another CPU has taken since. */
        return is_validated(p) ? PASS_VALIDATED : DROP_GLOBAL_INITIAL + class;
    /* Who sends in another's name uses up that one's budgets, but does not know what he will repeat. */
    return is_newcomer && is_retransmission(p, profile, hash) ? PASS_RETRANSMISSION : refused;
}

_Static_assert(PASS_INITIAL + CLASS_SYN == PASS_SYN && DROP_SOURCE_INITIAL + CLASS_SYN == DROP_SOURCE_SYN &&
                   DROP_PREFIX_INITIAL + CLASS_SYN == DROP_PREFIX_SYN &&
                   DROP_GLOBAL_INITIAL + CLASS_SYN == DROP_GLOBAL_SYN,
               "reasons of a scope stand in the order of classes");

/* Finds the settings that hold. PASS_NOT_OURS: they do. */
INLINE u32 consult(struct packet *p)
{
    u32 zero = 0, slot;
    u64 age_ns, heartbeat_ns;
    const struct control *c = map_lookup(&control, &zero);

    if (!c)
        return PASS_OFF;
    slot = c->slot & (SETTINGS_SLOTS - 1);
    p->shed = c->shed;
    heartbeat_ns = c->heartbeat_ns;
    p->settings = map_lookup(&settings, &slot);
    if (!p->settings || p->settings->abi != ABI_VERSION)
        return PASS_OFF;
    if (testing != TESTING_REPLAY)
        p->now_ns = monotonic_coarse_ns();
    age_ns = p->now_ns > heartbeat_ns ? p->now_ns - heartbeat_ns : heartbeat_ns - p->now_ns;
    return age_ns > p->settings->heartbeat_max_ns ? PASS_STALE : PASS_NOT_OURS;
}

INLINE const struct rule *find_rule(const struct packet *p)
{
    u32 flags = p->settings->flags;

    if (p->v6) {
        struct key_v6 key = { .bits = 128 };

        if (!(flags & FLAG_RULES_V6))
            return 0;
        __builtin_memcpy(key.address, p->address, 16);
        return map_lookup(&rules_v6, &key);
    } else {
        struct key_v4 key = { .bits = 32 };

        if (!(flags & FLAG_RULES_V4))
            return 0;
        __builtin_memcpy(key.address, &p->address[3], 4);
        return map_lookup(&rules_v4, &key);
    }
}

/* A random source in its place, an IPv4 address or a /64 below 2000::/3. */
INLINE void spoof(struct packet *p)
{
    u32 random = random_u32();

    if (p->v6) {
        p->source = 0x2000000000000000ULL | (u64)random << 16;
        p->prefix = p->source & (~0ULL << (64 - PREFIX_BITS_V6));
    } else {
        p->source = 0x0000ffff00000000ULL | random;
        p->prefix = p->source & (~0ULL << (32 - PREFIX_BITS_V4));
    }
}

INLINE u32 judge(struct xdp_md *ctx, struct packet *p)
{
    u8 *data, *end, *at;
    u32 reason, key, flags, profile = 0, ip_bytes, bytes;
    const u32 *entry;
    const struct rule *rule;

    if (!parse(ctx, p))
        return PASS_NOT_OURS;
    if (testing == TESTING_SPOOF)
        spoof(p);
    if (p->protocol == PROTOCOL_BEYOND) {
        reason = consult(p);
        if (reason != PASS_NOT_OURS)
            return reason;
        return p->settings->flags & FLAG_DROP_CHAIN ? DROP_CHAIN : PASS_CHAIN;
    }
    if (p->protocol != PROTOCOL_UDP && p->protocol != PROTOCOL_TCP)
        return PASS_NOT_OURS;

    data = (u8 *)(long)ctx->data;
    end = (u8 *)(long)ctx->data_end;
    /* Never more; said for the verifier. */
    if (p->offset > TRANSPORT_OFFSET_MAX)
        return PASS_NOT_OURS;
    at = data + p->offset;
    if (at + 4 > end)
        return PASS_NOT_OURS;
    p->source_port = be16(at);
    p->port = be16(at + 2);
    key = p->port;
    entry = map_lookup(&ports, &key);
    if (!entry)
        return PASS_NOT_OURS;
    flags = *entry;
    if (!(flags & (p->protocol == PROTOCOL_UDP ? PORT_UDP : PORT_TCP)))
        return PASS_NOT_OURS;

    reason = consult(p);
    if (reason != PASS_NOT_OURS)
        return reason;

    rule = find_rule(p);
    if (rule) {
        if (rule->action == RULE_ALLOW)
            return PASS_ALLOWED;
        if (rule->action == RULE_DENY)
            return DROP_DENIED;
        profile = rule->profile < PROFILES ? rule->profile : 0;
    }
    if (p->fragment)
        return DROP_FRAGMENT;

    ip_bytes = p->ip_end > p->offset ? p->ip_end - p->offset : 0;
    if (p->protocol == PROTOCOL_TCP) {
        if (ip_bytes < TCP_BYTES || at + TCP_BYTES > end)
            return DROP_TRUNCATED;
        /* SYN without ACK. */
        if ((at[13] & 0x12) != 0x02)
            return PASS_TCP;
        reason = IS_CLASS | CLASS_SYN;
    } else {
        if (ip_bytes < UDP_BYTES || at + UDP_BYTES > end)
            return DROP_TRUNCATED;
        bytes = be16(at + 4);
        if (bytes < UDP_BYTES || bytes > ip_bytes || p->offset + bytes > p->frame_bytes)
            return DROP_TRUNCATED;
        reason = classify(p, flags, at + UDP_BYTES, end, bytes - UDP_BYTES);
    }
    if (!(reason & IS_CLASS))
        return reason;
    return ration(p, reason, profile);
}

/* Tells the operator of one packet of many. */
NOINLINE int report(const struct packet *p, u32 reason, u32 spared)
{
    struct event *event = ring_reserve(&events, sizeof(*event), 0);

    if (!event) {
        u32 key = REASONS;
        struct counter *lost = map_lookup(&counters, &key);

        if (lost)
            lost->packets++;
        return 0;
    }
    event->at_ns = p->now_ns;
    event->reason = reason;
    event->frame_bytes = p->frame_bytes;
    __builtin_memcpy(event->source, p->address, 16);
    event->source_port = p->source_port;
    event->port = p->port;
    event->protocol = p->protocol == PROTOCOL_BEYOND ? 0 : p->protocol;
    event->spared = spared;
    event->unused[0] = 0;
    event->unused[1] = 0;
    ring_submit(event, 0);
    return 0;
}

SEC("xdp")
int stoq_xdp(struct xdp_md *ctx)
{
    struct packet p = {};
    struct counter *counter;
    u32 reason, spared;
    u64 before;

    if (testing == TESTING_REPLAY) {
        struct testing *in = (struct testing *)(long)ctx->data_meta;

        if ((void *)(in + 1) > (void *)(long)ctx->data)
            return XDP_ABORTED;
        p.now_ns = in->now_ns;
    }

    reason = judge(ctx, &p);

    if (testing == TESTING_REPLAY) {
        struct testing *out = (struct testing *)(long)ctx->data_meta;

        if ((void *)(out + 1) > (void *)(long)ctx->data)
            return XDP_ABORTED;
        out->reason = reason;
    }
    spared = reason >= DROP_FIRST && p.settings && p.settings->flags & FLAG_DRY_RUN;
    counter = map_lookup(&counters, &reason);
    if (counter) {
        before = counter->packets;
        counter->packets = before + 1;
        counter->bytes += p.frame_bytes;
        if (spared) {
            counter->spared_packets++;
            counter->spared_bytes += p.frame_bytes;
        }
        if (reason >= DROP_FIRST && p.settings && ((u32)before & p.settings->event_mask) == 0)
            report(&p, reason, spared);
    }
    return reason >= DROP_FIRST && !spared ? XDP_DROP : XDP_PASS;
}

/* No helper above asks for more. */
const char program_license[] SEC("license") = "MIT";
