//go:build ignore
/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The redirect: an attached cgroup's TCP connects to bound ports go to the
 * daemon's listener in the same network namespace, and where they were going is
 * handed over before the SYN leaves. Whatever cannot be redirected is refused.
 */
#include "packet.h"
#include "shares.h"

char __license[] SEC("license") = "Dual MIT/GPL";

/* Only so that the type is in the debug information, from which the Go type is made. */
const struct event *const volatile event_type = NULL;

/* Set by the loader. Without the helper (before Linux 5.18) a refusal is EPERM. */
const volatile __u8 have_set_retval = 0;

/* Set by the loader: sockets are refused that are not on the list, and not only those that nobody could judge. */
const volatile __u8 strict = 0;

#define REFUSE 0
#define ALLOW 1
#define NSEC_PER_SEC 1000000000ULL

static __always_inline void count(enum counter which)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		__sync_fetch_and_add(value, 1); /* per CPU, but another task may come in between */
}

static __always_inline int refuse(enum counter which, int error)
{
	count(which);
	if (have_set_retval)
		bpf_set_retval(-error);
	return REFUSE;
}

static __always_inline int is_bound(__u32 user_port)
{
	__u16 port = ntohs((__u16)user_port);

	return bpf_map_lookup_elem(&ports, &port) != NULL;
}

static __always_inline void map4(struct address *a, __u32 ip)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = htonl(0xffff);
	a->word[3] = ip;
}

/* Tells the daemon, about once a second, of a namespace that it does not listen in, or that it has to look at again. */
static __always_inline void tell(__u64 netns)
{
	__u64 now = bpf_ktime_get_ns(), *last = bpf_map_lookup_elem(&told, &netns);
	struct event e = {.netns = netns};

	if (last && now - *last < NSEC_PER_SEC)
		return;
	bpf_map_update_elem(&told, &netns, &now, BPF_ANY);
	e.cgroup = bpf_get_current_cgroup_id();
	e.pid = bpf_get_current_pid_tgid() >> 32;
	if (bpf_ringbuf_output(&events, &e, sizeof(e), 0))
		count(COUNTER_LOST_EVENT);
}

/* Notes where the socket was going. 0 if the connect may go on, else the counter of the refusal. */
static __always_inline int remember(struct bpf_sock_addr *ctx, const struct address *dst, __u64 netns, __u16 port)
{
	struct orig_dst *orig;
	__u32 share;
	int full;

	if (!ctx->sk)
		return COUNTER_REFUSED_NO_STORAGE;
	/* Asked while the connect can be refused: once the source port is known it is too late. */
	share = find_share();
	full = find_room(share);
	if (full)
		return full;
	orig = bpf_sk_storage_get(&orig_dsts, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!orig)
		return COUNTER_REFUSED_NO_STORAGE;
	__builtin_memset(orig, 0, sizeof(*orig));
	orig->flow.dst = *dst;
	orig->flow.dst_port = ntohs((__u16)ctx->user_port);
	orig->flow.cgroup = bpf_get_current_cgroup_id();
	orig->flow.pid = bpf_get_current_pid_tgid() >> 32;
	orig->flow.time = bpf_ktime_get_ns();
	orig->flow.share = share;
	orig->key.netns = netns;
	orig->key.listener_port = port;
	return 0;
}

/* SO_BINDTODEVICE and its kin would keep the packet off the loopback. */
static __always_inline void unbind_device(struct bpf_sock_addr *ctx)
{
	int none = 0;
	char no_name[1] = {0};

	if (!ctx->sk || !ctx->sk->bound_dev_if)
		return;
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &none, sizeof(none)))
		bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, no_name, sizeof(no_name));
}

/*
 * The socket goes elsewhere. Not so if it goes to loopback because the hooks of a
 * cgroup further down have just sent it to the listener.
 */
static __always_inline void forget(struct bpf_sock_addr *ctx, int loopback)
{
	struct orig_dst *orig;

	if (!ctx->sk)
		return;
	orig = bpf_sk_storage_get(&orig_dsts, ctx->sk, NULL, 0);
	if (!orig)
		return;
	if (loopback && !orig->published && orig->key.listener_port == ntohs((__u16)ctx->user_port))
		return;
	bpf_sk_storage_delete(&orig_dsts, ctx->sk);
}

/* The listener of the socket's namespace, or NULL after telling the daemon of it. */
static __always_inline struct listener *find_listener(__u64 netns)
{
	struct listener *l = bpf_map_lookup_elem(&listeners, &netns);

	if (!l)
		tell(netns);
	return l;
}

static __always_inline int is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

static __always_inline int is_udp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;
}

