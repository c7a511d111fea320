package main

import (
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/sluice-proxy/sluice/control/api"
	"github.com/sluice-proxy/sluice/pool"
)

// proxied are the variables that name a proxy, some clients' for https alone, some for
// everything: each has a lower-case form.
var proxied = []string{"HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY"}

// aroundProxies has the command's clients connect to the pools' hosts by themselves, if a
// variable names a proxy. What goes through one is inside of a connection to somebody else,
// which nobody redirects: the placeholder would reach the API, and be turned down there.
func aroundProxies(environment, hosts []string) []string {
	if !slices.ContainsFunc(proxied, func(name string) bool {
		return valueOf(environment, name) != "" || valueOf(environment, strings.ToLower(name)) != ""
	}) {
		return environment
	}
	upper, lower := valueOf(environment, "NO_PROXY"), valueOf(environment, "no_proxy")
	// Clients differ in which of the two they read first: both have to say it.
	for name, value := range map[string]string{"NO_PROXY": cmp.Or(upper, lower), "no_proxy": cmp.Or(lower, upper)} {
		named := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		if slices.Contains(named, "*") {
			continue
		}
		for _, host := range hosts {
			if !slices.Contains(named, host) {
				named = append(named, host)
			}
		}
		environment = slices.DeleteFunc(slices.Clone(environment), func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		environment = append(environment, name+"="+strings.Join(named, ","))
	}
	return environment
}

// valueOf is a variable's value, "" if it is unset.
func valueOf(environment []string, name string) string {
	for _, entry := range slices.Backward(environment) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// takenHosts are the hosts that pools take over for a command: those that they are bound to, and
// those where their providers' agents renew a login. names are the pools; none means all.
func takenHosts(pools []api.Pool, names []string) []string {
	var hosts []string
	for _, p := range pools {
		if len(names) > 0 && !slices.Contains(names, p.Name) {
			continue
		}
		for _, b := range p.Bindings {
			hosts = append(hosts, b.Host)
		}
		if preset, err := pool.ProviderByName(p.Provider); err == nil && preset.TokenURL != "" {
			if u, err := url.Parse(preset.TokenURL); err == nil {
				hosts = append(hosts, u.Hostname())
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}
