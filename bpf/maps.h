/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Each map but shares (shares.h): who writes an entry, who deletes it, and what happens when the map is full. */
#ifndef SLUICE_MAPS_H
#define SLUICE_MAPS_H

#include "redirect.h"

/*
 * socket -> where it was going. Written by connect4/6, read by getpeername and
 * sock_ops, freed by the kernel with the socket. It cannot fill up.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct orig_dst);
} orig_dsts SEC(".maps");

/*
 * redirected connection -> original destination. Written in sock_ops before the SYN
 * leaves; deleted by the daemon on accept, by sock_ops when the socket closes first,
 * by the daemon's sweep after that, or when the target is detached. Full, by the tally, or the
 * target's share used up: the connect is refused. Never an LRU: an evicted flow would be a
 * connection without a destination. The size is set by the loader.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

/* share, or TALLY_ALL -> what went into flows and out. The daemon has it in its own memory. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TALLY_SIZE);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_tally);
} tally SEC(".maps");

/* network namespace cookie -> listener. Written and deleted by the daemon. No entry: refused. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct listener);
} listeners SEC(".maps");

/* bound TCP port, host byte order -> 1. Written and deleted by the daemon. No entry: untouched. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u16);
	__type(value, __u8);
} ports SEC(".maps");

/*
 * cgroup id -> its level, for each target. Written by the daemon when it attaches, deleted when it
 * detaches; read by the guard. Full: attaching fails.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32); /* its level: how far below the root it is */
} guarded SEC(".maps");

/* 0 -> at which levels there are guarded cgroups, the deepest first. Written by the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct level_set);
} levels SEC(".maps");

/*
 * cookie of a socket -> 1, for each connection that is older than an attach and was
 * to be kept. Written by the daemon, deleted when it is gone. Full: closed instead.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8);
} kept SEC(".maps");

/* verdicts by enum counter. Written here, read by the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_MAX);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

/* namespaces without a listener, told to the daemon. Full: counted and dropped, never waited for. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

/* namespace cookie -> when it was last told, so that one namespace cannot flood the ring. An LRU may forget. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u64);
} told SEC(".maps");

#endif
