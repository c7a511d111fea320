package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// keptPart must equal KEPT_PART in redirect.h: one part in so many of the flows is for targets that have few.
const keptPart = 3

// giveFirstShares gives each guarded cgroup one of those of new maps.
func (r *Redirect) giveFirstShares() error {
	guarded, err := r.readGuarded()
	if err != nil {
		return err
	}
	share := uint32(0)
	for id := range guarded {
		share++
		if err := r.objs.Shares.Put(id, share); err != nil {
			return fmt.Errorf("give cgroup %d a share of the flows: %w", id, err)
		}
	}
	return nil
}

// giveShare has a target's flows be counted apart from others', if they are not yet.
func (r *Redirect) giveShare(id uint64) error {
	shares, err := r.readShares()
	if err != nil {
		return err
	}
	if _, ok := shares[id]; ok {
		return nil
	}
	taken := make(map[uint32]bool, len(shares))
	for _, share := range shares {
		taken[share] = true
	}
	free := uint32(1) // 0 is nobody's
	for taken[free] {
		free++
	}
	r.tally.begin(free)
	if err := r.objs.Shares.Put(id, free); err != nil {
		return fmt.Errorf("give cgroup %d a share of the flows: %w", id, err)
	}
	return r.shareOut()
}

// endShare has the share be another's next. What still waits in it is nobody's any more: kept, it would take the room of those who are
// there from whoever is attached, ends and is attached again.
func (r *Redirect) endShare(id uint64) error {
	var share uint32
	if err := r.objs.Shares.Lookup(id, &share); errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read the share of cgroup %d: %w", id, err)
	}
	left, _, err := r.findFlows(func(f *redirectFlow) bool { return uint32(f.Share) == share })
	if err != nil {
		return err
	}
	r.deleteFlows(left)
	if err := r.objs.Shares.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("end the share of cgroup %d: %w", id, err)
	}
	return r.shareOut()
}

// shareOut divides what is kept for those who have few among all shares, that of connects whose process is in no target included.
func (r *Redirect) shareOut() error {
	shares, err := r.readShares()
	if err != nil {
		return err
	}
	r.tally.reserve(uint64(r.opts.MaxFlows) / keptPart / uint64(len(shares)+1))
	return nil
}

func (r *Redirect) readShares() (map[uint64]uint32, error) {
	return readMap[uint64, uint32](r.objs.Shares, "the shares of the flows")
}

// SharesRefused is how many connects of each target were refused because it has as many that wait to be accepted as it may, by cgroup
// id, since it was attached.
func (r *Redirect) SharesRefused() (map[uint64]uint64, error) {
	shares, err := r.readShares()
	if err != nil {
		return nil, err
	}
	tallies := r.tally.read()
	all := make(map[uint64]uint64, len(shares))
	for id, share := range shares {
		if int(share) < len(tallies) {
			all[id] = tallies[share].Refused
		}
	}
	return all, nil
}
