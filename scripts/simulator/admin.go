package simulator

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Admin serves what scripts ask of a simulator that runs as a command:
//
//	GET    /ca.pem
//	GET    /journal?since=SEQ          entries after SEQ, oldest first
//	DELETE /journal
//	GET    /credentials                what each has used
//	PUT    /credentials/NAME           a Behaviour, replacing the old one
//	POST   /credentials/NAME/spend     {"for": "12s"}: refused from now on
//	POST   /credentials/NAME/restore   a full quota
func (s *Simulator) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ca.pem", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(s.CA())
	})
	mux.HandleFunc("GET /journal", func(w http.ResponseWriter, r *http.Request) {
		since, err := strconv.ParseUint(r.FormValue("since"), 10, 64)
		if err != nil && r.FormValue("since") != "" {
			reply(w, http.StatusBadRequest, map[string]string{"error": "since: not a number"})
			return
		}
		reply(w, http.StatusOK, s.journal.Since(since))
	})
	mux.HandleFunc("DELETE /journal", func(w http.ResponseWriter, _ *http.Request) {
		s.journal.Clear()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /credentials", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Usage()) })
	mux.HandleFunc("PUT /credentials/{name}", func(w http.ResponseWriter, r *http.Request) {
		var b Behaviour
		if decode(w, r, &b) {
			outcome(w, s.SetBehaviour(r.PathValue("name"), b))
		}
	})
	mux.HandleFunc("POST /credentials/{name}/spend", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			For Duration `json:"for"`
		}
		if decode(w, r, &ask) {
			outcome(w, s.Spend(r.PathValue("name"), time.Duration(ask.For)))
		}
	})
	mux.HandleFunc("POST /credentials/{name}/restore", func(w http.ResponseWriter, r *http.Request) {
		outcome(w, s.Restore(r.PathValue("name")))
	})
	return mux
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return false
	}
	return true
}

func outcome(w http.ResponseWriter, err error) {
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, ErrUnknown):
		reply(w, http.StatusNotFound, map[string]string{"error": err.Error()})
	default:
		reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
	}
}

func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the asker is gone otherwise
}
