// Node's own fetch: fetch.mjs does plain and streaming, fetch.mjs stream the latter only.
for (const stream of process.argv[2] === "stream" ? [true] : [false, true]) {
  const answer = await fetch("https://api.openai.com/v1/chat/completions", {
    method: "POST",
    headers: { authorization: `Bearer ${process.env.OPENAI_API_KEY}`, "content-type": "application/json" },
    body: JSON.stringify({ model: "m", stream, messages: [{ role: "user", content: "hello" }] }),
  });
  if (!stream) {
    console.log(answer.status, (await answer.json()).choices[0].message.content);
    continue;
  }
  let text = "";
  for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) text += piece;
  console.log(answer.status, text.trim().endsWith("data: [DONE]"));
}
