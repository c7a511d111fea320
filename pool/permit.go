package pool

// hostsOf are the hosts that a pool binds. The lock is held.
func (k *Keeper) hostsOf(p Pool) []string {
	var hosts []string
	for _, b := range p.Bindings {
		hosts = append(hosts, b.Host)
	}
	preset, _ := ProviderByName(p.Provider) // zero if there is none
	hosts = append(hosts, endpointHost(preset.TokenURL)...)
	for _, name := range p.Members {
		hosts = append(hosts, k.endpointHostOf(name)...)
	}
	return hosts
}

// endpointHostOf is the host that a credential brings into its pool, if any.
func (k *Keeper) endpointHostOf(credential string) []string {
	c, _ := k.view.credential(credential)
	return endpointHost(c.TokenURL)
}

// permitted is what a change that binds hosts has to be ready with.
func (k *Keeper) permitted(hosts []string) func() error {
	if k.opts.Permit == nil || len(hosts) == 0 {
		return nil
	}
	return func() error { return k.opts.Permit(hosts) }
}
