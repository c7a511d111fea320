package pool

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestHintRules holds the parser to the rules where testdata has no case: none is -1.
func TestHintRules(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 17, 30, 0, 0, time.UTC) // 1795455000
	for _, c := range []struct {
		name string
		h    http.Header
		body string
		now  time.Time
		want float64
	}{
		{name: "codex window with a limit's id", h: http.Header{"X-Codex-Bengalfox-Primary-Used-Percent": {"100.0"}, "X-Codex-Bengalfox-Primary-Reset-After-Seconds": {"77"}}, want: 77},
		{name: "codex unreadable wait leaves the instant", h: http.Header{"X-Codex-Primary-Used-Percent": {"100"}, "X-Codex-Primary-Reset-After-Seconds": {"-1"}, "X-Codex-Primary-Reset-At": {"1795455100"}}, want: 100},
		{name: "codex passed wait", h: http.Header{"X-Codex-Primary-Used-Percent": {"100"}, "X-Codex-Primary-Reset-After-Seconds": {"0"}}, want: -1},
		{name: "both codex windows have to pass", h: http.Header{
			"X-Codex-Primary-Used-Percent": {"100"}, "X-Codex-Primary-Reset-After-Seconds": {"60"},
			"X-Codex-Secondary-Used-Percent": {"101"}, "X-Codex-Secondary-Reset-After-Seconds": {"900"},
		}, want: 900},
		{name: "usage limit at the top level", body: `{"type":"usage_limit_reached","resets_at":1795455300}`, want: 300},
		{
			name: "gemini's day ends at midnight in Los Angeles", now: time.Date(2026, 11, 24, 7, 30, 0, 0, time.UTC),
			body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}`, want: 1800,
		},
		{name: "gemini's minute is no day", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerMinutePerProjectPerModel"}]}]}}`, want: -1},
		{
			name: "a day that only the reason's details name", now: time.Date(2026, 11, 24, 7, 30, 0, 0, time.UTC),
			body: `[{"error":{"code":429,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"RATE_LIMIT_EXCEEDED","metadata":{"quota_limit":"Gemini25ProRequestsPerDayPerUserPerTier"}}]}}]`, want: 1800,
		},
		{name: "a minute that only the reason's details name", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","metadata":{"quota_limit":"GenerateContentRequestsPerMinutePerProjectPerRegion"}}]}}`, want: -1},
		{name: "quotaResetTimeStamp", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","metadata":{"quotaResetTimeStamp":"2026-11-23T18:46:55Z"}}]}}`, want: 4615},
		{name: "quotaResetDelay needs no clock", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","metadata":{"quotaResetDelay":"30s","quotaResetTimeStamp":"2026-11-23T18:46:55Z"}}]}}`, want: 30},
		{name: "quotaResetDelay", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","metadata":{"quotaResetDelay":"1h2m0.5s"}}]}}`, want: 3720.5},
		{name: "an unreadable wait is dropped alone", h: http.Header{"Retry-After": {"soon"}, "X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"30"}}, want: 30},
		{name: "a passed date is dropped alone", h: http.Header{"Retry-After": {"Mon, 23 Nov 2026 17:00:00 GMT"}, "X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"30"}}, want: 30},
		{name: "an explicit wait beats a full bucket", h: http.Header{"Retry-After": {"0"}, "X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"300"}}, want: 10},
		{name: "a hard window beats a shorter explicit wait", h: http.Header{"Retry-After": {"5"}, "Anthropic-Ratelimit-Unified-7d-Status": {"rejected"}, "Anthropic-Ratelimit-Unified-7d-Reset": {"1795455500"}}, want: 500},
		{name: "extra usage that is spent as well is no window", h: http.Header{
			"Anthropic-Ratelimit-Unified-Status": {"rejected"}, "Anthropic-Ratelimit-Unified-Reset": {"1795457094"},
			"Anthropic-Ratelimit-Unified-5h-Status": {"rejected"}, "Anthropic-Ratelimit-Unified-5h-Reset": {"1795457094"},
			"Anthropic-Ratelimit-Unified-Overage-Status": {"rejected"}, "Anthropic-Ratelimit-Unified-Overage-Reset": {"1796083200"},
		}, want: 2094},
		{name: "extra usage that was never bought is no hint of a burst's end", h: http.Header{
			"Anthropic-Ratelimit-Unified-Status":         {"allowed"},
			"Anthropic-Ratelimit-Unified-Overage-Status": {"rejected"}, "Anthropic-Ratelimit-Unified-Overage-Reset": {"1796083200"},
		}, want: -1},
		{name: "two spent buckets that are full at once", h: http.Header{"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"1m"}, "X-Ratelimit-Remaining-Tokens": {"0"}, "X-Ratelimit-Reset-Tokens": {"60s"}}, want: 60},
		{name: "latest of two spent buckets", h: http.Header{"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"1m"}, "X-Ratelimit-Remaining-Tokens_usage_based": {"0"}, "X-Ratelimit-Reset-Tokens_usage_based": {"2m"}}, want: 120},
		{name: "a window between prefix and word", h: http.Header{"X-Vendor-Rate-Limit-Requests-Remaining": {"0"}, "X-Vendor-Rate-Limit-Requests-Reset": {"42"}}, want: 42},
		{name: "another kind of limit in the word itself", h: http.Header{"X-Ratelimitbysize-Remaining-Minute": {"0"}, "X-Ratelimitbysize-Reset-Minute": {"23"}}, want: 23},
		{name: "windows of different prefixes are not a pair", h: http.Header{"A-Ratelimit-Remaining": {"0"}, "B-Ratelimit-Reset": {"30"}}, want: -1},
		{name: "windows of different spellings are not a pair", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"30"}, "X-Rate-Limit-Reset": {"300"}}, want: 30},
		{name: "ambiguous reset", h: http.Header{"X-Ratelimit-Reset": {"45"}, "X-Ratelimit-Reset-Tokens": {"1m30s"}}, want: 90},
		{name: "ambiguous no more if anything remains", h: http.Header{"X-Ratelimit-Reset": {"45"}, "X-Ratelimit-Remaining-Tokens": {"7"}}, want: -1},
		{name: "what remains in a field contradicts a reset in the body", h: http.Header{"X-Ratelimit-Remaining": {"7"}}, body: `{"error":{"metadata":{"headers":{"X-RateLimit-Reset":"45"}}}}`, want: -1},
		{name: "reset-after of a window with something left", h: http.Header{"X-Ratelimit-Remaining": {"3"}, "X-Ratelimit-Reset-After": {"64"}}, want: -1},
		{name: "policy without what remains", h: http.Header{"Ratelimit": {`"default";t=30`}}, want: 30},
		{name: "a policy that says twice what remains", h: http.Header{"Ratelimit": {`"default";r=0;r=7;t=30`}}, want: -1},
		{name: "a policy that says twice when it resets", h: http.Header{"Ratelimit": {`"default";r=0;t=900;t=32`}}, want: 32},
		{name: "policies' names may hold separators", h: http.Header{"Ratelimit": {`"a,b;r=5";r=0;t=31`}}, want: 31},
		{name: "epoch milliseconds", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1795455033000"}}, want: 33},
		{name: "epoch microseconds", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1795455034000000"}}, want: 34},
		{name: "the least epoch microseconds", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1000000000000000"}}, want: -1},
		{name: "epoch microseconds of 19 digits", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1795455035000000000"}}, want: 21600},
		{name: "epoch microseconds of 18 digits", h: http.Header{"X-Ratelimit-Reset": {"179545503500000000"}}, want: 21600},
		{name: "epoch microseconds of 19 digits for a wait", h: http.Header{"Retry-After": {"1795455036000000000"}}, want: 21600},
		{name: "an epoch just passed is no wait of decades", h: http.Header{"Retry-After": {"1795454990"}}, want: -1},
		{name: "epoch milliseconds for a wait", h: http.Header{"Retry-After": {"1795455300000"}}, want: 300},
		{name: "epoch milliseconds just passed", h: http.Header{"Retry-After": {"1795454990000"}}, want: -1},
		{name: "a number that is no epoch either", h: http.Header{"Retry-After": {"9300000000000000"}}, want: 21600},
		{name: "an epoch for a wait in a body", body: `{"error":{"retry_after":1795455301}}`, want: 301},
		{name: "a date for a wait in a body", body: `{"retry_after":"2026-11-23T17:35:02Z"}`, want: 302},
		{name: "a date for a wait in a body, passed", body: `{"retry_after":"2026-11-23T17:25:02Z"}`, want: -1},
		{name: "no wait at all in a body", body: `{"retry_after":0}`, want: 10},
		{name: "retry_after under error, a string", body: `{"error":{"retry_after":"31"}}`, want: 31},
		{name: "reset_after at the top", body: `{"reset_after":32.5}`, want: 32.5},
		{name: "a wait that has its unit in its name", body: `{"error":{"message":"m","retry_after_seconds":33}}`, want: 33},
		{name: "a wait in milliseconds", body: `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":34500}`, want: 34.5},
		{name: "a wait in JavaScript's spelling", body: `{"error":{"retryAfter":35}}`, want: 35},
		{name: "a wait in JavaScript's spelling, in milliseconds", body: `{"retryAfterMs":"36000"}`, want: 36},
		{name: "a wait in JavaScript's spelling, its unit said", body: `{"detail":{"retryAfterSeconds":37.5}}`, want: 37.5},
		{name: "a wait that is called as the field is", body: `{"result":"error","code":"RATE_LIMIT_HIT","retry-after":38.5}`, want: 38.5},
		{name: "a wait in milliseconds that is none", body: `{"retry_after_ms":-5,"retryAfter":null,"retry_after_seconds":"soon"}`, want: -1},
		{name: "a wait that is called as the field is, in capitals", body: `{"error":{"Retry-After":"39"}}`, want: 39},
		{name: "a wait with its unit, in another spelling", body: `{"RETRY-AFTER-MS":39500}`, want: 39.5},
		{name: "a wait in an error's details", body: `{"error":{"code":"RATE_LIMITED","details":{"retryAfter":40}}}`, want: 40},
		{name: "a wait in an error's metadata", body: `{"error":{"code":429,"metadata":{"retry_after_seconds":41}}}`, want: 41},
		{name: "error as a string", body: `{"error":"Too many requests, try again in 30 seconds"}`, want: 30},
		{name: "a list of errors", body: `{"errors":[{"message":"Rate limited, try again in 40 seconds"}]}`, want: 40},
		{name: "a list of errors with a wait", body: `{"errors":[{"retry_after":41}]}`, want: 41},
		{name: "no object in a list of errors", body: `{"errors":["try again in 40 seconds"]}`, want: -1},
		{name: "an error in an error", body: `{"error":{"error":{"message":"m","retry_after":43}}}`, want: 43},
		{name: "an error in a detail", body: `{"detail":{"error":{"retry_after":44}}}`, want: 44},
		{name: "a detail", body: `{"detail":{"message":"Too many requests, try again in 45 seconds"}}`, want: 45},
		{name: "a detail with a usage limit", body: `{"detail":{"type":"usage_limit_reached","resets_in_seconds":5400}}`, want: 5400},
		{name: "a detail with google's", body: `{"detail":{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"38s"}]}}}`, want: 38},
		{name: "a detail in prose", body: `{"detail":"Rate limited, retry in 46 s"}`, want: 46},
		{name: "an error that is JSON", body: `{"error":"{\"retry_after\":47}"}`, want: 47},
		{name: "a message that is JSON", body: `{"error":{"code":429,"message":"{\n  \"error\": {\"details\": [{\"@type\": \"RetryInfo\", \"retryDelay\": \"48s\"}]}}\n"}}`, want: 48},
		{name: "an upstream's own JSON", body: `{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"{\"error\":{\"message\":\"Rate limit reached. Please try again in 49s.\",\"type\":\"tokens\"}}","provider_name":"OpenAI"}}}`, want: 49},
		{name: "an upstream's own JSON with a wait", body: `{"error":{"metadata":{"raw":"[{\"error\":{\"error\":{\"retry_after\":51}}}]"}}}`, want: 51},
		{name: "an upstream's own words", body: `{"error":{"message":"Provider returned error","metadata":{"raw":"m is rate-limited upstream. Please retry in 52 seconds"}}}`, want: 52},
		{name: "an upstream's fields, in a detail", body: `{"detail":{"error":{"metadata":{"headers":{"Retry-After":"53"}}}}}`, want: 53},
		{name: "an upstream's fields, line by line", body: `{"error":{"metadata":{"headers":{"X-RateLimit-Remaining":["0"],"X-RateLimit-Reset":["1795455064000"]}}}}`, want: 64},
		{name: "an upstream's fields, one of two lines", body: `{"error":{"metadata":{"headers":{"retry-after":[54,"soon"]}}}}`, want: 54},
		{name: "an upstream's fields, in two spellings", body: `{"error":{"metadata":{"headers":{"X-RateLimit-Remaining":"7","X-RateLimit-Reset":"90","x-ratelimit-remaining":0,"x-ratelimit-reset":55}}}}`, want: 55},
		{name: "an upstream's fields, of no text", body: `{"error":{"metadata":{"headers":{"retry-after":[[56],{"a":57},null,true]}}}}`, want: -1},
		{name: "JSON that is cut off", body: `{"error":{"metadata":{"raw":"{\"retry_after\":"}}}`, want: -1},
		{name: "HTML that was passed on", body: `{"error":{"metadata":{"raw":"<p>{\"retry_after\":54}</p>"}}}`, want: -1},
		{name: "deeper than is looked", body: strings.Repeat(`{"error":`, 9) + `{"retry_after":55}` + strings.Repeat("}", 9), want: -1},
		{name: "an event stream", body: "event: error\ndata: {\"type\":\"error\",\"error\":{\"retry_after\":56}}\n\n", want: 56},
		{name: "an event stream, data alone", body: "data:{\"error\":{\"message\":\"try again in 57 s\"}}\r\n\r\ndata: [DONE]\r\n\r\n", want: 57},
		{name: "an event stream, after a comment", body: ": x\n\nid: 1\ndata: {\"error\":\ndata: {\"retry_after\":58}}", want: 58},
		{name: "an event stream, an id first", body: "id: 1\ndata: {\"retry_after\":59}\n", want: 59},
		{name: "an event stream of no JSON", body: "data: <p>try again in 60 s</p>\n\n", want: -1},
		{name: "HTML with a line like an event's", body: "<script>\ndata: {\"retry_after\":61}\n</script>", want: -1},
		{name: "a byte order mark", body: "\ufeff{\"retry_after\":42}", want: 42},
		{name: "a date in prose, to the minute", body: `{"error":{"message":"spend limit reached (daily; resets 2026-11-23 18:00 UTC), ask for more"}}`, want: 1800},
		{name: "a date in prose, its offset without a colon", body: `{"error":{"message":"limit resets at: 2026-11-23T18:00:00+0000"}}`, want: 1800},
		{name: "a date in prose, its offset right behind", body: `{"error":{"message":"Try again at 2026-11-24 02:00:00+0800."}}`, want: 1800},
		{name: "a date in prose, its offset apart", body: `{"error":{"message":"It will reset at 2026-11-24 02:00:00 +08:00."}}`, want: 1800},
		{name: "a date in prose in a zone that is not said", body: `{"error":{"message":"Your limit will reset at 2026-11-24 05:38:28"}}`, want: -1},
		{name: "a time of day in prose", body: `{"error":{"message":"You've hit your usage limit. Try again at 3:45 PM."}}`, want: -1},
		{name: "midnight in prose", now: time.Date(2026, 11, 24, 7, 30, 0, 0, time.UTC), body: `{"error":{"message":"Daily quota exceeded, it resets at midnight Pacific time."}}`, want: 1800},
		{name: "midnight in prose, in short", now: time.Date(2026, 7, 24, 6, 30, 0, 0, time.UTC), body: `{"error":{"message":"Your limit will reset at midnight (PT)."}}`, want: 1800},
		{name: "midnight in prose, in UTC", now: time.Date(2026, 11, 23, 23, 30, 0, 0, time.UTC), body: `{"error":{"message":"Daily limit reached. Resets at midnight UTC."}}`, want: 1800},
		{name: "midnight in prose, to the minute", now: time.Date(2026, 11, 23, 23, 30, 0, 0, time.UTC), body: `{"error":{"message":"Daily limit reached; resets daily at 00:00 UTC"}}`, want: 1800},
		{name: "midnight in prose, and a wait", body: `{"error":{"message":"The day's limit resets at midnight UTC. This is the minute's: try again in 79 s."}}`, want: 79},
		{name: "midnight in prose, wherever that is", body: `{"error":{"message":"Daily limit reached. Resets at midnight."}}`, want: -1},
		{name: "midnight in prose, of another day", body: `{"error":{"message":"The limit resets on Dec 1 at 00:00 UTC"}}`, want: -1},
		{name: "a date in prose, as it is spoken", body: `{"error":{"message":"Your organization has crossed its monthly API usage threshold. You will regain access on 2026-11-23 at 18:00 UTC."}}`, want: 1800},
		{name: "a wait in prose, by a field's name", body: `{"error":{"message":"GeminiException - {\"retryDelay\": \"38s\"}, retry_after=39s"}}`, want: 38},
		{name: "prose is the last resort", h: http.Header{"X-Ratelimit-Reset": {"20"}}, body: `{"error":{"message":"try again in 5 minutes"}}`, want: 20},
		{name: "a limit's own wait, named after what is spent", h: http.Header{"X-Ratelimit-User-Retry-After": {"1800"}, "X-Ratelimit-Exceeded": {"quota_exceeded"}}, want: 1800},
		{name: "a limit's own wait", h: http.Header{"x-ratelimit-retry-after": {"61"}}, want: 61},
		{name: "a limit's own wait, an instant", h: http.Header{"X-RateLimit-Retry-After": {"1795455062"}}, want: 62},
		{name: "a limit's own wait, its unit said", h: http.Header{"X-Rate-Limit-User-Retry-After-Seconds": {"63"}}, want: 63},
		{name: "another's own wait, in a unit of its own", h: http.Header{"X-Amzn-Kiro-Ratelimit-Retry-After": {"30000"}}, want: -1},
		{name: "names in any case are one field", h: http.Header{"Retry-After": {"20"}, "retry-after": {"50"}}, want: 50},
		{name: "waits that somebody has joined", h: http.Header{"Retry-After-Ms": {"26894, 30500"}}, want: 30.5},
		{name: "a pair that somebody has joined", h: http.Header{"X-Ratelimit-Remaining": {"0, 0"}, "X-Ratelimit-Reset": {"60, 120"}}, want: 120},
		{name: "a pair that somebody has joined, something left of one", h: http.Header{"X-Ratelimit-Remaining": {"0, 7"}, "X-Ratelimit-Reset": {"60, 120"}}, want: 60},
		{name: "a pair that comes twice, something left of one", h: http.Header{"X-Ratelimit-Remaining": {"7", "0"}, "X-Ratelimit-Reset": {"120", "61"}}, want: 61},
		{name: "what remains of two, of which one resets", h: http.Header{"X-Ratelimit-Remaining": {"7", "0"}, "X-Ratelimit-Reset": {"62"}}, want: 62},
		{name: "a policy twice, something left of one", h: http.Header{"Ratelimit": {"limit=9, remaining=0, reset=63", "limit=99, remaining=7, reset=900"}}, want: 63},
		{name: "a pair in both orders of its words, something left of one", h: http.Header{
			"X-Ratelimit-Remaining-Tokens": {"0"}, "X-Ratelimit-Reset-Tokens": {"60"}, "X-Ratelimit-Tokens-Remaining": {"5"}, "X-Ratelimit-Tokens-Reset": {"120"},
		}, want: 60},
		{name: "another pair in both orders of its words, something left of one", h: http.Header{
			"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"60"}, "X-Ratelimit-Requests-Remaining": {"5"}, "X-Ratelimit-Requests-Reset": {"120"},
		}, want: 60},
		{name: "the same, of which one is in capitals", h: http.Header{
			"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"60"}, "x-ratelimit-requests-remaining": {"5"}, "X-RATELIMIT-REQUESTS-RESET": {"120"},
		}, want: 60},
		{name: "a pair in two orders of its words", h: http.Header{"X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Requests-Reset": {"121"}}, want: 121},
		{name: "a pair in two spellings, something left of one", h: http.Header{
			"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"60"}, "x-ratelimit-remaining": {"5"}, "x-ratelimit-reset": {"120"},
		}, want: 60},
		{name: "a date for a pair, and its comma", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"Mon, 23 Nov 2026 17:32:00 GMT"}}, want: 120},
		{name: "two dates on a line", h: http.Header{"Retry-After": {"Mon, 23 Nov 2026 17:35:00 GMT, Mon, 23 Nov 2026 17:40:00 GMT"}}, want: 600},
		{name: "a date without its day's name", h: http.Header{"Retry-After": {"23 Nov 2026 17:35:00 +0000"}}, want: 300},
		{name: "a leap second", now: time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC), h: http.Header{"Retry-After": {"Thu, 31 Dec 2026 23:59:60 GMT"}}, want: 60},
		{name: "a leap second, as RFC 850 has it", now: time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC), h: http.Header{"Retry-After": {"Thursday, 31-Dec-26 23:59:60 GMT"}}, want: 60},
		{name: "a leap second, as asctime has it", now: time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC), h: http.Header{"Retry-After": {"Thu Dec 31 23:59:60 2026"}}, want: 60},
		{name: "a leap second with an offset", now: time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC), h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2027-01-01T05:29:60.5+05:30"}}, want: 60.5},
		{name: "a second that no minute has", h: http.Header{"Retry-After": {"Mon, 23 Nov 2026 17:34:61 GMT"}}, want: -1},
		{name: "a minute that no hour has", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2026-11-23T17:60:00Z"}}, want: -1},
		{name: "a date in UTC, as Go's RFC 1123 has it", h: http.Header{"Retry-After": {"Mon, 23 Nov 2026 17:35:00 UTC"}}, want: 300},
		{name: "a date in prose, as Go prints it", body: `{"error":{"message":"It will reset at 2026-11-23 18:00:00 +0000 UTC."}}`, want: 1800},
		{name: "a date in prose, in RFC 3339 but for its zone", body: `{"error":{"message":"It will reset at 2026-11-23T18:00:00 UTC."}}`, want: 1800},
		{name: "a date in prose, in UTC", body: `{"error":{"message":"It will reset at 2026-11-23 18:00:00 UTC."}}`, want: 1800},
		{name: "a number for google's wait", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":38.5}]}}`, want: 38.5},
		{name: "google's wait, of which a part is not readable", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{"seconds":-5,"nanos":1}}]}}`, want: -1},
		{name: "google's wait by the field's own name", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retry_delay":{"seconds":39}}]}}`, want: 39},
		{name: "google's wait by the field's own name, in JSON's form", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retry_delay":"39.5s"}]}}`, want: 39.5},
		{
			name: "gemini's day by the field's own name", now: time.Date(2026, 11, 24, 7, 30, 0, 0, time.UTC),
			body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quota_id":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}`, want: 1800,
		},
		{name: "google's wait, of which a part is zero", body: `{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{"nanos":1}}]}}`, want: 10},
		{name: "reset-after, an instant", h: http.Header{"X-Ratelimit-Reset-After": {"1795455064"}}, want: 64},
		{name: "two dates on a line, as RFC 850 has them", h: http.Header{"Retry-After": {"Monday, 23-Nov-26 17:35:00 GMT, Monday, 23-Nov-26 17:40:00 GMT"}}, want: 600},
		{name: "a date in prose, as fields have it", body: `{"error":{"message":"Please retry after Mon, 23 Nov 2026 18:00:00 GMT."}}`, want: 1800},
		{name: "a date in prose, its zone in brackets", body: `{"error":{"message":"It refreshes at 2026-11-23 18:00:00 (UTC)."}}`, want: 1800},
		{name: "a wait in prose, of several spaces", body: `{"error":{"message":"Please try\u00a0again  in\n80\u202fseconds"}}`, want: 80},
		{name: "a wait in prose, hardly any", body: "{\"error\":{\"message\":\"Try again in 850µs, or in 20us.\"}}", want: 10},
		{name: "a wait in prose, as .NET prints it", body: `{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:20:20."}`, want: 1220},
		{name: "a wait in prose, as .NET prints days", body: `{"message":"Quota will be replenished in 1.02:00:00."}`, want: 21600},
		{name: "a time of day in prose, to the second", body: `{"message":"Quota will be replenished after 10:30:00."}`, want: -1},
		{name: "a wait in prose, resetting", body: `{"message":"Quota exceeded, resetting in 5m"}`, want: 300},
		{name: "a wait in prose, in code", body: "{\"error\":{\"message\":\"Try again in `81s`\"}}", want: 81},
		{name: "a page in a message", body: `{"error":{"message":"\n<!DOCTYPE html><p>Try again in 5 minutes</p>"}}`, want: -1},
		{name: "a span in prose that is for sale", body: `{"error":{"message":"Rate limited. Please wait or buy 30 days of Plus."}}`, want: -1},
		{name: "a span in prose that is offered", body: `{"error":{"message":"Rate limit exceeded, free trial available for 30 days."}}`, want: -1},
		{name: "a span in prose that is the limit", body: `{"error":{"message":"Please try again later, the limit is 5 hours of audio in a day."}}`, want: -1},
		{name: "a span in prose that is a window's", body: `{"error":{"message":"The limit resets daily; 24h usage: 100 %."}}`, want: -1},
		{name: "a span in prose that is over", body: `{"error":{"message":"Your quota was reset 5 hours ago and is used up again."}}`, want: -1},
		{name: "a size in prose", body: `{"error":{"message":"Please try again with less than 5m tokens."}}`, want: -1},
		{name: "a name in prose", body: `{"error":{"message":"Retry, or use another-model-7d."}}`, want: -1},
		{name: "a wait in prose, behind others", body: `{"error":{"message":"Try again later or wait 70 seconds."}}`, want: 70},
		{name: "a wait in prose, of something", body: `{"error":{"message":"Please retry your request after 71 seconds."}}`, want: 71},
		{name: "a wait in prose, at least", body: `{"error":{"message":"You must wait for at least 72 seconds."}}`, want: 72},
		{name: "a wait in prose, at the least", body: `{"error":{"message":"Wait a minimum of 72.5 seconds."}}`, want: 72.5},
		{name: "a wait in prose, about", body: `{"error":{"message":"Available again in approximately ~73 s"}}`, want: 73},
		{name: "a wait in prose, in brackets", body: `{"error":{"message":"Rate limited (retry after: \"74s\")"}}`, want: 74},
		{name: "a wait in prose, as a field", body: `{"error":{"message":"upstream said retry-after 75s"}}`, want: 75},
		{name: "a wait in prose, in marks", body: `{"error":{"message":"Your limit resets in **76 seconds**"}}`, want: 76},
		{name: "a wait in prose, its time", body: `{"error":{"message":"Too many requests, wait time is 77 seconds"}}`, want: 77},
		{name: "a wait in prose, after one has waited", body: `{"error":{"message":"Please try again after waiting for 78 seconds"}}`, want: 78},
		{name: "a wait in prose, under msg", body: `{"msg":"API usage exceeded rate limit, try again in 15.3 secs","result":"error"}`, want: 15.3},
		{name: "how often in prose", body: `{"error":{"message":"You have reached your limit, which resets every 5 hours."}}`, want: -1},
		{name: "how often in prose, and when", body: `{"error":{"message":"Limits reset every 5 hours. Try again in 12 minutes."}}`, want: 720},
		{name: "a passed wait in prose", body: `{"error":{"message":"Retry in -5 s"}}`, want: -1},
		{name: "ISO 8601 duration", h: http.Header{"Retry-After": {"PT1M30.5S"}}, want: 90.5},
		{name: "ISO 8601 duration, of days", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"P1DT2H"}}, want: 21600},
		{name: "ISO 8601 duration, of weeks", h: http.Header{"Retry-After": {"P1W"}}, want: 21600},
		{name: "ISO 8601 duration in a body", body: `{"error":{"retry_after":"pt2m"}}`, want: 120},
		{name: "ISO 8601 duration of nothing", h: http.Header{"Retry-After": {"P", "PT", "P1DT", "PT1D", "P1H", "P-1D", "PT1", "PTS"}}, want: -1},
		{name: "RFC 3339 in lower case", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2026-11-23t17:31:00.5z"}}, want: 60.5},
		{name: "date with an offset, as RFC 5322 has it", h: http.Header{"Retry-After": {"Mon, 23 Nov 2026 18:35:00 +0100"}}, want: 300},
		{name: "date as Python writes it", h: http.Header{"Retry-After": {"Mon, 23 Nov 2026 17:35:00 -0000"}}, want: 300},
		{name: "date with a day of one digit", h: http.Header{"Retry-After": {"Tue, 1 Dec 2026 17:35:00 GMT"}}, want: 21600},
		{name: "date as JavaScript writes it", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"Mon Nov 23 2026 18:33:20 GMT+0100 (Central European Standard Time)"}}, want: 200},
		{name: "duration without a last unit", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2h30"}}, want: -1},
		{name: "date in UTC, in words", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2026-11-23 17:32:00 UTC"}}, want: 120},
		{name: "date in a zone of which the offset is not said", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2026-11-23 18:32:00 CET"}}, want: -1},
		{name: "HTTP-date in another zone", h: http.Header{"Retry-After": {"Monday, 23-Nov-26 17:40:00 EST"}}, want: -1},
		{name: "date with an offset and a fraction", h: http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"2026-11-23T12:30:41.250-05:00"}}, want: 41.25},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			at := c.now
			if at.IsZero() {
				at = now
			}
			first := ParseHint(429, c.h, []byte(c.body), at)
			for range 20 { // maps of fields have no order
				h := ParseHint(429, c.h, []byte(c.body), at)
				if h != first {
					t.Fatalf("%s, and %s", h, first)
				}
				got := -1.0
				if h.Known() {
					got = clampCooldown(h.Wait).Seconds()
				}
				if math.Abs(got-c.want) > 0.001 {
					t.Fatalf("got %v s (%s), want %v", got, h, c.want)
				}
			}
		})
	}
}
