/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The flows map, and what share of it each target has: a place is asked for while the connect can be refused, taken
 * when the source port is known, and given back when the socket is closed. The daemon takes what is accepted.
 */
#ifndef SLUICE_SHARES_H
#define SLUICE_SHARES_H

#include "levels.h"

/* Set by the loader: so many flows may wait to be taken. */
const volatile __u32 max_flows = 0;

/*
 * cgroup id -> its share of flows, for each target. Written and deleted by the daemon as guarded is, and as
 * large. No entry: share 0. Full: attaching fails.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SHARES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} shares SEC(".maps");

/* Which share of flows the process that connects has: that of the innermost target it is in. */
static __always_inline __u32 find_share(void)
{
	__u32 *share = find_innermost(&shares, process_ancestor, NULL);

	return share ? *share : 0;
}

static __always_inline struct flow_tally *get_tally(__u32 of)
{
	return bpf_map_lookup_elem(&tally, &of);
}

static __always_inline __s64 waiting(const struct flow_tally *t)
{
	return t->published - t->closed - t->taken;
}

static __always_inline __s64 room(const struct flow_tally *all)
{
	return (__s64)max_flows - waiting(all);
}

/* The room without what is kept for those who have few. */
static __always_inline __s64 spare_room(const struct flow_tally *all)
{
	return room(all) - max_flows / KEPT_PART;
}

/*
 * A share may have the least that each may have, which adds up to what is kept for that; beyond it as many flows as
 * there is spare room for more, so that one alone comes to a third of the map. So whoever has few finds room, however
 * many others have as many as they can. 0 if there is room, else the counter of the refusal.
 */
static __always_inline int find_room(__u32 share)
{
	struct flow_tally *all = get_tally(TALLY_ALL), *own = get_tally(share);

	if (!all || !own || room(all) <= 0)
		return COUNTER_REFUSED_FLOWS_FULL;
	if (waiting(own) < (__s64)all->least || waiting(own) < spare_room(all))
		return 0;
	__sync_fetch_and_add(&own->refused, 1);
	return COUNTER_REFUSED_SHARE_FULL;
}

/*
 * Whether a flow may still be published whose connect was let through: of those that asked at the same time all may,
 * within a quarter of the spare room; of many that were put off until now (TCP_FASTOPEN_CONNECT) not.
 */
static __always_inline int has_place(const struct flow_tally *all, const struct flow_tally *own)
{
	__s64 spare = spare_room(all);

	if (room(all) <= 0)
		return 0;
	return waiting(own) < (__s64)all->least || waiting(own) < spare + (spare >> 2);
}

/* Deletes a flow, which is the share's. */
static __always_inline void drop(const struct flow_key *key, __u32 share)
{
	struct flow_tally *all = get_tally(TALLY_ALL), *own = get_tally(share);

	if (bpf_map_delete_elem(&flows, key) || !all || !own)
		return;
	__sync_fetch_and_add(&all->closed, 1);
	__sync_fetch_and_add(&own->closed, 1);
}

/* Deletes what nobody took when the port was another socket's, in whoever's share. */
static __always_inline void drop_older(const struct flow_key *key)
{
	struct flow *older = bpf_map_lookup_elem(&flows, key);

	if (older)
		drop(key, older->share);
}

/* Puts a flow where the listener finds it. 0, or else there is none: not an older one of the same port either. */
static __always_inline int insert(const struct flow_key *key, const struct flow *flow)
{
	struct flow_tally *all = get_tally(TALLY_ALL), *own = get_tally(flow->share);
	int error; /* of a long: before Linux 6.4 its upper half says nothing */

	if (!all || !own)
		return -ENOSPC;
	error = has_place(all, own) ? bpf_map_update_elem(&flows, key, flow, BPF_NOEXIST) : -ENOSPC;
	if (error) {
		drop_older(key); /* the listener would take it for this connection's */
		if (error == -EEXIST)
			error = bpf_map_update_elem(&flows, key, flow, BPF_NOEXIST);
	}
	if (error)
		return error;
	__sync_fetch_and_add(&all->published, 1);
	__sync_fetch_and_add(&own->published, 1);
	return 0;
}

#endif
