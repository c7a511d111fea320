package bpf

import "fmt"

// counterNames by number; the array's size ties it to the C enum.
var counterNames = [redirectCounterCOUNTER_MAX]string{
	redirectCounterCOUNTER_REDIRECTED:              "redirected",
	redirectCounterCOUNTER_PUBLISHED:               "published",
	redirectCounterCOUNTER_REFUSED_NO_LISTENER:     "refused_no_listener",
	redirectCounterCOUNTER_REFUSED_FLOWS_FULL:      "refused_flows_full",
	redirectCounterCOUNTER_REFUSED_SHARE_FULL:      "refused_share_full",
	redirectCounterCOUNTER_REFUSED_NO_WAY6:         "refused_no_way6",
	redirectCounterCOUNTER_REFUSED_NO_STORAGE:      "refused_no_storage",
	redirectCounterCOUNTER_REFUSED_UDP:             "refused_udp",
	redirectCounterCOUNTER_REFUSED_MPTCP:           "refused_mptcp",
	redirectCounterCOUNTER_REFUSED_PROTOCOL:        "refused_protocol",
	redirectCounterCOUNTER_REFUSED_BIND:            "refused_bind",
	redirectCounterCOUNTER_LOST_PUBLISH:            "lost_publish",
	redirectCounterCOUNTER_LOST_EVENT:              "lost_event",
	redirectCounterCOUNTER_REFUSED_BYPASS:          "refused_bypass",
	redirectCounterCOUNTER_DROPPED_TCP:             "dropped_tcp",
	redirectCounterCOUNTER_DROPPED_UDP:             "dropped_udp",
	redirectCounterCOUNTER_DROPPED_PROTOCOL:        "dropped_protocol",
	redirectCounterCOUNTER_DROPPED_UNREADABLE:      "dropped_unreadable",
	redirectCounterCOUNTER_DROPPED_LINK_TCP:        "dropped_link_tcp",
	redirectCounterCOUNTER_DROPPED_LINK_UDP:        "dropped_link_udp",
	redirectCounterCOUNTER_DROPPED_LINK_PROTOCOL:   "dropped_link_protocol",
	redirectCounterCOUNTER_DROPPED_LINK_UNREADABLE: "dropped_link_unreadable",
}

// Counters returns how often each verdict was given since the maps were made.
func (r *Redirect) Counters() (map[string]uint64, error) {
	all := make(map[string]uint64, len(counterNames))
	for i, name := range counterNames {
		var perCPU []uint64
		if err := r.objs.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, v := range perCPU {
			all[name] += v
		}
	}
	refused, err := r.unattached()
	if err != nil {
		return nil, err
	}
	all["refused_unattached"] = refused // since this process keeps vigil
	return all, nil
}
