package pool

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Outcome is what an answer says about the member it was sent with.
type Outcome uint8

const (
	// OutcomeOther is no evidence for or against the member: errors of the request,
	// of the server (5xx) or of its load (529).
	OutcomeOther Outcome = iota
	// OutcomeOK is a good answer.
	OutcomeOK
	// OutcomeRateLimited means that the member's rate or quota is used up.
	OutcomeRateLimited
	// OutcomeAuthFailed means that the credential is not accepted.
	OutcomeAuthFailed
	// OutcomeBilling means that the account has no credit.
	OutcomeBilling
)

// Refused says whether the member is out after this answer.
func (o Outcome) Refused() bool { return o >= OutcomeRateLimited }

func (o Outcome) String() string {
	return [...]string{"other", "ok", "rate_limited", "auth_failed", "billing"}[o]
}

// Verdict is what was made of an answer.
type Verdict struct {
	Outcome Outcome
	Status  int
	Hint    Hint
	// Rejected is what a token endpoint said of the refresh token, "" if it was not asked.
	Rejected string
	wait     time.Duration // with Rejected: until it is asked again
}

// NeedsBody says whether an answer with this status is judged by its body too.
func NeedsBody(status int) bool { return status >= 400 && status < 500 }

// limitNamed finds in a 403's body that a limit or a quota is used up, or what was paid
// for: rate_limit_exceeded is rateLimitExceeded at Google's and "Key limit exceeded" at
// OpenRouter's, Kimi has it the other way round, "reached your weekly usage limit", new-api
// says "quota is not enough", and DashScope that the free tier "has been exhausted". A name
// alone, as Anthropic's rate_limit_error is, has to be the whole value: prose speaks of limits, too.
var limitNamed = regexp.MustCompile(`(?i)(?:limits?|quotas?)[ _-]?(?:(?:is|are|was|were|has been|have been|has|have) )?(?:exceeded|reached|exhausted|used up|hit\b|run out|not[ _]enough)` +
	`|insufficient[ _-]?(?:user[ _-]?)?(?:quota|credits?|balance|funds)|(?:secondary[ _-]?rate|spending)[ _-]?limit` +
	`|(?:reached|exceeded|hit)[ _](?:(?:the|an?|your|its|[a-z]+'s) [^.]{0,40}?|(?:[a-z]+[ _]){0,2}?)(?:limits?|quotas?)(?:\b|_)` +
	`|too[ _-]?many[ _-]?requests|(?:any|no|out[ _]of)[ _](?:[a-z]+ ){0,2}(?:quota|credits)\b|(?:balance|credits?) (?:is|are) (?:insufficient|not enough|too low)` +
	`|free tier [^.]{0,40}?exhausted|\brate[ _-]?limited\b|:\s*\\?"(?:(?:rate|usage)[_-]?limit(?:[_-]?error)?|RESOURCE_EXHAUSTED)\\?"`)

// inMarks is what a request has named: OpenAI puts such marks around a model to which a project has no access.
var inMarks = regexp.MustCompile("`[^`]*`")

// Classify judges an answer. It is pure; now is the local clock at which the answer came.
func Classify(a Answer, now time.Time) Verdict {
	v := Verdict{Status: a.Status}
	if a.Aside && a.Status >= 400 && !spent(a) {
		return v
	}
	switch {
	case a.Status == http.StatusSwitchingProtocols, a.Status >= 200 && a.Status < 400:
		v.Outcome = OutcomeOK
		return v
	case a.Status == http.StatusUnauthorized:
		v.Outcome = OutcomeAuthFailed
		switch {
		case notOfTheAccount(a.Body):
			v.Outcome = OutcomeOther
		case noCredit(a.Body): // of a key that is accepted
			v.Outcome = OutcomeBilling
		}
		return v
	case a.Status == http.StatusPaymentRequired:
		v.Outcome = OutcomeBilling
		return v
	case !NeedsBody(a.Status):
		return v
	}
	if !a.At.IsZero() {
		now = a.At
	}
	if v.Outcome = outcomeOf(a); v.Outcome == OutcomeRateLimited {
		v.Hint = a.hint(now)
	}
	return v
}

