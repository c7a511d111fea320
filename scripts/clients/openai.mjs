// Drives the openai SDK: node openai.mjs chat|chat-stream|responses|responses-stream|models|begin|go-on:ID|think
// The SDK takes key and address from OPENAI_API_KEY and OPENAI_BASE_URL. Prints one JSON object a call.
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: "Say something." }];
const calls = {
  async chat() {
    const r = await client.chat.completions.create({ model: "gpt-4o", messages });
    return { text: r.choices[0].message.content, finish: r.choices[0].finish_reason };
  },
  async "chat-stream"() {
    const stream = await client.chat.completions.create({
      model: "gpt-4o", messages, stream: true, stream_options: { include_usage: true },
    });
    let text = "", events = 0, finish, tokens;
    for await (const chunk of stream) {
      events++;
      text += chunk.choices[0]?.delta?.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      tokens = chunk.usage?.total_tokens ?? tokens;
    }
    return { text, events, finish, tokens };
  },
  async responses() {
    const r = await client.responses.create({ model: "gpt-4o", input: "Say something." });
    return { text: r.output_text, finish: r.status };
  },
  async "responses-stream"() {
    const stream = client.responses.stream({ model: "gpt-4o", input: "Say something." });
    let events = 0;
    for await (const _ of stream) events++;
    const r = await stream.finalResponse();
    return { text: r.output_text, events, finish: r.status };
  },
  async begin() {
    const r = await client.responses.create({ model: "gpt-4o", input: "Say something." });
    return { id: r.id };
  },
  async "go-on"(id) {
    const r = await client.responses.create({ model: "gpt-4o", input: "Go on.", previous_response_id: id });
    return { text: r.output_text };
  },
  // Two turns without anything stored: the first one's reasoning goes along with the second.
  async think() {
    const include = ["reasoning.encrypted_content"];
    const input = [{ role: "user", content: "Think." }];
    const stream = client.responses.stream({ model: "gpt-4o", input, include, store: false });
    input.push(...(await stream.finalResponse()).output, { role: "user", content: "Go on." });
    const r = await client.responses.create({ model: "gpt-4o", input, include, store: false });
    return { text: r.output_text, items: r.output.length };
  },
  async models() {
    const list = await client.models.list();
    return { text: list.data[0].id };
  },
};

for (const name of process.argv.slice(2)) {
  try {
    const [call, argument] = name.split(":");
    console.log(JSON.stringify(await calls[call](argument)));
  } catch (error) {
    console.log(JSON.stringify({
      error: error.constructor.name, status: error.status, code: error.code, type: error.type, message: error.message,
      retry_after: error.headers?.get?.("retry-after") ?? undefined,
    }));
  }
}
