package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/sluice-proxy/sluice/control"
	"github.com/sluice-proxy/sluice/pool"
)

// codes is the one table of what an error is called on the wire and which
// status says so; the client reads it backwards.
var codes = []struct {
	code   pool.Code
	name   ErrorErrorCode
	status int
}{
	{pool.CodeInvalid, ErrorErrorCodeInvalid, http.StatusBadRequest},
	{pool.CodeUnauthorized, ErrorErrorCodeUnauthorized, http.StatusUnauthorized},
	{pool.CodeRateLimited, ErrorErrorCodeRateLimited, http.StatusTooManyRequests},
	{pool.CodeNotFound, ErrorErrorCodeNotFound, http.StatusNotFound},
	{pool.CodeConflict, ErrorErrorCodeConflict, http.StatusConflict},
	{pool.CodeUnavailable, ErrorErrorCodeUnavailable, http.StatusServiceUnavailable},
	{pool.CodeInternal, ErrorErrorCodeInternal, http.StatusInternalServerError},
}

// describe gives an error its status and its body.
func describe(err error) (int, Error) {
	known := control.Explain(err)
	for _, row := range codes {
		if row.code == known.Code {
			return row.status, errorBody(row.name, known.Message)
		}
	}
	return http.StatusInternalServerError, errorBody(ErrorErrorCodeInternal, known.Message)
}

func errorBody(code ErrorErrorCode, message string) Error {
	var body Error
	body.Error.Code, body.Error.Message = code, message
	return body
}

// fail answers with the error.
func fail(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	status, body := describe(err)
	if status == http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	write(w, status, body)
}

// write answers with a JSON value.
func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	// An error here is the client's having gone: there is nobody to tell.
	_ = encoder.Encode(body)
}

// restore is describe read backwards: the error that an answer stands for.
func restore(status int, body []byte) error {
	var answer Error
	if err := json.Unmarshal(body, &answer); err == nil && answer.Error.Message != "" {
		for _, row := range codes {
			if row.name == answer.Error.Code {
				return &pool.Error{Code: row.code, Message: answer.Error.Message}
			}
		}
	}
	return &pool.Error{
		Code:    pool.CodeInternal,
		Message: "what answers on the socket is not sluice, or not this release of it: " + http.StatusText(status),
	}
}
