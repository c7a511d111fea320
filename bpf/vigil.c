//go:build ignore
/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The vigil: attached above the cgroup of a target, it refuses bound ports to a
 * cgroup that stands in the target's place without carrying the redirect: one that
 * was made again while no daemon ran, or a moment before the daemon came to it.
 * What has the redirect is sent to loopback before this is asked. Whoever stands
 * elsewhere is not concerned.
 */
#include "loopback.h"

char __license[] SEC("license") = "Dual MIT/GPL";

/* Set by the loader. Without the helper (before Linux 5.18) a refusal is EPERM. */
const volatile __u8 have_set_retval = 0;

#define REFUSE 0
#define ALLOW 1

/* A target may be this far above the process that connects. */
#define MAX_DEPTH 8

/* Of the kernel's structures only what is followed; the loader finds the offsets (CO-RE, needs the kernel's BTF). */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct kernfs_node {
	const char *name;
	__u64 id;
};

struct cgroup_subsys_state {
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self; /* first in every kernel: a cgroup's address is its own state's */
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	struct css_set *cgroups;
};
#pragma clang attribute pop

/* Where a target's cgroup is made. */
struct place {
	__u64 parent;	/* its parent's id */
	char name[128]; /* with zeros up to the end */
};

/* bound TCP port -> 1: the redirect's own map. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u16);
	__type(value, __u8);
} ports SEC(".maps");

/* place -> 1. Written and deleted by the daemon. No entry: not concerned. Full: the daemon says so. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct place);
	__type(value, __u8);
} places SEC(".maps");

/* refusals. Written here, read by the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} refused SEC(".maps");

#define FOLLOW(into, from) bpf_probe_read_kernel(&(into), sizeof(into), &(from))

/* Whether the process is in a cgroup at one of the places, or below one. */
static __always_inline int in_place(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct css_set *set = NULL;
	struct cgroup *group = NULL, *parent = NULL;
	struct kernfs_node *node = NULL, *above = NULL;
	const char *name = NULL;
	struct place place;
	int i;

	if (FOLLOW(set, task->cgroups) || FOLLOW(group, set->dfl_cgrp) || FOLLOW(node, group->kn))
		return 0;
	for (i = 0; i < MAX_DEPTH; i++) {
		if (FOLLOW(parent, group->self.parent) || !parent)
			return 0;
		if (FOLLOW(above, parent->kn) || FOLLOW(name, node->name))
			return 0;
		__builtin_memset(&place, 0, sizeof(place));
		if (FOLLOW(place.parent, above->id))
			return 0;
		if (bpf_probe_read_kernel_str(place.name, sizeof(place.name), name) > 0 &&
		    bpf_map_lookup_elem(&places, &place))
			return 1;
		group = parent;
		node = above;
	}
	return 0;
}

static __always_inline int judge(__u32 user_port)
{
	__u16 port = ntohs((__u16)user_port);
	__u32 first = 0;
	__u64 *count;

	if (!bpf_map_lookup_elem(&ports, &port) || !in_place())
		return ALLOW;
	/* The redirect has refused it, as it does UDP, and its error stays. */
	if (have_set_retval && bpf_get_retval())
		return ALLOW;
	count = bpf_map_lookup_elem(&refused, &first);
	if (count)
		__sync_fetch_and_add(count, 1);
	if (have_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

static __always_inline int judge6(struct bpf_sock_addr *ctx)
{
	struct address dst;

	dst.word[0] = ctx->user_ip6[0];
	dst.word[1] = ctx->user_ip6[1];
	dst.word[2] = ctx->user_ip6[2];
	dst.word[3] = ctx->user_ip6[3];
	return is_loopback6(&dst) ? ALLOW : judge(ctx->user_port);
}

SEC("cgroup/connect4")
int vigil_connect4(struct bpf_sock_addr *ctx)
{
	return is_loopback4(ctx->user_ip4) ? ALLOW : judge(ctx->user_port);
}

SEC("cgroup/connect6")
int vigil_connect6(struct bpf_sock_addr *ctx)
{
	return judge6(ctx);
}

SEC("cgroup/sendmsg4")
int vigil_sendmsg4(struct bpf_sock_addr *ctx)
{
	return is_loopback4(ctx->user_ip4) ? ALLOW : judge(ctx->user_port);
}

SEC("cgroup/sendmsg6")
int vigil_sendmsg6(struct bpf_sock_addr *ctx)
{
	return judge6(ctx);
}