SEC("cgroup/connect4")
int sluice_connect4(struct bpf_sock_addr *ctx)
{
	struct address dst;
	struct listener *l;
	__u64 netns;
	int refused, loopback;

	loopback = is_loopback4(ctx->user_ip4);
	if (loopback || !is_bound(ctx->user_port)) {
		if (is_tcp(ctx))
			forget(ctx, loopback);
		return ALLOW;
	}
	if (is_udp(ctx))
		return refuse(COUNTER_REFUSED_UDP, ECONNREFUSED);
	if (!is_tcp(ctx))
		return ALLOW;

	netns = bpf_get_netns_cookie(ctx);
	l = find_listener(netns);
	if (!l || !l->port4)
		return refuse(COUNTER_REFUSED_NO_LISTENER, ECONNREFUSED);
	map4(&dst, ctx->user_ip4);
	refused = remember(ctx, &dst, netns, l->port4);
	if (refused)
		return refuse(refused, ECONNREFUSED);
	unbind_device(ctx);
	ctx->user_ip4 = htonl(0x7f000001);
	ctx->user_port = htons(l->port4);
	count(COUNTER_REDIRECTED);
	return ALLOW;
}

SEC("cgroup/connect6")
int sluice_connect6(struct bpf_sock_addr *ctx)
{
	struct address dst;
	struct listener *l;
	__u64 netns;
	int refused, mapped, loopback;
	__u16 port;

	dst.word[0] = ctx->user_ip6[0];
	dst.word[1] = ctx->user_ip6[1];
	dst.word[2] = ctx->user_ip6[2];
	dst.word[3] = ctx->user_ip6[3];
	loopback = is_loopback6(&dst);
	if (loopback || !is_bound(ctx->user_port)) {
		if (is_tcp(ctx))
			forget(ctx, loopback);
		return ALLOW;
	}
	if (is_udp(ctx))
		return refuse(COUNTER_REFUSED_UDP, ECONNREFUSED);
	if (!is_tcp(ctx))
		return ALLOW;

	netns = bpf_get_netns_cookie(ctx);
	l = find_listener(netns);
	if (!l)
		return refuse(COUNTER_REFUSED_NO_LISTENER, ECONNREFUSED);
	/*
	 * As the kernel would have it. Who has an address of IPv4 as well tries that next; once connected to the
	 * listener nobody would.
	 */
	if (l->no_way6 && is_global6(&dst)) {
		tell(netns);
		return refuse(COUNTER_REFUSED_NO_WAY6, ENETUNREACH);
	}
	/* A V6ONLY socket cannot reach a mapped address: that is for namespaces without ::1. */
	mapped = is_mapped(&dst) || !l->port6;
	port = mapped ? l->port4 : l->port6;
	if (!port)
		return refuse(COUNTER_REFUSED_NO_LISTENER, ECONNREFUSED);
	refused = remember(ctx, &dst, netns, port);
	if (refused)
		return refuse(refused, ECONNREFUSED);
	unbind_device(ctx);
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = mapped ? htonl(0xffff) : 0;
	ctx->user_ip6[3] = mapped ? htonl(0x7f000001) : htonl(1);
	ctx->user_port = htons(port);
	count(COUNTER_REDIRECTED);
	return ALLOW;
}

SEC("cgroup/sendmsg4")
int sluice_sendmsg4(struct bpf_sock_addr *ctx)
{
	if (is_loopback4(ctx->user_ip4) || !is_bound(ctx->user_port))
		return ALLOW;
	return refuse(COUNTER_REFUSED_UDP, ECONNREFUSED);
}

SEC("cgroup/sendmsg6")
int sluice_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct address dst;

	dst.word[0] = ctx->user_ip6[0];
	dst.word[1] = ctx->user_ip6[1];
	dst.word[2] = ctx->user_ip6[2];
	dst.word[3] = ctx->user_ip6[3];
	if (is_loopback6(&dst) || !is_bound(ctx->user_port))
		return ALLOW;
	return refuse(COUNTER_REFUSED_UDP, ECONNREFUSED);
}

SEC("cgroup/getpeername4")
int sluice_getpeername4(struct bpf_sock_addr *ctx)
{
	struct orig_dst *orig;

	if (!ctx->sk)
		return ALLOW;
	orig = bpf_sk_storage_get(&orig_dsts, ctx->sk, NULL, 0);
	if (!orig)
		return ALLOW;
	ctx->user_ip4 = orig->flow.dst.word[3];
	ctx->user_port = htons(orig->flow.dst_port);
	return ALLOW;
}

SEC("cgroup/getpeername6")
int sluice_getpeername6(struct bpf_sock_addr *ctx)
{
	struct orig_dst *orig;

	if (!ctx->sk)
		return ALLOW;
	orig = bpf_sk_storage_get(&orig_dsts, ctx->sk, NULL, 0);
	if (!orig)
		return ALLOW;
	ctx->user_ip6[0] = orig->flow.dst.word[0];
	ctx->user_ip6[1] = orig->flow.dst.word[1];
	ctx->user_ip6[2] = orig->flow.dst.word[2];
	ctx->user_ip6[3] = orig->flow.dst.word[3];
	ctx->user_port = htons(orig->flow.dst_port);
	return ALLOW;
}

