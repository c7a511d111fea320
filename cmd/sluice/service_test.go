package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-proxy/sluice/control/api"
)

// An answer that does not come is told as one, in time for the next try.
func TestPings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		began := time.Now()
		var told []string
		asked := 0
		pings(ctx, time.Second, func(ctx context.Context) error {
			if asked++; asked == 3 { // hangs
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, func(err error) {
			word := "well"
			if errors.Is(err, context.DeadlineExceeded) {
				word = "late"
			}
			told = append(told, word+time.Since(began).String())
			if len(told) == 5 {
				stop()
			}
		})
		if want := []string{"well0s", "well1s", "late3s", "well3s", "well4s"}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}

// An error that the API gives is an answer, a silent socket is none.
func TestAnswers(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	silent := false
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if silent {
			<-r.Context().Done()
		}
		w.WriteHeader(http.StatusInternalServerError)
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	client, err := api.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := answers(t.Context(), client); err != nil {
		t.Errorf("500: %v, want an answer", err)
	}
	silent = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := answers(ctx, client); err == nil {
		t.Error("silence passes for an answer")
	}
}

// Each key of the configuration is applied by a reload or said to need a restart.
func TestNeedRestart(t *testing.T) {
	t.Parallel()
	live := []string{"LogLevel", "Notify", "API.TLSKey"}
	notConfigured := []string{"CredentialDir"} // of the environment
	var check func(path string, field func(*config) reflect.Value, of reflect.Type)
	check = func(path string, field func(*config) reflect.Value, of reflect.Type) {
		if of.Kind() == reflect.Struct && path != "Notify" {
			for i := range of.NumField() {
				check(strings.TrimPrefix(path+"."+of.Field(i).Name, "."), func(c *config) reflect.Value { return field(c).Field(i) }, of.Field(i).Type)
			}
			return
		}
		if slices.Contains(notConfigured, path) {
			return
		}
		next := defaultConfig()
		switch v := field(&next); v.Kind() {
		case reflect.String:
			v.SetString("other")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Uint32:
			v.SetUint(v.Uint() + 1)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(of, 7, 7))
		case reflect.Map:
			v.Set(reflect.MakeMap(of))
		case reflect.Struct:
			next.Notify.Sum = "other"
		default:
			t.Errorf("%s: the test cannot change a %s", path, v.Kind())
		}
		if keys := needRestart(defaultConfig(), next); (len(keys) == 1) == slices.Contains(live, path) {
			t.Errorf("%s changed: a restart is said to be needed for %q", path, keys)
		}
	}
	check("", func(c *config) reflect.Value { return reflect.ValueOf(c).Elem() }, reflect.TypeFor[config]())
	if keys := needRestart(defaultConfig(), defaultConfig()); len(keys) > 0 {
		t.Errorf("nothing changed, and %q need a restart", keys)
	}
}
