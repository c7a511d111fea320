package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// decode reads the body, which has been held against the document already. No
// body is the zero value.
func decode[T any](r *http.Request) (T, error) {
	var value T
	err := json.NewDecoder(r.Body).Decode(&value)
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return value, nil
	case errors.As(err, &wrongType):
		return value, invalid("%s: must not be a %s", wrongType.Field, wrongType.Value)
	}
	return value, invalid("body: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// deref is the value that p points to, or the zero value.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// joined ends with either of two contexts.
func joined(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(other, cancel)
	return ctx, func() { stop(); cancel() }
}
