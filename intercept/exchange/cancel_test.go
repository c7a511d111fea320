package exchange

import (
	"net/http"
	"testing"
	"time"

	"github.com/sluice-proxy/sluice/pool"
)

// Who was aborted is not waited for, also if that came just before the wait began.
func TestAnAbortOutlastsDeadlines(t *testing.T) {
	t.Parallel()
	b := newBench(t, setup{handler: http.HandlerFunc(answerAtOnce)})
	for name, wait := range map[string]func(*client){
		"between requests": (*client).awaitRequest,
		"in a head":        func(cl *client) { cl.setReadBy(time.Now(), time.Minute) },
		"in a body": func(cl *client) {
			cl.setReadBy(time.Now(), time.Minute)
			cl.setReadBy(time.Time{}, 0)
		},
	} {
		near, _ := wires(t)
		cl := newClient(t.Context(), b.x, near.TCPConn, Upstream{}, pool.Route{}, new(Share))
		cl.abort()
		wait(cl)
		ended := make(chan error, 1)
		go func() {
			_, err := near.Read(make([]byte, 1))
			ended <- err
		}()
		select {
		case err := <-ended:
			if !isTimeout(err) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: it is waited for", name)
		}
		cl.cancel()
	}
}
