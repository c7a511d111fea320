package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

var (
	// ErrNoUnit says that there is no cgroup of a unit's.
	ErrNoUnit = errors.New("it has no cgroup")
	// ErrUnitName says that no unit can have a name.
	ErrUnitName = errors.New("it is not the name of a unit of systemd's")
	// ErrManyUnits says that several cgroups have a unit's name.
	ErrManyUnits = errors.New("several cgroups have its name")
)

// unitKinds are the units that have processes, by suffix: what their interface of systemd's is called
// (org.freedesktop.systemd1(5)).
func unitKinds() map[string]string {
	return map[string]string{
		".service": "Service", ".scope": "Scope", ".slice": "Slice", ".socket": "Socket", ".mount": "Mount", ".swap": "Swap",
	}
}

// OfUnit returns the absolute path of the cgroup of a running unit of systemd's, and the
// unit's whole name: without a suffix it is a service. systemd is asked if it runs; what it
// does not know, a user's unit for instance, is looked for in the tree. The error matches ErrNoUnit, ErrUnitName or ErrManyUnits.
func OfUnit(ctx context.Context, name string) (path, unit string, err error) {
	mount, err := Mount()
	if err != nil {
		return "", "", err
	}
	if unit, err = unitName(name); err != nil {
		return "", "", err
	}
	if _, booted := os.Stat("/run/systemd/system"); booted == nil { // sd_booted(3)
		conn, err := dbus.NewSystemConnectionContext(ctx)
		if err == nil {
			path, err = askSystemd(ctx, conn, mount, unit)
			conn.Close()
		}
		if err == nil && path != "" {
			return path, unit, nil
		}
	}
	path, err = findUnit(mount, unit)
	return path, unit, err
}

// unitName completes and checks a unit's name (systemd.unit(5)).
func unitName(name string) (string, error) {
	if filepath.Ext(name) == "" || unitKinds()[filepath.Ext(name)] == "" {
		name += ".service"
	}
	if len(name) > 255 || strings.ContainsAny(name, "/ \t\n\x00") || name[0] == '.' {
		return "", fmt.Errorf("unit %q: %w", name, ErrUnitName)
	}
	return name, nil
}

// askSystemd is "" for a unit that does not run, or that this systemd does not have.
func askSystemd(ctx context.Context, conn *dbus.Conn, mount, unit string) (string, error) {
	property, err := conn.GetUnitTypePropertyContext(ctx, unit, unitKinds()[filepath.Ext(unit)], "ControlGroup")
	var refused godbus.Error
	if errors.As(err, &refused) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask systemd for unit %s: %w", unit, err)
	}
	below, _ := property.Value.Value().(string)
	if below == "" {
		return "", nil
	}
	return filepath.Join(mount, below), nil
}

// findUnit looks for a cgroup with the unit's name.
func findUnit(mount, unit string) (string, error) {
	var found []string
	err := filepath.WalkDir(mount, func(at string, entry fs.DirEntry, err error) error {
		if at != mount && gone(err) {
			return fs.SkipDir // removed while we walk
		}
		if err == nil && entry.IsDir() && entry.Name() == unit {
			found = append(found, at)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("look for unit %s: %w", unit, err)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("unit %s: %w below %s: it does not run, or is no unit; 'systemctl status %s' tells, and a unit is attached while it runs",
			unit, ErrNoUnit, mount, unit)
	}
	slices.Sort(found)
	return "", fmt.Errorf("unit %s: %w: %s; attach one of them with --cgroup", unit, ErrManyUnits, strings.Join(found, ", "))
}
