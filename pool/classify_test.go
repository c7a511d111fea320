package pool

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// TestClassifyAside: what is asked for aside has limits and permissions of its own, and is evidence
// only where it names the account's.
func TestClassifyAside(t *testing.T) {
	t.Parallel()
	const again = `{"error":{"message":"Rate limited. Please try again later.","type":"rate_limit_error"}}`
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		want   Outcome
	}{
		"good":                      {200, nil, "", OutcomeOK},
		"refused at once":           {429, http.Header{"Retry-After": {"0"}}, again, OutcomeOther},
		"refused for long":          {429, http.Header{"Retry-After": {"3000"}}, again, OutcomeOther},
		"a bucket":                  {429, http.Header{"X-Ratelimit-Remaining": {"0"}}, "", OutcomeOther},
		"not for keys":              {401, nil, "", OutcomeOther},
		"not for these scopes":      {403, http.Header{"Retry-After": {"9"}}, "", OutcomeOther},
		"not for this plan":         {402, nil, "", OutcomeOther},
		"the account's five hours":  {429, http.Header{"Anthropic-Ratelimit-Unified-5h-Status": {"rejected"}}, again, OutcomeRateLimited},
		"the account's week":        {429, http.Header{"X-Codex-Secondary-Used-Percent": {"100"}}, "", OutcomeRateLimited},
		"the account's usage limit": {429, nil, `{"error":{"type":"usage_limit_reached"}}`, OutcomeRateLimited},
		"the account's credit":      {429, nil, `{"error":{"type":"insufficient_quota"}}`, OutcomeBilling},
	} {
		got := Classify(Answer{Status: c.status, Header: c.header, Body: []byte(c.body), Aside: true}, time.Unix(1e9, 0))
		if got.Outcome != c.want {
			t.Errorf("%s: %s, want %s", name, got.Outcome, c.want)
		}
	}
}

