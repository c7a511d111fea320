package control

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/sluice-proxy/sluice/pool"
)

// Explain is an error as whoever asked may be told of it, in the same words on
// every channel: those of a disk, too. How sluice's own faults came about is for the daemon's log.
func Explain(err error) *pool.Error {
	var known *pool.Error
	if errors.As(err, &known) && known.Code != pool.CodeInternal {
		return known
	}
	if file, is := errors.AsType[*fs.PathError](err); is {
		mend := ""
		switch {
		case errors.Is(file.Err, syscall.ENOSPC), errors.Is(file.Err, syscall.EDQUOT):
			mend = "make room"
		case errors.Is(file.Err, syscall.EROFS):
			mend = "mount it read-write"
		}
		if mend != "" {
			return &pool.Error{Code: pool.CodeUnavailable, Message: fmt.Sprintf("nothing can be stored: %s: %s and try again", file, mend)}
		}
	}
	return &pool.Error{Code: pool.CodeInternal, Message: "something went wrong inside sluice: the daemon's log says what"}
}
