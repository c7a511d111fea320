// Drives the Anthropic SDK: node anthropic.mjs messages|messages-stream|count
// The SDK takes key and address from ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL. Prints one JSON object a call.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ maxRetries: 0 });
const request = { model: "claude-simulated", max_tokens: 64, messages: [{ role: "user", content: "Say something." }] };
const calls = {
  async messages() {
    const r = await client.messages.create(request);
    return { text: r.content[0].text, finish: r.stop_reason };
  },
  async "messages-stream"() {
    const stream = client.messages.stream(request);
    let events = 0;
    for await (const _ of stream) events++;
    const r = await stream.finalMessage();
    return { text: r.content[0].text, events, finish: r.stop_reason };
  },
  async count() {
    const { max_tokens: _, ...rest } = request;
    const r = await client.messages.countTokens(rest);
    return { tokens: r.input_tokens };
  },
};

for (const name of process.argv.slice(2)) {
  try {
    console.log(JSON.stringify(await calls[name]()));
  } catch (error) {
    console.log(JSON.stringify({
      error: error.constructor.name, status: error.status, type: error.error?.error?.type, message: error.message,
      retry_after: error.headers?.get?.("retry-after") ?? undefined,
    }));
  }
}
