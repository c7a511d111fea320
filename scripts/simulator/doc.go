// Package simulator is an upstream that speaks the APIs of the model providers, rate limits and all, for tests, the demo and the benchmark.
//
// It ends TLS for any host name with certificates of a CA that it makes itself, answers the OpenAI, Anthropic, Gemini and
// GitHub APIs and an OAuth token endpoint in the providers' own shapes, and keeps a journal of every request: when it came,
// over which protocol, with which of the configured credentials, and what it was answered.
//
//	sim, err := simulator.New(simulator.Options{Credentials: []simulator.Credential{
//		{Name: "first", Secret: "sk-first", Behaviour: simulator.Behaviour{Quota: 3, Window: simulator.Duration(12 * time.Second)}},
//	}})
//	err = sim.Start(ctx)
//	defer sim.Close()
//	// dial sim.Addr(), trust sim.CA(), ask sim.Journal()
//
// # What is where
//
// The host decides which API answers: api.openai.com, chatgpt.com and openrouter.ai (OpenAI), api.anthropic.com,
// generativelanguage.googleapis.com, api.github.com, auth.openai.com. On any other host the path does. The paths that test
// transport rather than an API are the same on every host: /echo, /stream, /bytes, /upload, /status/N, /hints, /trailers,
// /reset, /hang, /websocket, /upgrade and gRPC's health service.
package simulator
