/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What the programs and their loader agree on: map names, layouts, constants, reasons.
 *
 * src/abi.rs says the same in Rust, and a test there reads this file: each `#define` and each reason must be equal
 * on both sides, each size is asserted on both sides. Whoever changes a layout or a meaning raises ABI_VERSION: a
 * program passes everything while the settings it is given carry another version.
 *
 * All integers are in the machine's order unless said otherwise. Times are CLOCK_MONOTONIC, nanoseconds.
 */
#ifndef STOQ_ABI_H
#define STOQ_ABI_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define ABI_VERSION 4

/* Bounds of the maps. Each is the memory it costs and what happens at it. */

/* Two slots, so that a new block is written whole before any packet is judged by it. */
#define SETTINGS_SLOTS 2
/* Indexed by destination port; 512 KiB. */
#define PORTS_MAX 65536
/* Rules of a family; 64 B each or so, allocated as they come. */
#define RULES_MAX 65536
/* Sources that completed a handshake, preallocated, 64 B each: 4 MiB. Full: a newcomer is not entered. */
#define VALIDATED_MAX 65536
/* Bits of the filter before them, 128 KiB, which stays in a CPU's cache while the table does not. Full, one stranger in sixteen
 * is looked up in vain. */
#define FILTER_BITS_LOG 20
/* Cells of one row of one class. 6 classes x 2 rows x 8 B: 12 MiB for sources. At 200,000 spoofed sources a second a
 * cell gets 1.5 packets a second, far from any budget that lets a real client live. */
#define SOURCE_CELLS 131072
/* As above for prefixes, of 5 classes: 2.5 MiB. */
#define PREFIX_CELLS 32768
/* Rows of a sketch. A packet is over budget only where both of its cells are. */
#define SKETCH_ROWS 2
/* 4 bytes each, 4 MiB, in rows of which the oldest cell is the next to be written. At 200,000 spoofed Initials a second 99 % of
 * the entries live through the second until a client repeats, and 93 % through the two until it does so again; in rows of one it
 * would be 83 and 68 %. */
#define GREYLIST_CELLS 1048576
#define GREYLIST_WAYS 4
/* Bytes of the ring of events; about 4,000 events wait, then they are lost and counted. */
#define EVENTS_BYTES 262144

/* struct settings.flags */
#define FLAG_DRY_RUN 1      /* judge and count, drop nothing */
#define FLAG_CHECK_CID 2    /* connection IDs at PORT_KEYED ports must carry a tag of ours */
#define FLAG_FIXED_BIT 4    /* drop where the fixed bit is 0: only if no endpoint of ours offers to grease it */
#define FLAG_RULES_V4 8     /* rules_v4 is not empty; without the flag it is not looked at */
#define FLAG_RULES_V6 16    /* rules_v6 likewise */
#define FLAG_DROP_CHAIN 32  /* drop IPv6 whose port lies behind more than EXTENSIONS_MAX headers */

/* Values of `ports`; 0: not ours, passes. */
#define PORT_UDP 1   /* QUIC */
#define PORT_TCP 2   /* TLS and HTTP over TCP */
#define PORT_PEERS 4 /* we dial from this UDP port too: packets of servers come here, rules for clients do not hold */
#define PORT_KEYED 8 /* connection IDs on this UDP port are the keyed ones, 12 bytes; clients are offered no 0-RTT, and sent no token but by Retry */

/* struct rule.action */
#define RULE_PROFILE 0 /* judged by the budgets of rule.profile */
#define RULE_ALLOW 1   /* passes, always */
#define RULE_DENY 2    /* dropped */

/* Classes of packets, each with budgets of its own. */
#define CLASS_INITIAL 0 /* Initial of a newcomer, or of a spoofer */
#define CLASS_TOKEN 1   /* Initial with a token, at a port where it cannot be told from an ID whether we sent it */
#define CLASS_LONG 2    /* any other long header, and an Initial that carries an ID of ours; with such an ID not held to the budget of all */
#define CLASS_SHORT 3
#define CLASS_SYN 4
#define CLASSES 5
/* What the greylist lets through, of a source and of all. */
#define CLASS_RETRANSMISSION 5
#define GLOBALS 6

/* Budgets to choose from by rule; 0 is for those whom no rule names. */
#define PROFILES 4

/* Generations of connection-ID keys: two bits of an ID's first byte. */
#define GENERATIONS 4
/* QUIC versions the server speaks. */
#define VERSIONS 4

/* Prefixes that share a budget: what a small network is commonly given. Sources: an address of IPv4, a /64 of IPv6. */
#define PREFIX_BITS_V4 24
#define PREFIX_BITS_V6 48

/* Two VLAN tags: a customer's inside a provider's. Deeper ones are not ours. */
#define VLANS_MAX 2
/* RFC 8200, section 4.1 lists seven extension headers, of which one may come twice: no honest chain is longer. */
#define EXTENSIONS_MAX 8

