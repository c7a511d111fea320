package bpf_test

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// packets are what a process can make by itself, by the counter of the drop ("": it goes through).
func packets() map[string]struct {
	frame   func(data string) []byte
	proto   int // what the sender says that it is; 0: IPv4
	counter string
} {
	type p = struct {
		frame   func(data string) []byte
		proto   int
		counter string
	}
	v4 := func(protocol byte, l4 func(string) []byte) func(string) []byte {
		return func(data string) []byte { return ether(unix.ETH_P_IP, ip4(protocol, 0, nil, l4(data))) }
	}
	v6 := func(next byte, l4 func(string) []byte) func(string) []byte {
		return func(data string) []byte { return ether(unix.ETH_P_IPV6, ip6(next, l4(data))) }
	}
	to := func(port uint16) func(string) []byte { return func(data string) []byte { return udp(port, data) } }
	open := func(port uint16) func(string) []byte {
		return func(data string) []byte { return tcp(port, syn, data) }
	}
	const tcpLink, udpLink, protocolLink, unreadable = "dropped_link_tcp", "dropped_link_udp", "dropped_link_protocol", "dropped_link_unreadable"
	chain := func(n int, l4 []byte) []byte {
		next, b := byte(unix.IPPROTO_UDP), l4
		for range n {
			b, next = extension(next, b), unix.IPPROTO_DSTOPTS
		}
		return b
	}
	return map[string]p{
		"v4 syn":                   {v4(unix.IPPROTO_TCP, open(443)), 0, tcpLink},
		"v4 syn, other bound port": {v4(unix.IPPROTO_TCP, open(8443)), 0, tcpLink},
		"v4 ack":                   {v4(unix.IPPROTO_TCP, func(d string) []byte { return tcp(443, ack, d) }), 0, tcpLink},
		"v4 syn ack":               {v4(unix.IPPROTO_TCP, func(d string) []byte { return tcp(443, syn|ack, d) }), 0, tcpLink},
		"v4 udp":                   {v4(unix.IPPROTO_UDP, to(443)), 0, udpLink},
		"v6 syn":                   {v6(unix.IPPROTO_TCP, open(443)), unix.ETH_P_IPV6, tcpLink},
		"v6 udp":                   {v6(unix.IPPROTO_UDP, to(443)), unix.ETH_P_IPV6, udpLink},
		"v4 udp-lite":              {v4(unix.IPPROTO_UDPLITE, to(443)), 0, protocolLink},
		"v4 sctp":                  {v4(unix.IPPROTO_SCTP, to(443)), 0, protocolLink},
		"v6 dccp":                  {v6(unix.IPPROTO_DCCP, to(443)), unix.ETH_P_IPV6, protocolLink},
		"ip options": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_TCP, 0, bytes.Repeat([]byte{1}, 40), tcp(443, syn, d)))
		}, 0, tcpLink},
		"first fragment": {func(d string) []byte { return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0x2000, nil, udp(443, d))) }, 0, udpLink},
		"later fragment, which nobody can put together": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 5, nil, udp(443, d)))
		}, 0, ""},
		"a fragment without the ports": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_FRAGMENT, []byte{unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 1}))
		}, unix.ETH_P_IPV6, unreadable},
		"v6 first fragment": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_FRAGMENT, append([]byte{unix.IPPROTO_UDP, 0, 0, 1, 0, 0, 0, 1}, udp(443, d)...)))
		}, unix.ETH_P_IPV6, udpLink},
		"v6 later fragment": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_FRAGMENT, append([]byte{unix.IPPROTO_UDP, 0, 0, 8, 0, 0, 0, 1}, udp(443, d)...)))
		}, unix.ETH_P_IPV6, ""},
		"v6 extension headers": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_HOPOPTS, extension(unix.IPPROTO_ROUTING, extension(unix.IPPROTO_DSTOPTS, extension(unix.IPPROTO_TCP, tcp(443, syn, d))))))
		}, unix.ETH_P_IPV6, tcpLink},
		"v6 authentication header": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_AH, append([]byte{unix.IPPROTO_UDP, 4, 22: 0, 23: 0}, udp(443, d)...)))
		}, unix.ETH_P_IPV6, udpLink},
		"v6 ten extension headers": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_DSTOPTS, chain(10, udp(443, d))))
		}, unix.ETH_P_IPV6, udpLink},
		"v6 more headers than read": {func(d string) []byte { return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_DSTOPTS, chain(14, udp(53, d)))) }, unix.ETH_P_IPV6, unreadable},
		"v6 ten headers, not bound": {func(d string) []byte { return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_DSTOPTS, chain(10, udp(53, d)))) }, unix.ETH_P_IPV6, ""},
		"ip in ip": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_IPIP, 0, nil, ip4(unix.IPPROTO_TCP, 0, nil, tcp(443, syn, d))))
		}, 0, tcpLink},
		"v6 in ip": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_IPV6, 0, nil, ip6(unix.IPPROTO_UDP, udp(443, d))))
		}, 0, udpLink},
		"vlan": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_TCP, 0, nil, tcp(443, syn, d)), 0x8100)
		}, 0x8100, tcpLink},
		"q in q": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(443, d)), 0x88a8, 0x8100)
		}, 0x88a8, udpLink},
		"four tags": {func(d string) []byte {
			return ether(unix.ETH_P_IPV6, ip6(unix.IPPROTO_UDP, udp(443, d)), 0x88a8, 0x8100, 0x9100, 0x8100)
		}, 0x88a8, udpLink},
		"five tags": {func(d string) []byte {
			return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(53, d)), 0x8100, 0x8100, 0x8100, 0x8100, 0x8100)
		}, 0x8100, unreadable},
		"vlan, not bound":            {func(d string) []byte { return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_UDP, 0, nil, udp(53, d)), 0x8100) }, 0x8100, ""},
		"a lie about the ether type": {v4(unix.IPPROTO_TCP, open(443)), 0x88b5, tcpLink},
		"v6 said to be v4":           {v6(unix.IPPROTO_UDP, to(443)), unix.ETH_P_IP, udpLink},
		"mpls": {func(d string) []byte {
			return ether(0x8847, append([]byte{0, 1, 1, 64}, ip4(unix.IPPROTO_UDP, 0, nil, udp(443, d))...))
		}, 0x8847, unreadable},
		"snap": {func(d string) []byte {
			return ether(60, append([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, ip4(unix.IPPROTO_UDP, 0, nil, udp(443, d))...))
		}, 4, unreadable},
		"not the version that it should be": {func(d string) []byte { return ether(unix.ETH_P_IP, ip6(unix.IPPROTO_UDP, udp(443, d))) }, 0, unreadable},
		"cut short":                         {func(d string) []byte { return ether(unix.ETH_P_IP, ip4(unix.IPPROTO_TCP, 0, nil, []byte{0x9c, 0x40})) }, 0, unreadable},
		"udp, not bound":                    {v4(unix.IPPROTO_UDP, to(53)), 0, ""},
		"tcp, not bound":                    {v4(unix.IPPROTO_TCP, open(80)), 0, ""},
		"v6 udp, not bound":                 {v6(unix.IPPROTO_UDP, to(53)), unix.ETH_P_IPV6, ""},
		"icmp":                              {v4(unix.IPPROTO_ICMP, func(d string) []byte { return append([]byte{8, 0, 0, 0, 0, 1, 0xbb, 1}, d...) }), 0, ""},
		"arp":                               {func(d string) []byte { return ether(unix.ETH_P_ARP, []byte(d)) }, unix.ETH_P_ARP, ""},
	}
}
