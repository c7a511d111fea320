package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Rules are what is judged, for a backend that cannot look into maps.
type Rules struct {
	Cgroups []Cgroup
	Ports   []uint16     // bound
	Kept    []Connection // older than an attach, and let be
}

// Cgroup is one of a target's.
type Cgroup struct {
	ID    uint64 // the inode number of its folder
	Level uint32 // how far below the root it is
}

// table refuses in the output hook, so the sender is told at once. It is made anew with each change, in one
// transaction.
type table struct {
	rules func() Rules
	name  string
}

// portProtocols have the destination port where TCP has it.
var portProtocols = []byte{unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP}

const (
	tcpReset        = unix.NFT_REJECT_TCP_RST
	adminProhibited = unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED
	synAck          = 0x12
	syn             = 0x02
)

func (t *table) guard(netlink.Link) error { return nil }
func (t *table) sweep() error             { return nil }

// refresh replaces the table.
func (t *table) refresh() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	rules := t.rules()
	own := &nftables.Table{Family: nftables.TableFamilyINet, Name: t.name}
	c.AddTable(own) // so that there is one to delete
	c.DelTable(own)
	c.AddTable(own)
	ports := &nftables.Set{Table: own, Name: "ports", KeyType: nftables.TypeInetService}
	var bound []nftables.SetElement
	for _, p := range rules.Ports {
		bound = append(bound, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	protocols := &nftables.Set{Table: own, Name: "protocols", KeyType: nftables.TypeInetProto}
	var with []nftables.SetElement
	for _, p := range portProtocols {
		with = append(with, nftables.SetElement{Key: []byte{p}})
	}
	if err := errors.Join(c.AddSet(ports, bound), c.AddSet(protocols, with)); err != nil {
		return fmt.Errorf("make sets: %w", err)
	}
	judge := c.AddChain(&nftables.Chain{Table: own, Name: "judge"})
	output := c.AddChain(&nftables.Chain{
		Table: own, Name: "output", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	for _, g := range rules.Cgroups {
		c.AddRule(&nftables.Rule{Table: own, Chain: output, Exprs: []expr.Any{
			&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: g.Level, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint64(nil, g.ID)},
			&expr.Verdict{Kind: expr.VerdictJump, Chain: judge.Name},
		}})
	}
	add := func(exprs ...expr.Any) { c.AddRule(&nftables.Rule{Table: own, Chain: judge, Exprs: exprs}) }
	spare := &expr.Verdict{Kind: expr.VerdictReturn}
	add(append(family(unix.NFPROTO_IPV4), network(16, 1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{127}}, spare)...)
	add(append(family(unix.NFPROTO_IPV6), network(24, 16), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netip.IPv6Loopback().AsSlice()}, spare)...)
	for _, k := range rules.Kept {
		add(append(same(k), spare)...)
	}
	goesToBound := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: ports.Name, SetID: ports.ID},
		&expr.Counter{},
	}
	// Without its SYN a connection of TCP cannot begin; and what goes on answers a peer, whose port may be any.
	opens := []expr.Any{
		protocol(), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{synAck}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}
	add(append(append(opens, goesToBound...), &expr.Reject{Type: tcpReset})...)
	others := []expr.Any{protocol(), &expr.Lookup{SourceRegister: 1, SetName: protocols.Name, SetID: protocols.ID}}
	add(append(append(others, goesToBound...), &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: adminProhibited})...)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make the table: %w", err)
	}
	return nil
}

// remove deletes the table, if there is one.
func (t *table) remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	own := &nftables.Table{Family: nftables.TableFamilyINet, Name: t.name}
	c.AddTable(own)
	c.DelTable(own)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete the table: %w", err)
	}
	return nil
}

func protocol() expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1} }

func family(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}}}
}

func network(at, size uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: size}
}

// same matches one connection's packets, by addresses and ports.
func same(k Connection) []expr.Any {
	exprs, at, size := family(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if k.Remote.Addr().Is6() {
		exprs, at, size = family(unix.NFPROTO_IPV6), 8, 16
	}
	is := func(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, k.Local.Port()), k.Remote.Port())
	return append(exprs,
		protocol(), is([]byte{k.protocol}),
		network(at, size), is(k.Local.Addr().AsSlice()),
		network(at+size, size), is(k.Remote.Addr().AsSlice()),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4}, is(ports))
}
