/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What a packet on its way out is for: whether it goes to a bound port although
 * it has not come through the daemon. Shared by the hook on the cgroup, which sees
 * what sockets of the internet families send, and by the guard on links, which
 * sees every frame.
 */
#ifndef SLUICE_PACKET_H
#define SLUICE_PACKET_H

#include "loopback.h"
#include "maps.h"

/* Why a packet is dropped, in the order of the counters. */
enum verdict {
	VERDICT_TCP,
	VERDICT_UDP,
	VERDICT_PROTOCOL, /* another one that has ports: UDP-Lite, SCTP, DCCP */
	VERDICT_UNREADABLE,
	VERDICT_PASS,
};

/* So many headers from the first IP header to the ports, extensions included (RFC 8200 section 4.1 knows 8). */
#define MAX_HEADERS 12

/*
 * A server's clients come from this port or a higher one: what has an answer's looks and goes to a lower one is a
 * connection that is older than the attach, whose process listens on its own port.
 */
#define FIRST_CLIENT_PORT 1024

#define TCP_FLAGS_AT 13
#define TCP_SYN 0x02
#define TCP_ACK 0x10

/* How a program reads: from where the frame begins, or from the network header. */
enum origin {
	ORIGIN_FRAME,
	ORIGIN_NETWORK,
};

static __always_inline int read(struct __sk_buff *skb, enum origin origin, __u32 at, void *into, __u32 size)
{
	if (origin == ORIGIN_NETWORK)
		return bpf_skb_load_bytes_relative(skb, at, into, size, BPF_HDR_START_NET);
	return bpf_skb_load_bytes(skb, at, into, size);
}

/* What the parser has found so far. */
struct packet {
	struct address src; /* of the innermost header read */
	__u32 at;	    /* of the header to read next */
	__u8 protocol;	    /* that header's */
	__u8 loopback;	    /* the destination is the host's own */
};

static __always_inline int read_ip4(struct __sk_buff *skb, enum origin origin, struct packet *p)
{
	struct {
		__u8 version_length, service;
		__u16 total, id, fragment;
		__u8 ttl, protocol;
		__u16 sum;
		__u32 src, dst;
	} h;
	__u32 length;

	if (read(skb, origin, p->at, &h, sizeof(h)))
		return VERDICT_UNREADABLE;
	length = (h.version_length & 0x0f) * 4;
	if (h.version_length >> 4 != 4 || length < sizeof(h))
		return VERDICT_UNREADABLE;
	/* Without the first fragment, which has the ports and is judged by them, nobody puts the rest together. */
	if (h.fragment & htons(0x1fff))
		return VERDICT_PASS;
	p->src.word[0] = 0;
	p->src.word[1] = 0;
	p->src.word[2] = htonl(0xffff);
	p->src.word[3] = h.src;
	p->loopback = is_loopback4(h.dst);
	p->protocol = h.protocol;
	p->at += length;
	return -1;
}

static __always_inline int read_ip6(struct __sk_buff *skb, enum origin origin, struct packet *p)
{
	struct {
		__u8 version, class[3];
		__u16 length;
		__u8 next, limit;
		struct address src, dst;
	} h;

	if (read(skb, origin, p->at, &h, sizeof(h)))
		return VERDICT_UNREADABLE;
	if (h.version >> 4 != 6)
		return VERDICT_UNREADABLE;
	p->src = h.src;
	p->loopback = is_loopback6(&h.dst);
	p->protocol = h.next;
	p->at += sizeof(h);
	return -1;
}

