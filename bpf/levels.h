/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Which target something belongs to: the innermost cgroup, of those it is in, that the daemon knows. Asked for the
 * process that runs, or for the socket of a frame, at those levels alone at which there are targets.
 */
#ifndef SLUICE_LEVELS_H
#define SLUICE_LEVELS_H

#include "maps.h"

/* The id of the cgroup that is so far below the root; 0 if what is asked about is not as deep. */
typedef __u64 (*ancestor_at)(void *ctx, __u32 level);

static __always_inline __u64 process_ancestor(void *ctx, __u32 level)
{
	(void)ctx;
	return bpf_get_current_ancestor_cgroup_id(level);
}

static __always_inline __u64 frame_ancestor(void *ctx, __u32 level)
{
	return bpf_skb_ancestor_cgroup_id(ctx, level);
}

/* What a map has for the innermost cgroup that is in it, NULL if none is. */
static __always_inline void *find_innermost(void *by_cgroup, ancestor_at ancestor, void *ctx)
{
	struct level_set *in_use;
	__u32 first = 0, level;
	void *found;
	__u64 id;
	int i;

	in_use = bpf_map_lookup_elem(&levels, &first);
	if (!in_use)
		return NULL;
	for (i = 0; i < MAX_LEVELS; i++) {
		level = in_use->level[i];
		if (!level)
			return NULL;
		id = ancestor(ctx, level);
		found = id ? bpf_map_lookup_elem(by_cgroup, &id) : NULL;
		if (found)
			return found;
	}
	return NULL;
}

#endif
