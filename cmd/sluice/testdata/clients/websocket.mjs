// Echoes through a WebSocket: text, a large binary message, a subprotocol, a close code.
import { createRequire } from "node:module";
const require = createRequire(process.argv[2]);
const WebSocket = require("ws");

const socket = new WebSocket("wss://api.openai.com/websocket", ["echo"], {
  headers: { authorization: `Bearer ${process.env.OPENAI_API_KEY}` },
});
const large = Buffer.alloc(1 << 20, 7);
let got = 0;
socket.on("open", () => { socket.send("hello"); socket.send(large); });
socket.on("message", (data, binary) => {
  const ok = binary ? large.equals(data) : data.toString() === "hello";
  console.log(binary ? "binary" : "text", ok, socket.protocol);
  if (++got === 2) socket.close(1000, "done");
});
socket.on("close", (code) => console.log("closed", code));
socket.on("error", (error) => { console.log("error", error.message); process.exit(1); });
