//go:build ignore
/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Refuses what no other hook is asked about: sockets of the families that carry TCP
 * or whole frames past every other hook, since sock_create is asked about AF_INET
 * and AF_INET6 alone, and options of sockets in a 32-bit program's calls. Needs LSM
 * programs on cgroups (Linux 6.0) and "bpf" among the kernel's security modules;
 * without, there are no such hooks.
 */
#include "redirect.h"

char __license[] SEC("license") = "Dual MIT/GPL";

#define REFUSE 0
#define ALLOW 1

/* include/linux/socket.h */
#define AF_RDS 21
#define AF_TIPC 30
#define AF_SMC 43
#define AF_XDP 44
#define EPERM 1
#define EAFNOSUPPORT 97

/* verdicts by enum counter: the redirect's own map. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_MAX);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline int refuse(enum counter which, int error)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		__sync_fetch_and_add(value, 1);
	bpf_set_retval(-error);
	return REFUSE;
}

/* security_socket_create(int family, int type, int protocol, int kern) */
SEC("lsm_cgroup/socket_create")
int sluice_families(__u64 *arguments)
{
	int family = (int)arguments[0], kernel = (int)arguments[3];

	/* What the kernel makes for itself is not the agent's. */
	if (kernel || (family != AF_RDS && family != AF_TIPC && family != AF_SMC && family != AF_XDP))
		return ALLOW;
	return refuse(COUNTER_REFUSED_PROTOCOL, EAFNOSUPPORT);
}

/*
 * security_socket_setsockopt(struct socket *sock, int level, int optname). What the hook
 * cgroup/setsockopt refuses, which a 32-bit program's call does not come to.
 */
SEC("lsm_cgroup/socket_setsockopt")
int sluice_options(__u64 *arguments)
{
	int level = (int)arguments[1], option = (int)arguments[2];

	if ((level == SOL_PACKET && option == PACKET_QDISC_BYPASS) || level == SOL_XDP)
		return refuse(COUNTER_REFUSED_BYPASS, EPERM);
	return ALLOW;
}
