//go:build ignore
/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The guard: on the links of a namespace in which processes of targets are, it
 * drops every frame of theirs that goes to a bound port. What came through the
 * daemon is the daemon's own, and not concerned. Which cgroup a frame belongs to is
 * that of the socket that it was sent from; one without a socket (forwarded, or sent
 * by the kernel for a connection that is over) is nobody's.
 */
#include "levels.h"
#include "packet.h"

char __license[] SEC("license") = "Dual MIT/GPL";

#define ETHERTYPE_AT 12
#define MAX_TAGS 4

/* Whether the socket's cgroup is at, or below, a guarded one. */
static __always_inline int is_guarded(struct __sk_buff *skb)
{
	return skb->sk && find_innermost(&guarded, frame_ancestor, skb);
}

/*
 * Whether a frame leaves as it is judged. A packet socket's ring (PACKET_TX_RING) is memory that its owner writes to
 * until the frame has arrived: it is copied first. A checksum that is left to be made (PACKET_VNET_HDR) is written
 * later, wherever the sender says, over the ports, too: only such a frame's sum stays when a difference is added.
 */
static __always_inline int is_final(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u16 before = 0, after = 0;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (!sk || sk->family != AF_PACKET)
		return 1;
	if (bpf_skb_pull_data(skb, skb->len))
		return 0;
	if (bpf_skb_load_bytes(skb, 0, &before, sizeof(before)) || bpf_l4_csum_replace(skb, 0, 0, 1, 0) ||
	    bpf_skb_load_bytes(skb, 0, &after, sizeof(after)))
		return 0;
	return after != before && !bpf_skb_store_bytes(skb, 0, &before, sizeof(before), 0);
}

/* What the bytes say, and not what the sender says that they are (skb->protocol). */
static __always_inline enum verdict judge_frame(struct __sk_buff *skb, int spare_loopback)
{
	__u32 at = ETHERTYPE_AT;
	__u16 type = 0;
	int i;

	if (!is_final(skb))
		return VERDICT_UNREADABLE;
	for (i = 0; i <= MAX_TAGS; i++) {
		if (bpf_skb_load_bytes(skb, at, &type, sizeof(type)))
			return VERDICT_UNREADABLE;
		at += sizeof(type);
		if (type != htons(ETH_P_8021Q) && type != htons(ETH_P_8021AD) && type != htons(ETH_P_QINQ1))
			break;
		at += 2; /* the tag */
	}
	if (type == htons(ETH_P_IP))
		return judge_packet(skb, ORIGIN_FRAME, at, IPPROTO_IPIP, spare_loopback);
	if (type == htons(ETH_P_IPV6))
		return judge_packet(skb, ORIGIN_FRAME, at, IPPROTO_IPV6, spare_loopback);
	if (type == htons(ETH_P_ARP) || type == htons(ETH_P_RARP))
		return VERDICT_PASS;
	return VERDICT_UNREADABLE; /* MPLS, PPPoE, LLC and so on: there may be IP in it */
}

static __always_inline int act(enum verdict v)
{
	if (v == VERDICT_PASS)
		return TC_ACT_UNSPEC; /* to whoever is next */
	count_drop(COUNTER_DROPPED_LINK_TCP, v);
	return TC_ACT_SHOT;
}

/* Links with Ethernet's header: veth, bridge, macvlan, physical ones. */
SEC("tc")
int guard_frame(struct __sk_buff *skb)
{
	if (!is_guarded(skb))
		return TC_ACT_UNSPEC;
	return act(judge_frame(skb, 0));
}

/* Links without: tun, tunnels. */
SEC("tc")
int guard_packet(struct __sk_buff *skb)
{
	__u8 version;

	if (!is_guarded(skb))
		return TC_ACT_UNSPEC;
	if (!is_final(skb) || bpf_skb_load_bytes_relative(skb, 0, &version, sizeof(version), BPF_HDR_START_NET))
		return act(VERDICT_UNREADABLE);
	return act(judge_packet(skb, ORIGIN_NETWORK, 0, version >> 4 == 4 ? IPPROTO_IPIP : IPPROTO_IPV6, 0));
}

/*
 * The loopback link: a namespace that forwards sends on what was put there with a
 * foreign address. Sockets that the hooks have judged go there rightly.
 */
SEC("tc")
int guard_loopback(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return TC_ACT_UNSPEC;
	sk = bpf_sk_fullsock(sk);
	if (!sk || is_hooked(sk) || !is_guarded(skb))
		return TC_ACT_UNSPEC;
	return act(judge_frame(skb, 1));
}
