/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * How maps are declared: section .maps, where the loader reads kinds and sizes from the types.
 */
#ifndef STOQ_MAP_H
#define STOQ_MAP_H

#include "kernel.h"

#define MAP_UINT(name, value) int(*name)[value]

#define MAP_WITH_FLAGS(name_, kind, entries, key_type, value_type, flags)                          \
    struct {                                                                                       \
        MAP_UINT(type, kind);                                                                      \
        MAP_UINT(max_entries, entries);                                                            \
        MAP_UINT(map_flags, flags);                                                                \
        key_type *key;                                                                             \
        value_type *value;                                                                         \
    } name_ SEC(".maps")

#define MAP(name_, kind, entries, key_type, value_type)                                            \
    MAP_WITH_FLAGS(name_, kind, entries, key_type, value_type, 0)

#define RING(name_, bytes)                                                                         \
    struct {                                                                                       \
        MAP_UINT(type, BPF_MAP_TYPE_RINGBUF);                                                      \
        MAP_UINT(max_entries, bytes);                                                              \
    } name_ SEC(".maps")

#endif
