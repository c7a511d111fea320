/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the kernel side and the Go side share; bpf2go makes the Go types from it. */
#ifndef SLUICE_REDIRECT_H
#define SLUICE_REDIRECT_H

#include "headers/kernel.h"

/* Raised whenever a structure below changes: pins of another schema are not adopted. */
#define SCHEMA 4

/*
 * An address is 16 bytes in network order; IPv4 is v4-mapped (::ffff:a.b.c.d), so
 * that one key fits a client whether it used an AF_INET or an AF_INET6 socket.
 */
struct address {
	__u32 word[4];
};

/* A redirected connection as the accepting listener sees it. */
struct flow_key {
	__u64 netns;	     /* cookie of the network namespace */
	struct address peer; /* the client's address */
	__u16 peer_port;     /* host byte order */
	__u16 listener_port; /* host byte order */
	__u32 reserved;	     /* zero: keys are compared as bytes */
};

/* Where that connection was going, and whose it is. */
struct flow {
	struct address dst;
	__u64 cgroup; /* id of the cgroup of the task that called connect */
	__u64 time;   /* CLOCK_MONOTONIC, nanoseconds */
	__u32 pid;
	__u16 dst_port; /* host byte order */
	__u16 share;	/* that it is counted in */
};

/* As many shares as there may be targets, besides that of connects whose process is in none. */
#define MAX_SHARES 4096

/* Where all flows are counted; those of share n are in the place n. */
#define TALLY_ALL (MAX_SHARES + 1)
#define TALLY_SIZE (TALLY_ALL + 1)

/* One part in so many of the flows map is for those who have few in it. */
#define KEPT_PART 3

/*
 * What went into the flows map and out of it; the rest waits there. Each side adds to its own part, so that
 * nobody has to wait for another, nor count what is in the map.
 */
struct flow_tally {
	__u64 published; /* by the programs */
	__u64 closed;	 /* deleted by the programs */
	__u64 taken;	 /* deleted by the daemon */
	__u64 refused;	 /* connects, because the share was used up */
	__u64 least;	 /* in the place of all: so many may wait of each share, whatever waits of others */
};

/* Kept on the socket itself, from connect until the socket is freed. */
struct orig_dst {
	struct flow flow;
	struct flow_key key; /* peer and peer_port are known once published */
	__u32 published;     /* 1: key is in the flows map, as far as this side knows */
	__u32 reserved;
};

/* Listener ports of a namespace, host byte order; 0: there is none. */
struct listener {
	__u16 port4;   /* on 127.0.0.1 */
	__u16 port6;   /* on ::1 */
	__u32 no_way6; /* 1: the namespace has no way to the addresses of IPv6's internet */
};

/* A process of an attached cgroup uses a namespace that has no listener, or no way by IPv6. */
struct event {
	__u64 netns;
	__u64 cgroup;
	__u32 pid;
	__u32 reserved;
};

/* So many different depths of targets' cgroups. */
#define MAX_LEVELS 16

/* The levels of guarded cgroups; 0 ends the list. */
struct level_set {
	__u32 level[MAX_LEVELS];
};

/* One per verdict. Names on the Go side come from this list. */
enum counter {
	COUNTER_REDIRECTED,
	COUNTER_PUBLISHED,
	COUNTER_REFUSED_NO_LISTENER,
	COUNTER_REFUSED_FLOWS_FULL,
	COUNTER_REFUSED_NO_STORAGE,
	COUNTER_REFUSED_UDP,
	COUNTER_REFUSED_MPTCP,
	COUNTER_REFUSED_PROTOCOL,
	COUNTER_REFUSED_BIND,
	COUNTER_LOST_PUBLISH,
	COUNTER_LOST_EVENT,
	COUNTER_REFUSED_BYPASS,
	COUNTER_DROPPED_TCP, /* these four, and the four after them, are in the order of enum verdict */
	COUNTER_DROPPED_UDP,
	COUNTER_DROPPED_PROTOCOL,
	COUNTER_DROPPED_UNREADABLE,
	COUNTER_DROPPED_LINK_TCP,
	COUNTER_DROPPED_LINK_UDP,
	COUNTER_DROPPED_LINK_PROTOCOL,
	COUNTER_DROPPED_LINK_UNREADABLE,
	COUNTER_REFUSED_SHARE_FULL,
	COUNTER_REFUSED_NO_WAY6,
	COUNTER_MAX,
};

#endif