/* What the listener will know the connection by. */
static __always_inline void make_key(struct flow_key *key, struct bpf_sock_ops *ctx, const struct orig_dst *orig)
{
	if (ctx->family == AF_INET || (ctx->remote_ip6[2] == htonl(0xffff) && ctx->remote_ip6[1] == 0)) {
		map4(&key->peer, ctx->local_ip4);
	} else {
		key->peer.word[0] = ctx->local_ip6[0];
		key->peer.word[1] = ctx->local_ip6[1];
		key->peer.word[2] = ctx->local_ip6[2];
		key->peer.word[3] = ctx->local_ip6[3];
	}
	key->netns = orig->key.netns;
	key->peer_port = ctx->local_port;
	key->listener_port = orig->key.listener_port;
	key->reserved = 0;
}

/* The source port is known and the SYN has not left: now the listener can be told. */
static __always_inline void publish(struct bpf_sock_ops *ctx, struct orig_dst *orig)
{
	struct flow_key key;

	if (orig->published) /* by the hooks of a cgroup further down */
		return;
	make_key(&key, ctx, orig);
	if (insert(&key, &orig->flow)) {
		count(COUNTER_LOST_PUBLISH); /* the listener finds no entry and closes the connection */
		return;
	}
	orig->key = key;
	orig->published = 1;
	count(COUNTER_PUBLISHED);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

SEC("sockops")
int sluice_sockops(struct bpf_sock_ops *ctx)
{
	struct orig_dst *orig;
	struct flow_key key;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	if (!ctx->sk)
		return 1;
	orig = bpf_sk_storage_get(&orig_dsts, ctx->sk, NULL, 0);
	if (!orig)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		publish(ctx, orig);
	} else if (ctx->args[1] == BPF_TCP_CLOSE && orig->published) {
		key = orig->key;
		orig->published = 0;
		drop(&key, orig->flow.share); /* usually taken long ago */
	}
	return 1;
}

static __always_inline int is_seen(const struct bpf_sock *ctx)
{
	__u32 protocol = ctx->protocol;

	if (ctx->type == SOCK_STREAM)
		return protocol == IPPROTO_TCP;
	return ctx->type == SOCK_DGRAM &&
	       (protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6);
}

SEC("cgroup/sock_create")
int sluice_sock_create(struct bpf_sock *ctx)
{
	__u64 netns;

	if (ctx->family != AF_INET && ctx->family != AF_INET6)
		return ALLOW;
	/* getpeername of an MPTCP socket would show the listener; clients fall back to TCP. */
	if (ctx->protocol == IPPROTO_MPTCP)
		return refuse(COUNTER_REFUSED_MPTCP, EPROTONOSUPPORT);
	/* Raw, UDP-Lite, SCTP and the like send what no connect hook sees: that is left to egress and the guard. */
	if (strict && !is_seen(ctx))
		return refuse(COUNTER_REFUSED_PROTOCOL, EPROTONOSUPPORT);
	/* A first socket, often the resolver's, comes before the first connect: time to start listening. */
	netns = bpf_get_netns_cookie(ctx);
	find_listener(netns);
	return ALLOW;
}

/*
 * What the hooks on sockets did not see, because the socket is older than they are or
 * of another kind: it must not go to a bound port either. Sees no frames (AF_PACKET).
 */
SEC("cgroup_skb/egress")
int sluice_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	enum verdict v;
	__u8 version;
	int lo = skb->ifindex == LOOPBACK_IFINDEX;

	if (lo && sk) {
		sk = bpf_sk_fullsock(sk);
		if (sk && is_hooked(sk))
			return ALLOW;
	}
	if (bpf_skb_load_bytes(skb, 0, &version, sizeof(version)))
		v = VERDICT_UNREADABLE;
	else
		v = judge_packet(skb, ORIGIN_FRAME, 0, version >> 4 == 4 ? IPPROTO_IPIP : IPPROTO_IPV6, lo);
	if (v == VERDICT_PASS)
		return ALLOW;
	count_drop(COUNTER_DROPPED_TCP, v);
	return REFUSE;
}

/* What would send frames past the guard: around the queues of a packet socket, and AF_XDP's rings. */
SEC("cgroup/setsockopt")
int sluice_setsockopt(struct bpf_sockopt *ctx)
{
	if ((ctx->level == SOL_PACKET && ctx->optname == PACKET_QDISC_BYPASS) || ctx->level == SOL_XDP) {
		count(COUNTER_REFUSED_BYPASS);
		return REFUSE;
	}
	ctx->optlen = 0; /* the kernel goes on with the caller's own buffer, which may be longer than a page */
	return ALLOW;
}

static __always_inline int guard_bind(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct listener *l = bpf_map_lookup_elem(&listeners, &netns);
	__u16 port = ntohs((__u16)ctx->user_port);

	/* With the daemon dead the port is free, and whoever took it would get the agents' connections. */
	if (l && port && ctx->type == SOCK_STREAM && (port == l->port4 || port == l->port6))
		return refuse(COUNTER_REFUSED_BIND, EADDRINUSE);
	return ALLOW;
}

SEC("cgroup/bind4")
int sluice_bind4(struct bpf_sock_addr *ctx)
{
	return guard_bind(ctx);
}

SEC("cgroup/bind6")
int sluice_bind6(struct bpf_sock_addr *ctx)
{
	return guard_bind(ctx);
}
