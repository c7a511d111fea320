package trust

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Dir is where a command finds its certificate files: a file system of its own,
// in its mount namespace only. On the host it is an empty directory, and stays:
// rmdir(2) would take the mount away from the commands that still run.
const Dir = "/run/sluice-trust"

// source is how the mounts show up in /proc/PID/mountinfo.
const source = "sluice-ca"

// Install makes the calling process, and what it executes, trust ca (PEM). The
// process must be root and in a mount namespace of its own. Every certificate
// bundle that exists is covered by the same bundle with the CA added, read-only;
// the bundles themselves are not changed, and mounts made on the host later are
// still seen. It returns the environment for the command.
//
// home is the home directory of the command's user, "" if there is none.
func Install(ca []byte, environ []string, home string) ([]string, error) {
	if !hasCertificate(ca) {
		return environ, nil // no host is bound
	}
	var system []byte
	if path := System(); path != "" {
		var err error
		if system, err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("read the system's certificates: %w", err)
		}
	}
	// Before Dir is mounted over: a command that runs inside of another one has its variables name files in there.
	environ, made, err := plan(environ, Dir, ca, system, os.ReadFile)
	if err != nil {
		return nil, err
	}
	// Nothing that is mounted here may show up on the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, fmt.Errorf("take the mounts apart from the host's: %w", err)
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory that certificates are mounted on: %w: make it by other means, or have /run writable", err)
	}
	if err := unix.Mount(source, Dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64m"); err != nil {
		return nil, fmt.Errorf("mount a file system for certificates: %w", err)
	}
	if err := made.write(Dir); err != nil {
		return nil, err
	}
	bundles, _ := newSearch(math.MaxInt, math.MaxInt).bundles(places(environ, home)) // who waits for the end of it is who asked
	if err := cover(bundles, ca); err != nil {
		return nil, err
	}
	// The whole file system, and with it every file that was mounted from it.
	if err := unix.Mount("", Dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("make the certificates read-only: %w", err)
	}
	return environ, nil
}

// cover mounts a merged copy over each bundle, with its owner and permissions. A key store that cannot be added to is left
// as it is: what the command starts may well be no Java. So is what has no certificate, for the environment is the user's.
func cover(bundles []string, ca []byte) error {
	for i, path := range bundles {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		original, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if serves(path, original) || !hasCertificate(original) && !isKeyStore(original) && !slices.Contains(systemBundles, path) {
			continue
		}
		both, err := MergeAny(original, ca)
		if err != nil {
			continue
		}
		merged := filepath.Join(Dir, "over-"+strconv.Itoa(i)+".pem")
		err = os.WriteFile(merged, both, 0o600)
		if err = errors.Join(err, os.Chown(merged, int(st.Uid), int(st.Gid)), os.Chmod(merged, os.FileMode(st.Mode&0o777))); err != nil {
			return fmt.Errorf("merge %s: %w", path, err)
		}
		if err := unix.Mount(merged, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	return nil
}