/* Whether somebody listens where the segment comes from: then it answers a peer, whose port may be any. */
static __always_inline int is_served(struct __sk_buff *skb, const struct packet *p, __u16 sport)
{
	struct bpf_sock_tuple t;
	struct bpf_sock *sk;
	__u32 size;

	__builtin_memset(&t, 0, sizeof(t));
	if (is_mapped(&p->src)) {
		t.ipv4.daddr = p->src.word[3];
		t.ipv4.dport = sport;
		size = sizeof(t.ipv4);
	} else {
		__builtin_memcpy(t.ipv6.daddr, p->src.word, sizeof(t.ipv6.daddr));
		t.ipv6.dport = sport;
		size = sizeof(t.ipv6);
	}
	sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

/* Whether a segment is the kernel's own: of a connection, or of one that it has just been asked for. */
static __always_inline int is_tcp_socket(struct bpf_sock *sk)
{
	/* Read first, and for sure: the compiler would choose between two addresses, which the verifier forbids. */
	__u32 state = *(volatile __u32 *)&sk->state;

	sk = bpf_sk_fullsock(sk);
	/* A raw socket may have TCP's number, too. */
	return sk ? sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP : state == BPF_TCP_NEW_SYN_RECV;
}

/* By the ports, which TCP, UDP, UDP-Lite, SCTP and DCCP have in the same place. */
static __always_inline enum verdict judge_ports(struct __sk_buff *skb, enum origin origin, const struct packet *p)
{
	struct {
		__u16 source, destination;
	} ports_of;
	struct bpf_sock *sk;
	__u64 cookie;
	__u16 port;
	__u8 flags;

	if (read(skb, origin, p->at, &ports_of, sizeof(ports_of)))
		return VERDICT_UNREADABLE;
	port = ntohs(ports_of.destination);
	if (!bpf_map_lookup_elem(&ports, &port))
		return VERDICT_PASS;
	cookie = bpf_get_socket_cookie(skb);
	if (bpf_map_lookup_elem(&kept, &cookie))
		return VERDICT_PASS;
	if (p->protocol == IPPROTO_UDP)
		return VERDICT_UDP;
	if (p->protocol != IPPROTO_TCP)
		return VERDICT_PROTOCOL;
	if (read(skb, origin, p->at + TCP_FLAGS_AT, &flags, sizeof(flags)))
		return VERDICT_UNREADABLE;
	sk = skb->sk;
	if (port < FIRST_CLIENT_PORT || !(flags & TCP_ACK) || !sk || !is_tcp_socket(sk))
		return VERDICT_TCP;
	return is_served(skb, p, ports_of.source) ? VERDICT_PASS : VERDICT_TCP;
}

/*
 * Goes through the headers from an IP header on; protocol is IPPROTO_IPIP or
 * IPPROTO_IPV6. A protocol without ports cannot be for a bound one. A destination
 * on loopback is let be where spare_loopback.
 */
static __always_inline enum verdict judge_packet(struct __sk_buff *skb, enum origin origin, __u32 at, __u8 protocol,
						 int spare_loopback)
{
	struct packet p = {.at = at, .protocol = protocol};
	__u8 h[4];
	int i, done;

	for (i = 0; i < MAX_HEADERS; i++) {
		switch (p.protocol) {
		case IPPROTO_IPIP:
			done = read_ip4(skb, origin, &p);
			if (done >= 0)
				return done;
			break;
		case IPPROTO_IPV6:
			done = read_ip6(skb, origin, &p);
			if (done >= 0)
				return done;
			break;
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_MH:
		case IPPROTO_HIP:
		case IPPROTO_SHIM6:
			if (read(skb, origin, p.at, h, 2))
				return VERDICT_UNREADABLE;
			p.protocol = h[0];
			p.at += (h[1] + 1) * 8;
			break;
		case IPPROTO_AH:
			if (read(skb, origin, p.at, h, 2))
				return VERDICT_UNREADABLE;
			p.protocol = h[0];
			p.at += (h[1] + 2) * 4;
			break;
		case IPPROTO_FRAGMENT:
			if (read(skb, origin, p.at, h, 4))
				return VERDICT_UNREADABLE;
			if (h[2] || h[3] & 0xf8)
				return VERDICT_PASS; /* as with IPv4 */
			p.protocol = h[0];
			p.at += 8;
			break;
		case IPPROTO_TCP:
		case IPPROTO_UDP:
		case IPPROTO_UDPLITE:
		case IPPROTO_SCTP:
		case IPPROTO_DCCP:
			if (spare_loopback && p.loopback)
				return VERDICT_PASS;
			return judge_ports(skb, origin, &p);
		default:
			return VERDICT_PASS;
		}
	}
	return VERDICT_UNREADABLE;
}

/* Whether a socket is one that the connect and sendmsg hooks have judged: what it sends over loopback is right. */
static __always_inline int is_hooked(struct bpf_sock *sk)
{
	return (sk->family == AF_INET || sk->family == AF_INET6) &&
	       ((sk->type == SOCK_STREAM && sk->protocol == IPPROTO_TCP) ||
		(sk->type == SOCK_DGRAM && sk->protocol == IPPROTO_UDP));
}

static __always_inline void count_drop(enum counter first, enum verdict why)
{
	__u32 which = first + why;
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		__sync_fetch_and_add(value, 1); /* per CPU, but another task may come in between */
}

#endif
