package control

import (
	"errors"

	"github.com/sluice-proxy/sluice/pool"
)

// Explain is an error as whoever asked may be told of it, in the same words on
// every channel. How sluice's own faults came about is for the daemon's log.
func Explain(err error) *pool.Error {
	var known *pool.Error
	if errors.As(err, &known) && known.Code != pool.CodeInternal {
		return known
	}
	return &pool.Error{Code: pool.CodeInternal, Message: "something went wrong inside sluice: the daemon's log says what"}
}