/* RFC 9000, section 14.1: the least a client's datagram with an Initial carries. */
#define INITIAL_BYTES_MIN 1200
/* RFC 9000, section 17.2: the longest connection ID of version 1. */
#define CID_BYTES_MAX 20
/* RFC 9000, section 7.2: the shortest ID a client may make up for us. */
#define CID_BYTES_MIN 8
/* The IDs that our endpoints issue: 8 bytes that the tag covers, 4 of tag. */
#define CID_BYTES 12
/* RFC 9001, section 5.4.2: flags 1, our ID 12, packet number 4 at most, sample 16; shorter cannot be unprotected. */
#define SHORT_BYTES_MIN 33
/* The same at a port whose IDs are not keyed and may be empty, and RFC 9000, section 10.3: the shortest reset. */
#define SHORT_ANY_BYTES_MIN 21

/* A client that heard nothing repeats its Initial after a second or less (RFC 9002, section 6.2.2); a spoofer does not. Time
 * is counted in units of 2^25 ns, which are 34 ms: 0.2 s to 4 s. */
#define GREYLIST_SHIFT 25
#define GREYLIST_UNITS_MIN 6
#define GREYLIST_UNITS_MAX 119
/* Low bits of a cell that hold the time: it comes round after 137 s. The others hold what is left of the hash. */
#define GREYLIST_TIME_BITS 12

/* Sockets of one process in a group: six bits of an ID's first byte. */
#define WORKERS_MAX 64
/* Slots of `sockets`: a process's sockets stand at base .. base + workers. */
#define SOCKETS_MAX 256

/* How often a budget of GCRA. `interval_ns` 0: none. A packet is over budget if it would bring the theoretical arrival
 * time further than `burst_ns` past now, so `burst_ns` = packets at once x `interval_ns`; less than one interval
 * refuses all. */
struct budget {
    u64 interval_ns;
    u64 burst_ns;
};

struct profile {
    struct budget source[GLOBALS];
    struct budget prefix[CLASSES];
};

/* Map `settings`, array of SETTINGS_SLOTS. */
struct settings {
    u32 abi; /* ABI_VERSION, else everything passes */
    u32 flags;
    u64 heartbeat_max_ns; /* control.heartbeat_ns older than this: everything passes */
    u64 hash_key[2];      /* secret: places in sketches and greylist, and who is shed */
    u64 cid_key[GENERATIONS][2]; /* 16 bytes of key as two little-endian halves */
    u32 cid_generations;         /* bit g: cid_key[g] is good */
    u32 event_mask;              /* of drops: an event where a CPU's count of the reason before & mask is 0 */
    u32 versions[VERSIONS];      /* 0: unused */
    struct profile profile[PROFILES];
    struct budget global[GLOBALS];
};
_Static_assert(sizeof(struct settings) == 920, "settings");

/* Map `control`, array of 1: what changes ten times a second. */
struct control {
    u64 heartbeat_ns; /* when the owner last lived */
    u32 slot;         /* which settings hold */
    u32 shed;         /* of 65536 packets of CLASS_INITIAL this many are shed; 65536: all */
};
_Static_assert(sizeof(struct control) == 16, "control");

/* Maps `rules_v4`, `rules_v6`: longest-prefix tries. Address in network order. */
struct key_v4 {
    u32 bits;
    u8 address[4];
};
struct key_v6 {
    u32 bits;
    u8 address[16];
};
struct rule {
    u32 action;
    u32 profile; /* below PROFILES; beyond it counts as 0 */
};
_Static_assert(sizeof(struct key_v4) == 8 && sizeof(struct key_v6) == 20 && sizeof(struct rule) == 8, "rules");

/* Map `validated`, hash of VALIDATED_MAX: source -> when it ends to count, u64 ns. A source is a u64: 0x0000ffff in the
 * high half and the IPv4 address in the low one, or the first half of the IPv6 address (0000::/8 is nobody's). */

/* Map `filter`, array of u64, 2^FILTER_BITS_LOG bits: one is set where a source of `validated` has its place, which is the
 * highest bits of source x FILTER_FACTOR. Set after the entry is there, cleared after the last of them is gone. Not keyed:
 * who aims at a bit wins the look-up that there would be without the filter. */
#define FILTER_FACTOR 0x9e3779b97f4a7c15

/* Map `counters`, per-CPU array: by reason, and REASONS for events that found the ring full. */
struct counter {
    u64 packets;
    u64 bytes;
    u64 spared_packets; /* of those: to be dropped, but passed, for this is a dry run */
    u64 spared_bytes;
};
_Static_assert(sizeof(struct counter) == 32, "counter");

/* Map `events`, ring buffer. */
struct event {
    u64 at_ns;
    u32 reason;
    u32 frame_bytes;
    u8 source[16]; /* IPv4 as ::ffff:a.b.c.d */
    u16 source_port;
    u16 port; /* of ours */
    u8 protocol; /* 6 or 17 */
    u8 spared;   /* dry run */
    u8 unused[2];
};
_Static_assert(sizeof(struct event) == 40, "event");