// hint reads an answer's hint. What came in the midst of it is newer than its header section, which counts from when that came:
// only a fixed window that was spent by then has to pass as well.
func (a Answer) hint(now time.Time) Hint {
	if a.Begun.IsZero() {
		return ParseHint(a.Status, a.Header, a.Body, now)
	}
	since := max(0, now.Sub(a.Begun))
	ref := reference(a.Header, a.Begun)
	said, before := parseHint(nil, a.Body, ref.Add(since)), parseHint(a.Header, nil, ref)
	before.Wait -= since
	if before.Wait > 0 && (!said.Known() || before.class == hintFirm && (said.class < hintFirm || said.Wait < before.Wait)) {
		return before
	}
	return said
}

// outcomeOf judges an answer whose status does not tell. A plan's window that is used up is one whatever the
// status: ChatGPT's backend has said so with 404.
func outcomeOf(a Answer) Outcome {
	if noCredit(a.Body) {
		return OutcomeBilling
	}
	about := said(a.Body)
	switch {
	case usedUp(a.Body):
		return OutcomeRateLimited
	case a.Status == http.StatusBadRequest:
		return about.account
	case a.Status != http.StatusTooManyRequests && a.Status != http.StatusForbidden:
		return OutcomeOther
	case a.Status == http.StatusTooManyRequests && about.request && len(rejectedWindows(a.Header)) == 0:
		return OutcomeOther
	case a.Status == http.StatusTooManyRequests, limited(a.Header, a.Body):
		return OutcomeRateLimited
	}
	return about.account
}

// NotAccepted says whether an answer is that to a credential which the API does not take, or no longer.
func NotAccepted(a Answer) bool {
	switch a.Status {
	case http.StatusUnauthorized:
		return true
	case http.StatusBadRequest, http.StatusForbidden:
		return said(a.Body).account == OutcomeAuthFailed
	}
	return false
}

// saying is what an error is about, in spite of the status that it comes with.
type saying struct {
	begins  []byte  // its message, its code, or a reason in its details; what a request holds is never repeated there
	account Outcome // of the account, not of the request
	request bool    // of the request, not of the account
}

// sayings are of providers that have one status for what is wrong with a request and with an account. Anthropic answers 400 where an account has
// no credit, and 429 where a plan does not have the context that a model is asked for with, whatever is left of it. OpenAI answers 429 to a
// request that is more than a whole minute of its limit holds: no wait helps it, and it would take the members out one after the other.
var sayings = []saying{
	{begins: []byte("Your credit balance is too low"), account: OutcomeBilling},
	{begins: []byte("Billing hard limit has been reached"), account: OutcomeBilling},
	{begins: []byte("You have reached your specified "), account: OutcomeRateLimited},
	{begins: []byte("This organization has been disabled"), account: OutcomeAuthFailed},
	{begins: []byte("OAuth token has been revoked"), account: OutcomeAuthFailed},
	{begins: []byte("OAuth authentication is currently not allowed"), account: OutcomeAuthFailed},
	{begins: []byte("API_KEY_INVALID"), account: OutcomeAuthFailed},
	{begins: []byte("Your API key was reported as leaked"), account: OutcomeAuthFailed},
	{begins: []byte("Your project has been denied access"), account: OutcomeAuthFailed},
	{begins: []byte("Permission denied: Consumer 'api_key:"), account: OutcomeAuthFailed},                // suspended; another consumer may be a project that the request names
	{begins: []byte("Incorrect API key provided"), account: OutcomeAuthFailed},                           // xAI
	{begins: []byte("Authentication failed: Please make sure your API Key"), account: OutcomeAuthFailed}, // Amazon Bedrock
	{begins: []byte("organization_restricted"), account: OutcomeAuthFailed},                              // Groq
	{begins: []byte("Arrearage"), account: OutcomeBilling},                                               // Alibaba
	{begins: []byte("Extra usage is required for long context"), request: true},
	{begins: []byte("Usage credits are required for long context"), request: true},
	{begins: []byte("Request too large for "), request: true},
}

// said finds what an error is about; the zero value if it says nothing known.
func said(body []byte) saying {
	if !slices.ContainsFunc(sayings, func(s saying) bool { return bytes.Contains(body, s.begins) }) { // nearly always: nothing is parsed
		return saying{}
	}
	root, _ := parseBody(body)
	var room [maxFaults]object
	for _, o := range faults(room[:0], root) {
		all := []string{text(o, "message"), text(o, "Message"), text(o, "error"), text(o, "code")}
		details, _ := o["details"].([]any)
		for _, d := range details {
			detail, _ := d.(map[string]any)
			all = append(all, text(detail, "reason")) // google.rpc.ErrorInfo
		}
		for _, s := range sayings {
			if slices.ContainsFunc(all, func(words string) bool { return strings.HasPrefix(words, string(s.begins)) }) {
				return s
			}
		}
	}
	return saying{}
}