// TestClassify tells what is about the member from what is about the request.
func TestClassify(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		want   Outcome
	}{
		"403, nothing left":              {403, http.Header{"X-Ratelimit-Remaining": {"0"}}, "", OutcomeRateLimited},
		"403, nothing left of a policy":  {403, http.Header{"Ratelimit": {`"d";r=0;t=80`}}, "", OutcomeRateLimited},
		"403, something left":            {403, http.Header{"X-Ratelimit-Remaining": {"9"}}, `{"message":"Resource not accessible"}`, OutcomeOther},
		"403, a wait":                    {403, http.Header{"Retry-After": {"9"}}, "", OutcomeRateLimited},
		"403, a wait in milliseconds":    {403, http.Header{"Retry-After-Ms": {"9000"}}, "", OutcomeRateLimited},
		"403, azure's wait":              {403, http.Header{"X-Ms-Retry-After-Ms": {"9000"}}, "", OutcomeRateLimited},
		"403, a wait by another name":    {403, http.Header{"X-Rate-Limit-Retry-After-Seconds": {"9"}}, "", OutcomeRateLimited},
		"403, anthropic's five hours":    {403, http.Header{"Anthropic-Ratelimit-Unified-5h-Status": {"rejected"}}, "", OutcomeRateLimited},
		"403, anthropic's aggregate":     {403, http.Header{"anthropic-ratelimit-unified-status": {"rejected"}}, "", OutcomeRateLimited},
		"403, anthropic's extra usage":   {403, http.Header{"Anthropic-Ratelimit-Unified-Status": {"allowed"}, "Anthropic-Ratelimit-Unified-Overage-Status": {"rejected"}}, `{"error":{"type":"permission_error"}}`, OutcomeOther},
		"403, codex's week":              {403, http.Header{"X-Codex-Secondary-Used-Percent": {"100"}}, "", OutcomeRateLimited},
		"403, codex has something left":  {403, http.Header{"X-Codex-Primary-Used-Percent": {"99.9"}, "X-Codex-Secondary-Used-Percent": {"40"}}, `{"detail":"Forbidden"}`, OutcomeOther},
		"403, github":                    {403, nil, `{"message":"API rate limit exceeded for user ID 1."}`, OutcomeRateLimited},
		"403, github's second":           {403, nil, `{"message":"You have exceeded a secondary rate limit."}`, OutcomeRateLimited},
		"403, google's rate":             {403, nil, `{"error":{"errors":[{"domain":"usageLimits","reason":"rateLimitExceeded"}],"code":403}}`, OutcomeRateLimited},
		"403, google's rate of a user":   {403, nil, `{"error":{"errors":[{"domain":"usageLimits","reason":"userRateLimitExceeded"}],"code":403}}`, OutcomeRateLimited},
		"403, google's quota":            {403, nil, `{"error":{"errors":[{"domain":"usageLimits","reason":"quotaExceeded"}],"code":403}}`, OutcomeRateLimited},
		"403, google's day":              {403, nil, `{"error":{"errors":[{"domain":"usageLimits","reason":"dailyLimitExceeded"}],"code":403}}`, OutcomeRateLimited},
		"403, a limit in prose":          {403, nil, `{"message":"Rate limit exceeded"}`, OutcomeRateLimited},
		"403, a limit of the account's":  {403, nil, `{"error":{"type":"usage_limit_reached"}}`, OutcomeRateLimited},
		"403, a key's own limit":         {403, nil, `{"error":{"message":"Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys","code":403}}`, OutcomeRateLimited},
		"403, a subscription's week":     {403, nil, `{"error":{"message":"You've reached your weekly (7-day) usage limit. Your quota will reset when the window ends.","type":"access_terminated_error"}}`, OutcomeRateLimited},
		"403, a subscription's month":    {403, nil, `{"error":{"type":"permission_error","message":"You've reached your usage limit for this billing cycle."},"type":"error"}`, OutcomeRateLimited},
		"403, a team's budget":           {403, nil, `{"code":"x","error":"Your team has either used all available credits or reached its monthly spending limit."}`, OutcomeRateLimited},
		"403, a team's budget in a code": {403, nil, `{"code":"personal-team-blocked:spending-limit","error":"You have run out of credits."}`, OutcomeRateLimited},
		"403, a gateway's quota":         {403, nil, `{"error":{"message":"user quota is not enough","code":"insufficient_user_quota"}}`, OutcomeRateLimited},
		"403, github's in other words":   {403, nil, `{"message":"Your account has exceeded GitHub's API rate limit. Please try again later."}`, OutcomeRateLimited},
		"403, a limit's own wait":        {403, http.Header{"X-Ratelimit-User-Retry-After": {"9"}}, "", OutcomeRateLimited},
		"403, the limit":                 {403, nil, `{"message":"You have exceeded the rate limit."}`, OutcomeRateLimited},
		"403, limits":                    {403, nil, `{"message":"Rate limits exceeded"}`, OutcomeRateLimited},
		"403, a quota by no article":     {403, nil, `{"message":"Exceeded quota for today"}`, OutcomeRateLimited},
		"403, a quota of the account's":  {403, nil, `{"error":{"message":"Your account x is not active, organization <x> exceeded current quota, please check your plan and billing details","type":"exceeded_current_quota_error"}}`, OutcomeRateLimited},
		"403, a quota in a type alone":   {403, nil, `{"error":{"type":"exceeded_current_quota_error"}}`, OutcomeRateLimited},
		"403, a quota that is out":       {403, nil, `{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:20:20."}`, OutcomeRateLimited},
		"403, a quota that is too small": {403, nil, `{"error":{"message":"token quota is not enough","code":"pre_consume_token_quota_failed"}}`, OutcomeRateLimited},
		"403, too many requests":         {403, nil, `{"message":"Too many requests"}`, OutcomeRateLimited},
		"403, a free tier":               {403, nil, `{"error":{"message":"The free tier of the model has been exhausted.","code":"AllocationQuota.FreeTierOnly"}}`, OutcomeRateLimited},
		"403, no credits":                {403, nil, `{"code":"x","error":"Your newly created team doesn't have any credits yet."}`, OutcomeRateLimited},
		"403, limited":                   {403, nil, `{"message":"You are being rate limited.","retry_after":64.57,"global":false}`, OutcomeRateLimited},
		"403, a model that is so called": {403, nil, "{\"error\":{\"message\":\"Project `proj_1` does not have access to model `rate limit exceeded`\",\"code\":\"model_not_found\"}}", OutcomeOther},
		"403, a balance":                 {403, nil, `{"code":30001,"message":"Sorry, your account balance is insufficient"}`, OutcomeRateLimited},
		"403, no permission":             {403, nil, `{"error":{"message":"Insufficient permissions for this operation. Missing scopes: api.quota.read"}}`, OutcomeOther},
		"403, no free tier":              {403, nil, `{"error":{"message":"The free tier is not available in your country."}}`, OutcomeOther},
		"403, no limit but a permission": {403, nil, `{"error":{"type":"permission_error","message":"You have reached a page that your organization does not permit. Its limits are set by an administrator."}}`, OutcomeOther},
		"403, no quota project":          {403, nil, `{"error":{"message":"The API requires a quota project, which is not set by default."}}`, OutcomeOther},
		"403, no permission for limits":  {403, nil, `{"error":{"message":"You may not change rate limits"}}`, OutcomeOther},
		"403, anthropic's rate":          {403, nil, anthropicError("rate_limit_error", "This request would be too much."), OutcomeRateLimited},
		"403, a rate, relayed":           {403, nil, `{"error":{"metadata":{"raw":"{\"type\": \"rate_limit_error\"}"}}}`, OutcomeRateLimited},
		"403, google's status":           {403, nil, `{"error":{"code":403,"status":"RESOURCE_EXHAUSTED"}}`, OutcomeRateLimited},
		"403, a code":                    {403, nil, `{"error":{"code": "too_many_requests"}}`, OutcomeRateLimited},
		"403, a rate that is known":      {403, nil, `{"resources":{"rate_limit":{"remaining":7}},"message":"Set a rate_limit"}`, OutcomeOther},
		"403, nothing left of another's": {403, nil, `{"error":{"code":403,"metadata":{"headers":{"X-RateLimit-Remaining":"0","X-RateLimit-Reset":"1795459200000"}}}}`, OutcomeRateLimited},
		"403, some left of another's":    {403, nil, `{"error":{"code":403,"metadata":{"headers":{"X-RateLimit-Remaining":"4","X-RateLimit-Reset":"1795459200000"}}}}`, OutcomeOther},
		"403, another's wait":            {403, nil, `{"error":{"code":403,"metadata":{"headers":{"Retry-After":["30"]}}}}`, OutcomeRateLimited},
		"403, moderation, nothing left":  {403, nil, `{"error":{"code":403,"metadata":{"flagged_input":"x","headers":{"X-RateLimit-Remaining":"0"}}}}`, OutcomeOther},
		"403, moderation":                {403, nil, `{"error":{"code":403,"message":"Input flagged","metadata":{"reasons":["violence"]}}}`, OutcomeOther},
		"403, moderation quotes a limit": {403, nil, `{"error":{"code":403,"message":"Input flagged","metadata":{"reasons":["x"],"flagged_input":"say: rate limit exceeded"}}}`, OutcomeOther},
		"403, a wall":                    {403, nil, `<!DOCTYPE html><title>Attention Required!</title>`, OutcomeOther},
		"401, the agent's organization":  {401, nil, `{"error":{"message":"OpenAI-Organization header should match organization for API key","type":"invalid_request_error","param":null,"code":"mismatched_organization"}}`, OutcomeOther},
		"401, the agent's project":       {401, nil, `{"error":{"message":"OpenAI-Project header should match project for API key","type":"invalid_request_error","param":null,"code":"mismatched_project"}}`, OutcomeOther},
		"401, no such organization":      {401, nil, `{"error":{"message":"No such organization: Personal.","type":"invalid_request_error","param":null,"code":"invalid_organization"}}`, OutcomeOther},
		"401, the key's organization":    {401, nil, `{"error":{"message":"You do not have access to the organization tied to the API key.","type":"invalid_request_error","param":null,"code":"invalid_organization"}}`, OutcomeAuthFailed},
		"401, an organization in prose":  {401, nil, `{"error":{"message":"not a mismatched_organization","code":"invalid_api_key"}}`, OutcomeAuthFailed},
		"429":                            {429, nil, "", OutcomeRateLimited},
		"429, no credit":                 {429, nil, `{"error":{"type":"insufficient_quota"}}`, OutcomeBilling},
		"429, no credit, a code alone":   {429, nil, `{"error":"insufficient_quota"}`, OutcomeBilling},
		"429, no credit, in capitals":    {429, nil, `{"error":{"code":"INSUFFICIENT_QUOTA"}}`, OutcomeBilling},
		"429, alibaba's minute":          {429, nil, `{"error":{"code":"insufficient_quota","message":"You exceeded your current quota, please check your plan and billing details. For details, see: https://help.aliyun.com/zh/model-studio/error-code#token-limit","param":null,"type":"insufficient_quota"},"request_id":""}`, OutcomeRateLimited},
		"429, no credit in prose":        {429, nil, `{"error":{"message":"not an insufficient_quota"}}`, OutcomeRateLimited},
		"429, no credit, in a detail":    {429, nil, `{"detail":{"error":{"code":"insufficient_quota"}}}`, OutcomeBilling},
		"429, no credit, wrapped":        {429, nil, `{"error":{"error":{"type":"insufficient_quota"}}}`, OutcomeBilling},
		"429, no credit, in a message":   {429, nil, `{"error":{"message":"{\"error\":{\"code\":\"insufficient_quota\"}}"}}`, OutcomeBilling},
		"429, no credit, in a stream":    {429, nil, "event: error\ndata: {\"error\":{\"code\":\"insufficient_quota\"}}\n\n", OutcomeBilling},
		"429, no credit of another's":    {429, nil, `{"error":{"code":429,"metadata":{"raw":"{\"error\":{\"code\":\"insufficient_quota\"}}"}}}`, OutcomeRateLimited},
		"403, no credit":                 {403, nil, `{"code":"insufficient_quota"}`, OutcomeBilling},
		"402":                            {402, nil, `{"error":{"message":"Insufficient Balance"}}`, OutcomeBilling},
		"400, no credit":                 {400, nil, `{"error":{"code":"insufficient_quota"}}`, OutcomeBilling},
		"404, no credit":                 {404, nil, `{"error":{"code":"insufficient_quota"}}`, OutcomeBilling},
		"404":                            {404, http.Header{"Retry-After": {"9"}}, `{"error":{"code":"model_not_found","message":"no insufficient_quota"}}`, OutcomeOther},
		"422, no credit":                 {422, nil, `{"error":{"type":"insufficient_quota"}}`, OutcomeBilling},
		"500, no credit":                 {500, nil, `{"error":{"code":"insufficient_quota"}}`, OutcomeOther},
		"401, no credit":                 {401, nil, `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":401}}`, OutcomeBilling},
		"401":                            {401, nil, "", OutcomeAuthFailed},
		"400, the context is too long":   {400, nil, `{"error":{"code":"context_length_exceeded"}}`, OutcomeOther},
		"400, anthropic's credit":        {400, nil, anthropicError("invalid_request_error", "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."), OutcomeBilling},
		"400, anthropic's own limit":     {400, nil, anthropicError("invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."), OutcomeRateLimited},
		"400, a workspace's own limit":   {400, nil, anthropicError("invalid_request_error", "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."), OutcomeRateLimited},
		"400, anthropic's organization":  {400, nil, anthropicError("invalid_request_error", "This organization has been disabled."), OutcomeAuthFailed},
		"400, openai's hard limit":       {400, nil, `{"error":{"code":"billing_hard_limit_reached","message":"Billing hard limit has been reached.","param":null,"type":"invalid_request_error"}}`, OutcomeBilling},
		"400, what was asked about it":   {400, nil, anthropicError("invalid_request_error", `messages.0: unexpected "Your credit balance is too low"`), OutcomeOther},
		"400, google's key":              {400, nil, `{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}`, OutcomeAuthFailed},
		"400, google's key in a list":    {400, nil, `[{"error":{"code":400,"message":"API key expired. Please renew the API key.","details":[{"reason":"API_KEY_INVALID"}]}}]`, OutcomeAuthFailed},
		"400, xai's key":                 {400, nil, `{"code":"Client specified an invalid argument","error":"Incorrect API key provided: sk***cd. You can obtain an API key from https://console.x.ai."}`, OutcomeAuthFailed},
		"400, xai's other complaints":    {400, nil, `{"code":"Client specified an invalid argument","error":"The model says: Incorrect API key provided"}`, OutcomeOther},
		"400, groq's organization":       {400, nil, `{"error":{"message":"Organization has been restricted. Please reach out to support if you believe this was in error.","type":"invalid_request_error","code":"organization_restricted"}}`, OutcomeAuthFailed},
		"400, alibaba's debts":           {400, nil, `{"error":{"message":"Access denied, please make sure your account is in good standing.","type":"Arrearage","param":null,"code":"Arrearage"},"request_id":"x"}`, OutcomeBilling},
		"400, alibaba's debts, its own":  {400, nil, `{"code":"Arrearage","message":"Access denied, plesase make sure your account is in good standing.","request_id":"x"}`, OutcomeBilling},
		"403, amazon's key":              {403, nil, `{"Message":"Authentication failed: Please make sure your API Key is valid."}`, OutcomeAuthFailed},
		"403, amazon's models":           {403, nil, `{"message":"You don't have access to the model with the specified model ID."}`, OutcomeOther},
		"403, google's suspension":       {403, nil, `{"error":{"code":403,"message":"Permission denied: Consumer 'api_key:x' has been suspended.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"CONSUMER_SUSPENDED","domain":"googleapis.com"}]}}`, OutcomeAuthFailed},
		"403, a request's own project":   {403, nil, `{"error":{"code":403,"message":"Permission denied: Consumer 'projects/x' has been suspended.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"CONSUMER_SUSPENDED"}]}}`, OutcomeOther},
		"403, google's service":          {403, nil, `{"error":{"code":403,"message":"Generative Language API has not been used in project 1 before or it is disabled.","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"SERVICE_DISABLED"}]}}`, OutcomeOther},
		"403, a token that is revoked":   {403, nil, anthropicError("permission_error", "OAuth token has been revoked. Please obtain a new token."), OutcomeAuthFailed},
		"403, no accounts":               {403, nil, anthropicError("permission_error", "OAuth authentication is currently not allowed for this organization."), OutcomeAuthFailed},
		"403, a key that is known":       {403, nil, `{"error":{"code":403,"message":"Your API key was reported as leaked. Please use another API key.","status":"PERMISSION_DENIED"}}`, OutcomeAuthFailed},
		"403, a project":                 {403, nil, `{"error":{"code":403,"message":"Your project has been denied access. Please contact support.","status":"PERMISSION_DENIED"}}`, OutcomeAuthFailed},
		"403, from here":                 {403, nil, `{"error":{"type":"forbidden","message":"Request not allowed"}}`, OutcomeOther},
		"429, a context that is not had": {429, nil, anthropicError("rate_limit_error", "Extra usage is required for long context requests."), OutcomeOther},
		"429, the same in other words":   {429, nil, anthropicError("rate_limit_error", "Usage credits are required for long context requests."), OutcomeOther},
		"429, more than the limit holds": {429, nil, `{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Requested 36278. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`, OutcomeOther},
		"429, what the limit has left":   {429, nil, `{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 18928, Requested 11159. Please try again in 174ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`, OutcomeRateLimited},
		"429, a context and the window":  {429, http.Header{"Anthropic-Ratelimit-Unified-5h-Status": {"rejected"}}, anthropicError("rate_limit_error", "Extra usage is required for long context requests."), OutcomeRateLimited},
		"404, codex's window":            {404, nil, `{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached","resets_in_seconds":1800}}`, OutcomeRateLimited},
		"404, codex's window, a code":    {404, nil, `{"detail":{"code":"usage_limit_reached"}}`, OutcomeRateLimited},
		"404, codex's window in prose":   {404, nil, `{"error":{"message":"The model usage_limit_reached does not exist","resets_in_seconds":1800}}`, OutcomeOther},
		"404, codex has no such plan":    {404, nil, `{"error":{"code":"usage_not_included"}}`, OutcomeOther},
		"404, a rate":                    {404, nil, `{"error":{"code":"rate_limit_exceeded"}}`, OutcomeOther},
		"400, codex's window":            {400, nil, `{"error":{"type":"usage_limit_reached"}}`, OutcomeRateLimited},
		"401, codex's window":            {401, nil, `{"error":{"type":"usage_limit_reached"}}`, OutcomeAuthFailed},
		"402, codex's window":            {402, nil, `{"error":{"type":"usage_limit_reached"}}`, OutcomeBilling},
		"500, codex's window":            {500, nil, `{"error":{"type":"usage_limit_reached"}}`, OutcomeOther},
		"404, nothing left":              {404, http.Header{"X-Ratelimit-Remaining": {"0"}}, "", OutcomeOther},
		"413, more than the limit holds": {413, http.Header{"Retry-After": {"9"}}, `{"error":{"code":"rate_limit_exceeded"}}`, OutcomeOther},
		"503":                            {503, http.Header{"Retry-After": {"9"}}, `{"error":{"code":"rate_limit_exceeded"}}`, OutcomeOther},
		"529":                            {529, http.Header{"Retry-After": {"9"}}, `{"error":{"type":"overloaded_error"}}`, OutcomeOther},
	} {
		v := Classify(Answer{Status: c.status, Header: c.header, Body: []byte(c.body)}, time.Unix(1795455000, 0))
		if v.Outcome != c.want {
			t.Errorf("%s: %s, want %s", name, v.Outcome, c.want)
		}
	}
}

func anthropicError(kind, message string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q},"request_id":"req_1"}`, kind, message)
}

// TestUsedUpForAnHour: how long a plan's window is used up is read whatever the status.
func TestUsedUpForAnHour(t *testing.T) {
	t.Parallel()
	body := `{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached","plan_type":"plus","resets_at":1795458600}}`
	if v := Classify(Answer{Status: 404, Body: []byte(body)}, time.Unix(1795455000, 0)); v.Hint.Wait != time.Hour {
		t.Errorf("%s: %s", v.Hint.Wait, v.Hint)
	}
}

// TestRegainedAccess: the end of a limit that Anthropic's customer has set is in its message alone.
func TestRegainedAccess(t *testing.T) {
	t.Parallel()
	body := anthropicError("invalid_request_error", "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.")
	now := time.Date(2026, 11, 30, 22, 0, 0, 0, time.UTC)
	if v := Classify(Answer{Status: 400, Body: []byte(body)}, now); v.Hint.Wait != 2*time.Hour {
		t.Errorf("%s: %s", v.Hint.Wait, v.Hint)
	}
}