/* Maps `sources`, `prefixes`: arrays of u64, (class * SKETCH_ROWS + row) * cells + place. `globals`: GLOBALS of u64.
 * `greylist`: array of GREYLIST_CELLS / GREYLIST_WAYS rows of u32: bits 28 to 47 of a hash, then the time; 0: empty. `ports`: array of PORTS_MAX u32. */

/* Why a packet passed or was dropped; the verdict follows from the reason. X(name, number) */
#define REASON_LIST(X)                                                                             \
    X(PASS_NOT_OURS, 0)                                                                            \
    X(PASS_OFF, 1)                                                                                 \
    X(PASS_STALE, 2)                                                                               \
    X(PASS_CHAIN, 3)                                                                               \
    X(PASS_ALLOWED, 4)                                                                             \
    X(PASS_TCP, 5)                                                                                 \
    X(PASS_INITIAL, 6)                                                                             \
    X(PASS_TOKEN, 7)                                                                               \
    X(PASS_LONG, 8)                                                                                \
    X(PASS_SHORT, 9)                                                                               \
    X(PASS_SYN, 10)                                                                                \
    X(PASS_VALIDATED, 11)                                                                          \
    X(PASS_RETRANSMISSION, 12)                                                                     \
    X(DROP_DENIED, 13)                                                                             \
    X(DROP_FRAGMENT, 14)                                                                           \
    X(DROP_CHAIN, 15)                                                                              \
    X(DROP_TRUNCATED, 16)                                                                          \
    X(DROP_EMPTY, 17)                                                                              \
    X(DROP_FIXED_BIT, 18)                                                                          \
    X(DROP_LONG_TRUNCATED, 19)                                                                     \
    X(DROP_VERSION_ZERO, 20)                                                                       \
    X(DROP_CID_LONG, 21)                                                                           \
    X(DROP_VERSION_SMALL, 22)                                                                      \
    X(DROP_CID_SHORT, 23)                                                                          \
    X(DROP_INITIAL_SMALL, 24)                                                                      \
    X(DROP_RETRY, 25)                                                                              \
    X(DROP_SHORT_SMALL, 26)                                                                        \
    X(DROP_CID_TAG, 27)                                                                            \
    X(DROP_SHED, 28)                                                                               \
    X(DROP_SOURCE_INITIAL, 29)                                                                     \
    X(DROP_SOURCE_TOKEN, 30)                                                                       \
    X(DROP_SOURCE_LONG, 31)                                                                        \
    X(DROP_SOURCE_SHORT, 32)                                                                       \
    X(DROP_SOURCE_SYN, 33)                                                                         \
    X(DROP_PREFIX_INITIAL, 34)                                                                     \
    X(DROP_PREFIX_TOKEN, 35)                                                                       \
    X(DROP_PREFIX_LONG, 36)                                                                        \
    X(DROP_PREFIX_SHORT, 37)                                                                       \
    X(DROP_PREFIX_SYN, 38)                                                                         \
    X(DROP_GLOBAL_INITIAL, 39)                                                                     \
    X(DROP_GLOBAL_TOKEN, 40)                                                                       \
    X(DROP_GLOBAL_LONG, 41)                                                                        \
    X(DROP_GLOBAL_SHORT, 42)                                                                       \
    X(DROP_GLOBAL_SYN, 43)

enum reason {
#define X(name, number) name = number,
    REASON_LIST(X)
#undef X
};
#define REASONS 44
#define DROP_FIRST 13

/* Map `steering`, array of 1, of the socket selector. A generation of ID keys belongs to the sockets of one process. */
struct route {
    u32 base;    /* first slot of `sockets` */
    u32 workers; /* 0: nobody has this generation */
};
struct steering {
    u32 abi;     /* ABI_VERSION, else the kernel's own hash decides */
    u32 current; /* generation whose sockets get newcomers */
    struct route route[GENERATIONS];
    u64 cid_key[GENERATIONS][2];
};
_Static_assert(sizeof(struct steering) == 104, "steering");
/* Map `sockets`, array of sockets, SOCKETS_MAX. Map `steered`, per-CPU array of u64 counters, by enum steer. */
enum steer {
    STEER_BY_ID = 0,   /* the worker that its connection ID names */
    STEER_BY_HASH = 1, /* a newcomer, by the hash of its addresses */
    STEER_ORPHAN = 2,  /* names a socket that is gone: as a newcomer */
    STEER_KERNEL = 3,  /* no settings, or no socket: the kernel chose */
};
#define STEERS 4

/* Values of the variable `testing` in .rodata; 0: none. */
#define TESTING_REPLAY 1 /* struct testing stands in front of the frame as metadata */
#define TESTING_SPOOF 2  /* a random source instead of the frame's, to measure what distinct sources cost */

struct testing {
    u64 now_ns; /* in: the clock */
    u32 reason; /* out */
    u32 unused;
};
_Static_assert(sizeof(struct testing) == 16, "testing");

#endif
