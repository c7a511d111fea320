package guard

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsact keeps the programs as filters. The kernel holds on to them by itself.
type clsact struct {
	programs Programs
	name     string
}

// filter is how our filters are known, whoever put them there.
func (c *clsact) filter() string { return c.name + "_guard" }

func discipline(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// guard puts the filter where it is, or before all others. One of a former run is replaced in one step.
func (c *clsact) guard(l netlink.Link) error {
	index := l.Attrs().Index
	if err := netlink.QdiscAdd(discipline(index)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to %s: %w", l.Attrs().Name, err)
	}
	filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return fmt.Errorf("list the filters of %s: %w", l.Attrs().Name, err)
	}
	priority, handle := uint16(1), uint32(1)
	taken := make(map[uint16]bool)
	for _, f := range filters {
		if c.ours(f) {
			priority, handle, taken = f.Attrs().Priority, f.Attrs().Handle, nil
			break
		}
		taken[f.Attrs().Priority] = true
	}
	for taken[priority] {
		priority++
	}
	err = netlink.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: handle, Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: c.programs.GuardProgram(arphrd(l)).FD(), Name: c.filter(), DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("add a filter to %s: %w", l.Attrs().Name, err)
	}
	return nil
}

func (c *clsact) ours(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == c.filter()
}

func (c *clsact) sweep() error   { return nil } // a filter goes with its link
func (c *clsact) refresh() error { return nil }

// remove takes our filters off, and the discipline where nothing else is in it.
func (c *clsact) remove() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list links: %w", err)
	}
	var failed []error
	for _, l := range links {
		if err := c.strip(l); err != nil && !errors.Is(err, unix.ENODEV) {
			failed = append(failed, fmt.Errorf("take the filter off %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(failed...)
}

func (c *clsact) strip(l netlink.Link) error {
	filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return nil // there is no clsact
	}
	found, others := false, 0
	for _, f := range filters {
		if !c.ours(f) {
			others++
			continue
		}
		found = true
		if err := netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if !found || others > 0 {
		return nil
	}
	if in, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS); err != nil || len(in) > 0 {
		return err
	}
	if err := netlink.QdiscDel(discipline(l.Attrs().Index)); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
