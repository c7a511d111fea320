package intercept

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Descriptors is how the descriptors that a process may have open are shared out. A
// connection takes two: the client's and the upstream's.
type Descriptors struct {
	Conns int // connections that are served at a time
	Pipes int // that spliced connections with bytes on their way share, two descriptors each
	Idle  int // connections to upstreams that wait for a request
}

// spareDescriptors are left to the rest of the process.
const spareDescriptors = 256

// OpenFiles shares out what RLIMIT_NOFILE allows.
func OpenFiles() (Descriptors, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return Descriptors{}, fmt.Errorf("ask for the limit of open files: %w", err)
	}
	return shareOut(limit.Cur), nil
}

func shareOut(files uint64) Descriptors {
	const least, most = 16, 1 << 20
	files = min(files, 4*most)
	d := Descriptors{
		Pipes: int(min(max(files/64, 8), 1024)),
		Idle:  int(min(max(files/16, least), 1024)),
	}
	d.Conns = min(max((int(files)-spareDescriptors-2*d.Pipes-d.Idle)/2, least), most)
	return d
}