// limited says whether a 403 is about a limit: GitHub and others use it so. To say how long
// to wait, or that a window is spent, means that, in whatever field it is said, also of those
// that the body passes on.
func limited(h http.Header, body []byte) bool {
	if fieldsLimit(h) {
		return true
	}
	root, _ := parseBody(body)
	var room [maxFaults]object
	all := faults(room[:0], root)
	if quotesInput(all) {
		return false
	}
	return fieldsLimit(echoedFields(all)) || limitNamed.Match(inMarks.ReplaceAll(body[:min(len(body), MaxAnswerBody)], nil))
}

// fieldsLimit says whether there is a wait or a spent window among fields.
func fieldsLimit(h http.Header) bool {
	for _, wait := range [...]string{"retry-after", "retry-after-ms", "x-ms-retry-after-ms"} {
		if len(fieldLines(h, wait)) > 0 {
			return true
		}
	}
	for name := range h {
		if isLimitsRetryAfter(name) {
			return true
		}
	}
	return len(rejectedWindows(h)) > 0 || len(spentWindows(h)) > 0 || slices.ContainsFunc(quotaWindows(h), quotaWindow.spent)
}

// quotesInput says whether an error has in it what was sent: OpenRouter's moderation says so what it
// objects to. An agent that is made to send the words for a limit must not take every member out.
func quotesInput(all []object) bool {
	return slices.ContainsFunc(all, func(o object) bool {
		return child(o, "metadata")["flagged_input"] != nil
	})
}

// spent says whether an answer names a window of the account's that is used up, or its credit.
func spent(a Answer) bool {
	return len(rejectedWindows(a.Header)) > 0 || len(spentWindows(a.Header)) > 0 || noCredit(a.Body) || usedUp(a.Body)
}

// usedUp says whether an error is that of a plan's window that is used up.
func usedUp(body []byte) bool {
	if !bytes.Contains(body, []byte("usage_limit_reached")) { // nearly always: nothing is parsed
		return false
	}
	root, _ := parseBody(body)
	var room [maxFaults]object
	return namesUsageLimit(faults(room[:0], root))
}

// noCredit says whether an error is that of an account whose credit is spent. Alibaba has OpenAI's words for its limits of a minute, too, and
// then names where those are explained.
func noCredit(body []byte) bool {
	return hasCode(body, "insufficient_quota") && !bytes.Contains(body, []byte("error-code#token-limit"))
}

// notOfTheAccount says of a 401 that it is for the request's own OpenAI-Organization or OpenAI-Project, which is not the
// key's or not at all: an agent that has one set would take every member out, for everybody. A key whose own organization
// is closed to it is told invalid_organization as well, in other words.
func notOfTheAccount(body []byte) bool {
	return hasCode(body, "mismatched_organization", "mismatched_project") ||
		hasCode(body, "invalid_organization") && bytes.Contains(body, []byte("No such organization"))
}

// hasCode looks at the error's type and code, not at its prose: a
// message may mention the word.
func hasCode(body []byte, codes ...string) bool {
	root, ok := parseBody(body)
	if !ok {
		return false
	}
	var room [maxFaults]object
	for _, o := range faults(room[:0], root) { // of the member itself: an upstream's upstream has accounts of its own
		for _, key := range []string{"type", "code", "error"} { // some have the code alone for an error
			if slices.ContainsFunc(codes, func(c string) bool { return strings.EqualFold(text(o, key), c) }) {
				return true
			}
		}
	}
	return false
}

const (
	authFailed  = "authentication failed"
	rateLimited = "rate limit"
)

// cause is what happened, for people: "rate limit (429)".
func (v Verdict) cause() string {
	what := map[Outcome]string{
		OutcomeRateLimited: rateLimited, OutcomeAuthFailed: authFailed, OutcomeBilling: "out of credit",
	}[v.Outcome]
	if v.Rejected != "" {
		return fmt.Sprintf("%s (%s)", what, v.Rejected)
	}
	return fmt.Sprintf("%s (%d)", what, v.Status)
}

// hint is what the upstream said of its end, if that is what the cooldown follows.
func (v Verdict) hint() string {
	if v.Outcome == OutcomeRateLimited && v.Hint.Known() {
		return v.Hint.String()
	}
	return ""
}

// reason is both: "rate limit (429): retry-after 120".
func (v Verdict) reason() string {
	if hint := v.hint(); hint != "" {
		return v.cause() + ": " + hint
	}
	return v.cause()
}
