//go:build guest

package guest

import (
	"os"
	"testing"
)

// step is a part of the story. If it fails the ones after it mean nothing, when it is vital.
type step struct {
	name  string
	do    func(*testing.T)
	vital bool
}

func tell(t *testing.T, steps []step) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("it is root's to install packages and to start units")
	}
	for _, s := range steps {
		if !t.Run(s.name, s.do) && s.vital {
			t.Fatalf("without %s there is nothing more to see", s.name)
		}
	}
}

// TestGuest is the first boot: from a Debian without sluice to one with two agents that are to outlive a reboot.
func TestGuest(t *testing.T) {
	tell(t, []step{
		{"machine", machine, true},
		{"install", install, true},
		{"configure", configure, true},
		{"unit", attachUnit, true},
		{"container", attachContainer, true},
		{"pool", runOut, false},
		{"slice", slice, false},
		{"reload", reload, false},
		{"credential", credential, false},
		{"source", source, false},
		{"restart", restart, false},
		{"kill", kill, false},
		{"watchdog", watchdog, false},
		{"upgrade", upgrade, false},
		{"leave", leave, false},
	})
}

// TestGuestAfterReboot is the second boot: everything is attached again, and then nothing is left of it.
func TestGuestAfterReboot(t *testing.T) {
	tell(t, []step{
		{"attached", attachedAgain, false},
		{"remove", remove, true},
		{"purge", purge, false},
	})
}
